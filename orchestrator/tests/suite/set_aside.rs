//! A saga that the database does not take is set aside, and holds up nobody.

use orchestrator::planner::{Command, Input};
use orchestrator::{InputError, Status};
use serde_json::json;

use super::world::World;

const WAITS: &str = "
saga: waits
steps:
  - { step: w, wait_for: { signal: go } }
  - { step: say, publish: com.acme.said, no_undo: said }
";

impl World {
    /// From now on the database takes no journal of `bad` that says that it is completed.
    async fn refuses_that_bad_completes(&self) {
        self.script(
            "create trigger no_bad before insert on saga_journal
             when new.saga = 'bad' and new.entries like '%completed%'
             begin select raise(abort, 'not that one'); end",
            "alter table saga_journal add constraint no_bad
             check (saga <> 'bad' or entries not like '%completed%')",
        )
        .await;
    }

    async fn takes_all_again(&self) {
        let postgres = "alter table saga_journal drop constraint no_bad";
        self.script("drop trigger no_bad", postgres).await;
    }

    async fn person(&self, id: &str, command: Command) -> Result<(), InputError> {
        self.engine.input(id, Input::Operator { command, by: "ann".to_owned() }).await
    }

    async fn retry(&self, id: &str) -> Result<(), InputError> {
        self.person(id, Command::Retry { reason: None }).await
    }

    async fn assert_set_aside(&self, id: &str) {
        let state = self.state(id).await;
        assert_eq!(state.status, Status::Stuck, "{:?}", state.error);
        let error = state.error.unwrap();
        assert!(error.contains("it cannot be moved: the database"), "{error}");
        assert_eq!(error.matches("cannot be moved").count(), 1, "it is told once: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_written_is_stuck_and_all_others_go_on() {
    let world = World::start().await;
    world.define(WAITS).await;
    world.refuses_that_bad_completes().await;
    let ids: Vec<String> = (0..60).map(|n| format!("s{n}")).chain(["bad".to_owned()]).collect();
    let ids = ids.iter().map(String::as_str);
    futures::future::join_all(ids.clone().map(|id| world.begin("waits", id, json!({})))).await;
    // Many of them are moved together with the one.
    let live = async |id: &str| match (id, world.signal(id, "go").await) {
        ("bad", told) => assert!(matches!(told, Err(InputError::Refused(_))), "{told:?}"),
        (_, told) => told.unwrap(),
    };
    futures::future::join_all(ids.clone().map(live)).await;
    for id in ids.filter(|id| *id != "bad") {
        assert_eq!(world.rests(id).await, Status::Completed, "{id}");
    }
    world.assert_set_aside("bad").await;
    // So it is after a restart, and a person can do something about it.
    let world = world.restart().await;
    world.begin("waits", "after", json!({})).await;
    world.signal("after", "go").await.unwrap();
    assert_eq!(world.rests("after").await, Status::Completed);
    world.assert_set_aside("bad").await;
    world.retry("bad").await.unwrap();
    assert!(world.signal("bad", "go").await.is_err());
    world.assert_set_aside("bad").await;
    world.takes_all_again().await;
    world.retry("bad").await.unwrap();
    world.signal("bad", "go").await.unwrap();
    assert_eq!(world.rests("bad").await, Status::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_even_begin_is_there_and_can_be_given_up() {
    let world = World::start().await;
    world
        .define("saga: says\nsteps:\n  - { step: say, publish: com.acme.said, no_undo: x }\n")
        .await;
    world.refuses_that_bad_completes().await;
    let begin = async |id: &str| world.begin("says", id, json!({})).await;
    futures::future::join_all(["a", "bad", "b", "c"].map(begin)).await;
    for id in ["a", "b", "c"] {
        assert_eq!(world.rests(id).await, Status::Completed, "{id}");
    }
    world.assert_set_aside("bad").await;
    assert!(world.retry("bad").await.is_err(), "it still cannot be written");
    world.assert_set_aside("bad").await;
    world.person("bad", Command::Abandon { reason: "x".to_owned() }).await.unwrap();
    assert_eq!(world.rests("bad").await, Status::Abandoned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_over_the_database_is_taken_again_with_a_retry() {
    let world = World::start().await;
    world.define(WAITS).await;
    world
        .define("saga: parent\nsteps:\n  - { step: sub, saga: waits, undo: { publish: com.acme.no } }\n")
        .await;
    world.refuses_that_bad_completes().await;
    world.begin("parent", "bad", json!({})).await;
    let child = "bad:sub";
    while world.engine.read(child).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    world.signal(child, "go").await.unwrap();
    assert_eq!(world.rests(child).await, Status::Completed);
    assert_eq!(world.rests("bad").await, Status::Stuck, "the answer of its child is not taken");
    world.takes_all_again().await;
    world.retry("bad").await.unwrap();
    assert_eq!(world.rests("bad").await, Status::Completed);
}
