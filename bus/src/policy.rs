//! How often and how fast something is tried.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Rate, Span};

/// How a consumer's events, or a queue's rows, are tried. Written as JSON it keeps only what
/// differs from the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Attempts before it is a dead letter, the first one included; 1 to 100.
    pub attempts_max: u32,
    /// How long after it was made a row is still tried, whatever attempts are left; for ever when
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_max: Option<Span>,
    /// Wait after the first failure; each further one doubles it.
    pub backoff_min: Span,
    /// Longest wait between attempts.
    pub backoff_max: Span,
    /// How long one attempt may take; for pull consumers the lease when none is asked for.
    pub timeout: Span,
    /// Attempts started per time, over all nodes; unlimited when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Attempts that may start at once after a pause, when there is a `rate`; 1 to 10,000.
    pub burst: u32,
    /// Attempts at the same time, over all nodes; unlimited when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// Whether events of one key are handled one after the other, a failing one holding back those
    /// behind it.
    pub ordered: bool,
}

impl Policy {
    /// 8 attempts, 1 s to 10 min apart, 30 s each, no limits, no order.
    pub const DEFAULT: Policy = Policy {
        attempts_max: 8,
        age_max: None,
        backoff_min: Span(Duration::from_secs(1)),
        backoff_max: Span(Duration::from_secs(600)),
        timeout: Span(Duration::from_secs(30)),
        rate: None,
        burst: 1,
        max_concurrent: None,
        ordered: false,
    };

    /// Faults of the values against each other and their bounds: a field and what is wrong.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, field, detail: &str| {
            if !ok {
                faults.push((field, detail.to_owned()));
            }
        };
        check((1..=100).contains(&self.attempts_max), "attempts_max", "must be from 1 to 100");
        check((1..=10_000).contains(&self.burst), "burst", "must be from 1 to 10000");
        let concurrent = self.max_concurrent.is_none_or(|n| (1..=10_000).contains(&n));
        check(concurrent, "max_concurrent", "must be from 1 to 10000");
        check(self.backoff_min <= self.backoff_max, "backoff_min", "must not exceed backoff_max");
        check(!self.timeout.0.is_zero(), "timeout", "must be longer than 0");
        faults
    }

    /// What follows a failed attempt. `attempt` counts from 1, `age` is that of the row, `jitter` is
    /// from 0 to 1, `wished` is the delay that the failing side asked for.
    #[must_use]
    pub fn after_failure(
        &self,
        attempt: i64,
        age: Duration,
        permanent: bool,
        wished: Option<Duration>,
        jitter: f64,
    ) -> Next {
        let too_old = self.age_max.is_some_and(|most| age >= most.0);
        if permanent || too_old || attempt >= i64::from(self.attempts_max) {
            return Next::Dead;
        }
        Next::RetryAfter(wished.unwrap_or_else(|| self.backoff(attempt, jitter)))
    }

    /// Exponential, with ±20 % jitter so that what failed together does not come back together.
    fn backoff(&self, attempt: i64, jitter: f64) -> Duration {
        let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(40);
        let exact = self.backoff_min.0.as_secs_f64() * f64::from(doublings).exp2();
        Duration::from_secs_f64(exact.min(self.backoff_max.0.as_secs_f64()) * (0.8 + 0.4 * jitter))
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::DEFAULT
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is tried again after this long.
    RetryAfter(Duration),
    /// It is a dead letter.
    Dead,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Duration = Duration::ZERO;

    #[test]
    fn what_is_too_old_is_not_tried_again() {
        let policy = Policy { age_max: Some(Span(Duration::from_secs(60))), ..Policy::DEFAULT };
        let next = |age| policy.after_failure(1, Duration::from_secs(age), false, None, 0.5);
        assert_eq!(next(60), Next::Dead);
        assert_ne!(next(59), Next::Dead);
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let policy = Policy { attempts_max: 100, ..Policy::DEFAULT };
        let wait = |attempt| match policy.after_failure(attempt, NEW, false, None, 0.5) {
            Next::RetryAfter(wait) => wait.as_secs(),
            Next::Dead => 0,
        };
        assert_eq!([wait(1), wait(2), wait(5), wait(90)], [1, 2, 16, 600]);
    }

    #[test]
    fn the_last_attempt_and_a_permanent_failure_end_it() {
        let policy = Policy { attempts_max: 3, ..Policy::DEFAULT };
        assert_eq!(policy.after_failure(3, NEW, false, None, 0.0), Next::Dead);
        assert_eq!(policy.after_failure(1, NEW, true, None, 0.0), Next::Dead);
    }

    #[test]
    fn a_wished_delay_is_taken_as_it_is() {
        let wished = Some(Duration::from_secs(7));
        let next = Policy::DEFAULT.after_failure(1, NEW, false, wished, 0.9);
        assert_eq!(next, Next::RetryAfter(Duration::from_secs(7)));
    }
}
