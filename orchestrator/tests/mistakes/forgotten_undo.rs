//! A step says nothing of its undo.

use std::sync::Arc;

use orchestrator::{Call, RustSaga, StepError, Steps, Undo};

struct BookTrip;

#[derive(serde::Serialize, serde::Deserialize)]
struct Seat(u16);

impl BookTrip {
    async fn charge_card(self: Arc<Self>, _: Call<String>) -> Result<u64, StepError> {
        Ok(1)
    }

    async fn release_seat(self: Arc<Self>, _: Undo<String, Seat>) -> Result<(), StepError> {
        Ok(())
    }
}

impl RustSaga for BookTrip {
    type Input = String;
    const NAME: &'static str = "book-trip";

    fn steps() -> Steps<Self> {
        Steps::new().step("charge-card", Self::charge_card)
    }
}

fn main() {}
