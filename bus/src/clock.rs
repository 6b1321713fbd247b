//! Time that never runs backwards within a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use schemas::Timestamp;

/// The time of day in microseconds, unaffected by a wall clock that is set back.
///
/// Leases, due times and the log's `recorded_at` compare times with each other, so a clock that
/// jumps back an hour would freeze them for that hour. This clock follows the machine's monotonic
/// time and takes over a wall clock that is *ahead* (a machine that slept, a late correction).
#[derive(Clone, Debug)]
pub struct Clock {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    started: Instant,
    /// Microseconds since the epoch at `started`; only ever grows.
    offset_us: AtomicI64,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Clock {
        let inner = Inner { started: Instant::now(), offset_us: AtomicI64::new(wall_us()) };
        Clock { inner: Arc::new(inner) }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let elapsed = self.elapsed_us();
        let ahead = wall_us() - elapsed;
        let offset = self.inner.offset_us.fetch_max(ahead, Ordering::Relaxed).max(ahead);
        Timestamp::from_micros(offset + elapsed)
    }

    /// Moves the clock to `at` if it is behind it: after a restart with a clock that was set back,
    /// time goes on from the last thing that was recorded.
    pub fn not_before(&self, at: Timestamp) {
        self.inner.offset_us.fetch_max(at.as_micros() - self.elapsed_us(), Ordering::Relaxed);
    }

    fn elapsed_us(&self) -> i64 {
        i64::try_from(self.inner.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_a_floor_that_lies_ahead_of_the_wall_clock() {
        let clock = Clock::system();
        let ahead = Timestamp::from_micros(clock.now().as_micros() + 3_600_000_000);
        clock.not_before(ahead);
        assert!(clock.now() >= ahead);
        clock.not_before(Timestamp::from_micros(0));
        assert!(clock.now() >= ahead);
    }
}
