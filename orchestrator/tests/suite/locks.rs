//! Semantic locks: those that wait leave memory, and a lock that nobody lets go of is handed on.

use bus::sql;
use orchestrator::{State, Status};
use serde_json::json;
use sqlx::Row;

use super::world::World;

const HOLDS: &str = "
saga: holds
lock: ['{{ input }}']
steps:
  - { step: w, wait_for: { signal: go } }
";

impl World {
    /// Starts sagas that want the same lock, one after the other.
    async fn queue(&self, ids: &[&str]) {
        for (at, id) in ids.iter().enumerate() {
            self.begin("holds", id, json!("l")).await;
            self.rows("select saga from saga_lock", &ids[..1]).await;
            self.rows("select saga from saga_lock_queue order by id", &ids[1..][..at]).await;
        }
    }

    async fn until(&self, id: &str, is_so: impl Fn(&State) -> bool) {
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while !is_so(&self.state(id).await) {
            assert!(tokio::time::Instant::now() < until, "{id}: {:?}", self.state(id).await);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Waits until the texts of a query are these.
    async fn rows(&self, query: &'static str, wanted: &[&str]) {
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let rows = self.db.fetch_all(sql(query)).await.unwrap();
            let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            if found == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "{query}: {found:?}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn ends(&self, id: &str) {
        self.until(id, |state| !state.cells.is_empty()).await;
        self.signal(id, "go").await.unwrap();
        assert_eq!(self.rests(id).await, Status::Completed, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_had_in_order_by_one_at_a_time_and_waiting_is_a_row() {
    let world = World::start().await;
    world.define(HOLDS).await;
    world.queue(&["a", "b", "c"]).await;
    let waits = "select id from saga where wake_at_us = 9223372036854775807 order by id";
    world.rows(waits, &["a", "b", "c"]).await;
    let world = world.restart().await;
    for id in ["a", "b", "c"] {
        world.rows("select saga from saga_lock", &[id]).await;
        world.ends(id).await;
    }
    world.rows("select saga from saga_lock", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_cancelled_while_it_waits_is_passed_over() {
    let world = World::start().await;
    world.define(HOLDS).await;
    world.queue(&["a", "b", "c"]).await;
    let command = orchestrator::planner::Command::Cancel { reason: None };
    let input = orchestrator::planner::Input::Operator { command, by: "ann".to_owned() };
    world.engine.input("b", input).await.unwrap();
    assert_eq!(world.rests("b").await, Status::Cancelled);
    world.ends("a").await;
    world.ends("c").await;
    world.rows("select saga from saga_lock", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_nobody_lets_go_of_is_handed_on() {
    let world = World::start().await;
    world.define(HOLDS).await;
    world.queue(&["a", "b", "c", "d", "e"]).await;
    // Nobody has it: whoever let go had not seen that others wait.
    let nobody = "delete from saga_lock";
    world.script(nobody, nobody).await;
    world.ends("b").await;
    // One has it that has ended, or is not even there any more; one waits that has ended.
    for (holder, next) in [("b", "d"), ("none", "e")] {
        world.until(if holder == "b" { "c" } else { "d" }, |state| !state.cells.is_empty()).await;
        let ended = format!("update saga_lock set saga = '{holder}'");
        world.script(&ended, &ended).await;
        world.until(next, |state| !state.cells.is_empty()).await;
    }
    let queued = "insert into saga_lock_queue (name, saga) values ('l', 'b')";
    world.script(queued, queued).await;
    world.ends("e").await;
    world.begin("holds", "f", json!("l")).await;
    world.ends("f").await;
}
