//! A node that loses shards: what was its sagas' is another node's, and its other sagas go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use orchestrator::{Call, RustSaga, Status, StepError, Steps, no_undo};
use serde_json::json;
use tokio::sync::Semaphore;

use super::world::World;

/// One step, which is `quick`, `slow` (answers when it is let), `unclear` (never answers clearly) or
/// both of these.
struct OneStep {
    calls: AtomicU32,
    gate: Semaphore,
}

impl OneStep {
    fn new() -> Arc<OneStep> {
        Arc::new(OneStep { calls: AtomicU32::new(0), gate: Semaphore::new(0) })
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn ask(self: Arc<Self>, call: Call<String>) -> Result<(), StepError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match call.input.as_str() {
            "unclear" => return Err(StepError::Unclear("who knows".to_owned())),
            "slow" => self.gate.acquire().await?.forget(),
            "slow and unclear" => {
                self.gate.acquire().await?.forget();
                return Err(StepError::Unclear("who knows".to_owned()));
            }
            _ => {}
        }
        Ok(())
    }
}

impl RustSaga for OneStep {
    type Input = String;
    const NAME: &'static str = "one-step";

    fn steps() -> Steps<Self> {
        Steps::new().step("ask", Self::ask, no_undo("there is nothing to undo"))
    }
}

/// A saga `s` whose one call is under way.
async fn under_way(input: &str) -> (Arc<OneStep>, World) {
    let saga = OneStep::new();
    let world = World::with(&saga).await;
    world.begin("one-step", "s", json!(input)).await;
    until(async || saga.calls() == 1).await;
    (saga, world)
}

impl World {
    async fn wake_us(&self, id: &str) -> i64 {
        let query = bus::sql("select wake_at_us from saga where id = $1").bind(id.to_owned());
        sqlx::Row::get(&self.db.fetch_optional(query).await.unwrap().unwrap(), 0)
    }
}

/// Waits until `holds`, for at most 10 s.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to be in 10 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_a_saga_neither_asks_for_it_nor_writes_of_it() {
    for round in 0..10 {
        let saga = OneStep::new();
        let world = World::with(&saga).await;
        world.begin("one-step", "s", json!("unclear")).await;
        // It waits for its next attempt, in memory.
        until(async || world.wake_us("s").await > 0).await;
        world.hand_away("s").await;
        let (wake_us, calls) = (world.wake_us("s").await, saga.calls());
        if wake_us == 0 {
            continue; // The attempt was made before.
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((world.wake_us("s").await, saga.calls()), (wake_us, calls), "round {round}");
        return;
    }
    panic!("the attempt was always made before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_for_sagas_of_another_node_hold_up_none_of_its_own() {
    let (saga, world) = under_way("slow").await;
    world.hand_away("s").await;
    // It looks whose they are, and finds that this one is another's.
    tokio::time::sleep(Duration::from_secs(4)).await;
    saga.gate.add_permits(1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    for n in 0..20 {
        let id = format!("quick{n}");
        world.begin("one-step", &id, json!("quick")).await;
        if bus::partition_of_key(&id) != bus::partition_of_key("s") {
            assert_eq!(world.rests(&id).await, Status::Completed, "{id}");
        }
    }
    assert_eq!(world.state("s").await.status, Status::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_of_sagas_that_end_on_the_node_that_took_them_over() {
    let (saga, world) = under_way("slow").await;
    let first = world.engine.clone();
    let waits = tokio::spawn(async move {
        let started = tokio::time::Instant::now();
        let pending = first.wait(&["s".to_owned()], Duration::from_secs(20)).await.unwrap();
        (pending, started.elapsed())
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (_second, _running) = world.another_takes_over().await;
    saga.gate.add_permits(2);
    let (pending, took) = waits.await.unwrap();
    assert!(pending.is_empty(), "{pending:?}");
    assert!(took < Duration::from_secs(15), "it was told after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_started_while_shards_move_is_refused_to_nobody() {
    let saga = OneStep::new();
    let world = World::with(&saga).await;
    let ids: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    // It does not know yet.
    world.hand_away("s0").await;
    let begin = |id| world.begin("one-step", id, json!("quick"));
    futures::future::join_all(ids.iter().map(|id| begin(id))).await;
    let lost = bus::partition_of_key("s0");
    for id in &ids {
        if bus::partition_of_key(id) == lost {
            assert!(world.wake_us(id).await > 0, "{id} is there for its node to find");
        } else {
            assert_eq!(world.rests(id).await, Status::Completed, "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unclear_end_of_an_attempt_before_the_shard_left_is_none_of_the_one_after() {
    let (saga, world) = under_way("slow and unclear").await;
    world.hand_away("s").await;
    world.hand_back("s").await;
    until(async || saga.calls() == 2).await;
    saga.gate.add_permits(1); // The first of them is let go first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(saga.calls(), 2, "the second is still waited for");
    saga.gate.add_permits(1);
    until(async || saga.calls() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_goes_on_whose_start_was_written_although_nobody_was_told_so() {
    let world = World::on_file().await;
    world.define("saga: nap\nsteps:\n  - { step: nap, sleep: 1ms }\n").await;
    world.begin("nap", "model", json!({})).await;
    assert_eq!(world.rests("model").await, Status::Completed);
    // Nobody can write until the engine has given up; what it wanted to write is there then.
    let mut tx = world.db.begin().await.unwrap();
    let new = orchestrator::NewSaga {
        definition: "nap".to_owned(),
        id: Some("s".to_owned()),
        input: json!({}),
        by: "test".to_owned(),
        ..orchestrator::NewSaga::default()
    };
    let refused = world.engine.start(new).await;
    assert!(matches!(refused, Err(orchestrator::StartError::Unavailable(_))), "{refused:?}");
    let columns = "definition, version, input, created_at_us, created_by";
    let query = bus::built(format!(
        "insert into saga (id, status, wake_at_us, shard, {columns})
         select 's', 'running', 0, $1, {columns} from saga where id = 'model'"
    ));
    tx.execute(query.bind(bus::partition_of_key("s"))).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.rests("s").await, Status::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_is_taken_up_at_once_in_whatever_shard() {
    let saga = OneStep::new();
    let world = World::with(&saga).await;
    let last = bus::PARTITIONS - 1;
    let id = (0..).map(|n| format!("s{n}")).find(|id| bus::partition_of_key(id) == last).unwrap();
    world.begin("one-step", &id, json!("slow")).await;
    until(async || saga.calls() == 1).await;
    let (_second, _running) = world.another_takes_over().await;
    // Not after a second for each shard before it.
    until(async || saga.calls() == 2).await;
}
