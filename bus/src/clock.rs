//! Time that never runs backwards within a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use schemas::Timestamp;

/// The time of day in microseconds, unaffected by a wall clock that is set back.
///
/// Leases, due times and the log's `recorded_at` compare times with each other, so a clock that
/// jumps back an hour would freeze them for that hour. This clock follows the machine's monotonic
/// time and takes over a wall clock that is *ahead* (a machine that slept, a late correction).
///
/// Nodes that share a database compare their times too, and their wall clocks may differ by hours:
/// there the clock follows the database's instead ([`Clock::follow`]).
#[derive(Clone, Debug)]
pub struct Clock {
    inner: Arc<Inner>,
}

/// A clock that is followed is caught up with at once, and waited for at most this long: one that
/// was set back further is not believed.
const SLEW_US: i64 = 1_000_000;

#[derive(Debug)]
struct Inner {
    started: Instant,
    /// Microseconds since the epoch at `started`.
    offset_us: AtomicI64,
    /// The latest time that was told: none is earlier.
    told_us: AtomicI64,
    /// Whether another clock is followed, and not the machine's.
    follows: AtomicBool,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Clock {
        let inner = Inner {
            started: Instant::now(),
            offset_us: AtomicI64::new(wall_us()),
            told_us: AtomicI64::new(i64::MIN),
            follows: AtomicBool::new(false),
        };
        Clock { inner: Arc::new(inner) }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let elapsed = self.elapsed_us();
        let mut offset = self.inner.offset_us.load(Ordering::Relaxed);
        if !self.inner.follows.load(Ordering::Relaxed) {
            let ahead = wall_us() - elapsed;
            offset = self.inner.offset_us.fetch_max(ahead, Ordering::Relaxed).max(ahead);
        }
        let now = offset + elapsed;
        Timestamp::from_micros(self.inner.told_us.fetch_max(now, Ordering::Relaxed).max(now))
    }

    /// What the machine's clock shows, forward and back: for what others compare with a clock of their
    /// own, such as the time in a signature. In seconds since the epoch.
    #[must_use]
    pub fn wall_seconds() -> i64 {
        wall_us().div_euclid(1_000_000)
    }

    /// Moves the clock to `at` if it is behind it: after a restart with a clock that was set back,
    /// time goes on from the last thing that was recorded.
    pub fn not_before(&self, at: Timestamp) {
        self.inner.offset_us.fetch_max(at.as_micros() - self.elapsed_us(), Ordering::Relaxed);
    }

    /// Whether it follows another clock already.
    #[cfg(feature = "database")]
    pub(crate) fn follows(&self) -> bool {
        self.inner.follows.load(Ordering::Relaxed)
    }

    /// Follows another clock, which shows `theirs` now. The first call takes its time whatever the
    /// machine's is; later ones correct the drift between the two.
    pub fn follow(&self, theirs: Timestamp) {
        let offset = theirs.as_micros() - self.elapsed_us();
        let inner = &self.inner;
        if !inner.follows.swap(true, Ordering::Relaxed) {
            inner.offset_us.store(offset, Ordering::Relaxed);
            inner.told_us.store(i64::MIN, Ordering::Relaxed);
        } else if offset > inner.offset_us.load(Ordering::Relaxed) - SLEW_US {
            inner.offset_us.store(offset, Ordering::Relaxed);
        }
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

    #[test]
    fn a_clock_that_is_followed_counts_and_not_the_machines() {
        let clock = Clock::system();
        let hour = 3_600_000_000;
        let theirs = Timestamp::from_micros(clock.now().as_micros() - hour);
        clock.follow(theirs);
        let now = clock.now();
        assert!(now >= theirs && now.as_micros() < theirs.as_micros() + hour / 2);
        clock.follow(Timestamp::from_micros(now.as_micros() - 500_000));
        assert!(clock.now() >= now, "it waits, and never runs backwards");
        clock.follow(Timestamp::from_micros(now.as_micros() - hour));
        assert!(clock.now() >= now, "one that was set back by an hour is not believed");
    }
}
