//! Waiting for what must come true.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

/// How long a test waits for anything: far longer than it takes, on a machine that is busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks.
const TICK: Duration = Duration::from_millis(15);

/// Looks again and again until `probe` gives a value.
///
/// # Panics
/// When it does not within [`DEADLINE`]; the message names `what` was waited for.
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, probe).await
}

/// The same with a deadline of the caller's.
///
/// # Panics
/// When the deadline passes.
pub async fn eventually_within<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain: {what}");
    }
}
