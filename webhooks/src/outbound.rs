//! What it takes to post to an endpoint, made ready once for many attempts: its address checked, its
//! headers and secrets opened.

use std::sync::Arc;

use bus::{Seal, chain};
use egress::{Egress, Target};
use http::{HeaderMap, HeaderName, HeaderValue};
use schemas::Timestamp;

use crate::endpoint::Endpoint;
use crate::secrets::{OpenError, SigningSecret};

/// An endpoint that is ready to be posted to.
pub struct Outbound {
    endpoint: Arc<Endpoint>,
    /// Why nothing can be sent to it, where that is so.
    route: Result<Route, String>,
}

pub(crate) struct Route {
    pub(crate) target: Target,
    /// Those of the owner, and those that are the same for every attempt.
    pub(crate) headers: HeaderMap,
    secrets: Vec<(SigningSecret, Option<i64>)>,
}

impl Outbound {
    /// Makes `endpoint` ready. What is wrong with it is told by every attempt.
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>, egress: &Egress, seal: Option<&Seal>) -> Outbound {
        let route = Route::new(&endpoint, egress, seal);
        Outbound { endpoint, route }
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn route(&self) -> Result<&Route, &str> {
        self.route.as_ref().map_err(String::as_str)
    }
}

impl Route {
    fn new(endpoint: &Endpoint, egress: &Egress, seal: Option<&Seal>) -> Result<Route, String> {
        let target = egress.check_url(&endpoint.url).map_err(|error| chain(&error))?;
        let mut headers = HeaderMap::new();
        for (name, value) in endpoint.open_headers(seal).map_err(|error| chain(&error))? {
            let value =
                HeaderValue::from_str(&value).map_err(|error| format!("{name}: {error}"))?;
            let name: HeaderName = name.parse().map_err(|error| format!("{name}: {error}"))?;
            headers.insert(name, value);
        }
        let cloudevent = HeaderValue::from_static("application/cloudevents+json");
        headers.insert(http::header::CONTENT_TYPE, cloudevent);
        let mut secrets = Vec::new();
        for one in endpoint.open_secrets(seal).map_err(|error| chain(&error))? {
            let secret = one.secret.parse().map_err(|_| chain(&OpenError::Broken))?;
            secrets.push((secret, one.ends_at_us));
        }
        Ok(Route { target, headers, secrets })
    }

    /// One signature for each secret that signs at `at`, with a space between them: the value of
    /// `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, at: Timestamp, seconds: i64, body: &[u8]) -> String {
        let mut signatures = String::new();
        for (secret, end) in &self.secrets {
            if end.is_none_or(|end| end > at.as_micros()) {
                if !signatures.is_empty() {
                    signatures.push(' ');
                }
                signatures.push_str(&secret.sign(id, seconds, body));
            }
        }
        signatures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::Scheme;

    #[test]
    fn each_secret_signs_in_its_own_scheme_until_its_end() {
        let [shared, private, ended] = [Scheme::V1, Scheme::V1a, Scheme::V1].map(Scheme::draw);
        let secrets = vec![(shared.clone(), None), (private.clone(), Some(8)), (ended, Some(7))];
        let target = Egress::new(egress::EgressPolicy::DEFAULT)
            .unwrap()
            .check_url("https://example.com/hook")
            .unwrap();
        let route = Route { target, headers: HeaderMap::new(), secrets };
        let signatures = route.sign("dlv_1", Timestamp::from_micros(7), 0, b"{}");
        assert_eq!(signatures.split(' ').count(), 2);
        let (SigningSecret::Shared(shared), SigningSecret::Private(pair)) = (shared, private)
        else {
            panic!("not what was drawn")
        };
        assert!(shared.verify("dlv_1", 0, b"{}", &signatures));
        assert!(pair.public().verify("dlv_1", 0, b"{}", &signatures));
    }
}
