//! Sagas written in Rust, on an engine with a database: they end, through refusals, panics and
//! engines that stop in the middle.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestrator::{Call, RustSaga, Status, StepError, Steps, Undo, step, undo};
use serde_json::json;

use super::world::World;

/// Takes three things, or none of them; its input says what happens at the last.
#[derive(Default)]
struct TakeThree {
    taken: Mutex<BTreeMap<String, i64>>,
    panics: AtomicU32,
}

impl TakeThree {
    fn book(&self, key: &str, by: i64) {
        let of = key.rsplitn(3, '/').nth(2).unwrap().to_owned();
        let mut taken = self.taken.lock().unwrap();
        let count = taken.entry(of).or_default();
        // Idempotent by what is there, as a participant with the barrier is.
        *count = (*count + by).clamp(0, 1);
    }

    async fn take(self: Arc<Self>, call: Call<String>) -> Result<String, StepError> {
        self.book(&call.idempotency_key, 1);
        Ok(call.idempotency_key)
    }

    async fn last(self: Arc<Self>, call: Call<String>) -> Result<u64, StepError> {
        match call.input.as_str() {
            "refuse" => Err(StepError::refused("no")),
            "panic" if self.panics.fetch_add(1, Ordering::Relaxed) < 2 => panic!("for once"),
            _ => {
                self.book(&call.idempotency_key, 1);
                Ok(7)
            }
        }
    }

    async fn give_back(self: Arc<Self>, undo: Undo<String, String>) -> Result<(), StepError> {
        assert!(undo.receipt.ends_with("/action/1"), "the receipt of its own step");
        self.book(&undo.receipt, -1);
        Ok(())
    }

    async fn give_back_last(self: Arc<Self>, undo: Undo<String, u64>) -> Result<(), StepError> {
        self.book(&undo.idempotency_key, -1);
        Ok(())
    }
}

impl RustSaga for TakeThree {
    type Input = String;
    const NAME: &'static str = "take-three";

    fn steps() -> Steps<Self> {
        Steps::new()
            .together([
                step("first", Self::take, undo(Self::give_back)),
                step("second", Self::take, undo(Self::give_back)),
            ])
            .step("third", Self::last, undo(Self::give_back_last))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sagas_in_rust_end_also_when_the_engine_is_taken_over_in_the_middle() {
    let saga = Arc::new(TakeThree::default());
    let world = World::with(&saga).await;
    let kinds = ["fine", "refuse", "panic"];
    for n in 0..300 {
        world.begin("take-three", &format!("t{n}"), json!(kinds[n % 3])).await;
    }
    // While sagas are under way; the first engine can write no more.
    let (second, _running) = world.another_takes_over().await;
    let ids: Vec<String> = (0..300).map(|n| format!("t{n}")).collect();
    let pending = second.wait(&ids, Duration::from_secs(30)).await.unwrap();
    assert!(pending.is_empty(), "{pending:?}");
    for (n, id) in ids.iter().enumerate() {
        let told = second.read(id).await.unwrap().unwrap();
        let expected =
            if kinds[n % 3] == "refuse" { Status::Compensated } else { Status::Completed };
        assert_eq!(told.state.status, expected, "{id}: {:?}", told.journal);
        for step in ["first", "second", "third"] {
            let taken = saga.taken.lock().unwrap().get(&format!("{id}/{step}")).copied();
            let wanted = i64::from(expected == Status::Completed);
            assert_eq!(taken.unwrap_or(0), wanted, "{step} of {id}");
        }
    }
}
