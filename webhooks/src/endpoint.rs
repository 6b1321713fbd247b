//! An endpoint: where events of whom are delivered, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bus::{Policy, Rate, Seal, Seq, Span};
use schemas::{Event, Filter, Patterns, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::secrets::{ActiveSecret, OpenError, PublishedKey, Scheme};

/// Longest timeout of one attempt; the lease outlasts it.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The id of an endpoint: `ep_` and a UUIDv7 without dashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(String);

/// Not the id of an endpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an id of a webhook is `ep_` and 32 hexadecimal digits")]
pub struct InvalidEndpointId;

impl EndpointId {
    /// A new id, later ones sorting after earlier ones.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> EndpointId {
        EndpointId(format!("ep_{}", Uuid::now_v7().simple()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EndpointId {
    type Err = InvalidEndpointId;

    fn from_str(text: &str) -> Result<EndpointId, InvalidEndpointId> {
        let digits = text.strip_prefix("ep_").ok_or(InvalidEndpointId)?;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != 32 || !digits.bytes().all(hex) {
            return Err(InvalidEndpointId);
        }
        Ok(EndpointId(text.to_owned()))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an endpoint is delivered to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manner {
    /// How long one attempt may take, the response's body included; at most [`TIMEOUT_MAX`].
    pub timeout: Span,
    /// Attempts started per time; unlimited when absent.
    pub rate: Option<Rate>,
    /// Attempts at once.
    pub max_concurrent: u32,
    /// The waits between attempts, each ±20 %: one attempt more than there are waits.
    pub retry: Vec<Span>,
    /// Whether events of one `partitionkey` are delivered one after the other.
    pub ordered: bool,
    /// Of what kind new secrets are.
    pub signature: Scheme,
}

impl Default for Manner {
    fn default() -> Manner {
        let seconds = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000];
        Manner {
            timeout: Span(Duration::from_secs(15)),
            rate: None,
            max_concurrent: 10,
            retry: seconds.map(|seconds| Span(Duration::from_secs(seconds))).to_vec(),
            ordered: false,
            signature: Scheme::V1,
        }
    }
}

impl Manner {
    /// The policy of the endpoint's queue. Its back-off counts only where no attempt has an answer:
    /// after a crash.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let first = self.retry.first().copied().unwrap_or(Policy::DEFAULT.backoff_min);
        Policy {
            attempts_max: u32::try_from(self.retry.len() + 1).unwrap_or(u32::MAX),
            backoff_min: first,
            backoff_max: self.retry.iter().copied().max().unwrap_or(first),
            timeout: self.timeout,
            rate: self.rate.clone(),
            max_concurrent: Some(self.max_concurrent),
            ordered: self.ordered,
            ..Policy::DEFAULT
        }
    }

    /// The wait after the attempt of this number failed; `jitter` is from 0 to 1.
    #[must_use]
    pub fn wait_after(&self, attempt: i64, jitter: f64) -> Option<Duration> {
        let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
        Some(self.retry.get(index)?.0.mul_f64(0.8 + 0.4 * jitter))
    }
}

/// An endpoint as it is configured.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Where it is posted to.
    pub url: String,
    /// Which events it gets.
    pub types: Patterns,
    /// Which of those.
    pub filter: Option<Filter>,
    /// Words of its owner.
    pub description: Option<String>,
    /// Whose events it gets; those of no tenant when absent.
    pub tenant: Option<String>,
    /// Headers of its owner, sealed.
    pub headers: Option<String>,
    /// The secrets that sign, sealed.
    pub secrets: String,
    /// The public keys of those that have one.
    pub public_keys: Vec<PublishedKey>,
    /// How it is delivered to.
    pub manner: Manner,
    /// Whatever its owner keeps with it.
    pub metadata: Option<serde_json::Value>,
    /// Whether nothing is sent; if so, why.
    pub disabled_reason: Option<String>,
    /// Since when every attempt failed.
    pub failing_since: Option<Timestamp>,
    /// Attempts that failed one after the other.
    pub failures: i64,
    /// Nothing is sent before.
    pub held_until: Option<Timestamp>,
    /// Events up to here were accepted before it was made.
    pub from: Seq,
    /// Grows with each change.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Endpoint {
    /// Whether `event` is for this endpoint, by its tenant and filter; its types and position are
    /// compared elsewhere, many endpoints at a time.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        self.tenant.as_deref() == event.tenant()
            && self.filter.as_ref().is_none_or(|filter| filter.matches(event))
    }

    /// The owner's headers.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_headers(&self, seal: Option<&Seal>) -> Result<BTreeMap<String, String>, OpenError> {
        let Some(sealed) = &self.headers else { return Ok(BTreeMap::new()) };
        let text = seal.ok_or(OpenError::NoKey)?.open(sealed)?;
        serde_json::from_str(&text).map_err(|_| OpenError::Broken)
    }

    /// The secrets that sign, each until its end, the newest first.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_secrets(&self, seal: Option<&Seal>) -> Result<Vec<ActiveSecret>, OpenError> {
        let text = seal.ok_or(OpenError::NoKey)?.open(&self.secrets)?;
        serde_json::from_str(&text).map_err(|_| OpenError::Broken)
    }
}

/// Seals headers, as [`Endpoint::open_headers`] opens them.
#[must_use]
pub fn seal_headers(seal: &Seal, headers: &BTreeMap<String, String>) -> Option<String> {
    let text = serde_json::to_string(headers).unwrap_or_default();
    (!headers.is_empty()).then(|| seal.seal(&text))
}

#[cfg(test)]
impl Endpoint {
    /// One that gets the events of no tenant that match `pattern`.
    pub(crate) fn sample(id: EndpointId, pattern: &str) -> Endpoint {
        Endpoint {
            id,
            url: "https://example.com/hook".to_owned(),
            types: Patterns::new(vec![pattern.parse().unwrap()]).unwrap(),
            filter: None,
            description: None,
            tenant: None,
            headers: None,
            secrets: String::new(),
            public_keys: Vec::new(),
            manner: Manner::default(),
            metadata: None,
            disabled_reason: None,
            failing_since: None,
            failures: 0,
            held_until: None,
            from: Seq::ZERO,
            version: 1,
            created_at: Timestamp::from_micros(0),
            updated_at: Timestamp::from_micros(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_those_of_the_schedule_and_vary_by_a_fifth() {
        let manner = Manner::default();
        assert_eq!(manner.wait_after(1, 0.5), Some(Duration::from_secs(5)));
        assert_eq!(manner.wait_after(2, 0.0), Some(Duration::from_secs(240)));
        assert_eq!(manner.wait_after(7, 1.0), Some(Duration::from_secs(43_200)));
        assert_eq!(manner.wait_after(8, 0.5), None);
        assert_eq!(manner.policy().attempts_max, 8);
    }

    #[test]
    fn an_id_reads_back_and_nothing_else_does() {
        let id = EndpointId::new();
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for text in ["", "ep_", "ep_x", "msg_0190", &id.as_str().to_uppercase()] {
            assert_eq!(text.parse::<EndpointId>(), Err(InvalidEndpointId), "{text}");
        }
    }
}
