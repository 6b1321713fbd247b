//! The secrets that sign for an endpoint: several at once while one takes over from another.

use std::fmt;
use std::str::FromStr;

use bus::Seal;
use egress::{KeyPair, Secret};
use schemas::Timestamp;
use serde::{Deserialize, Serialize};

/// Secrets that sign at once, the newest included.
pub const SECRETS_MAX: usize = 10;

/// How requests are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HMAC-SHA256 with a secret that both sides know, `whsec_…`.
    #[default]
    V1,
    /// ed25519 with a private key, `whsk_…`, whose public one, `whpk_…`, receivers look up.
    V1a,
}

impl Scheme {
    /// As it stands in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::V1 => "v1",
            Scheme::V1a => "v1a",
        }
    }

    /// A new random secret.
    #[must_use]
    pub fn draw(self) -> SigningSecret {
        let bytes: [u8; 32] = rand::random();
        match (self, Secret::from_bytes(&bytes)) {
            (Scheme::V1, Ok(secret)) => SigningSecret::Shared(secret),
            _ => SigningSecret::Private(Box::new(KeyPair::from_bytes(&bytes))),
        }
    }
}

impl FromStr for Scheme {
    type Err = InvalidScheme;

    fn from_str(text: &str) -> Result<Scheme, InvalidScheme> {
        match text {
            "v1" => Ok(Scheme::V1),
            "v1a" => Ok(Scheme::V1a),
            _ => Err(InvalidScheme),
        }
    }
}

/// Not a scheme.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be v1 or v1a")]
pub struct InvalidScheme;

/// What signs.
#[derive(Clone, Debug)]
pub enum SigningSecret {
    /// For [`Scheme::V1`].
    Shared(Secret),
    /// For [`Scheme::V1a`].
    Private(Box<KeyPair>),
}

impl SigningSecret {
    /// Which scheme it is for.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self {
            SigningSecret::Shared(_) => Scheme::V1,
            SigningSecret::Private(_) => Scheme::V1a,
        }
    }

    /// As text, to hand it to its owner. Never log it.
    #[must_use]
    pub fn expose(&self) -> String {
        match self {
            SigningSecret::Shared(secret) => secret.expose(),
            SigningSecret::Private(pair) => pair.expose(),
        }
    }

    /// A signature as Standard Webhooks 1.0 says; `at` is in seconds.
    pub(crate) fn sign(&self, id: &str, at: i64, body: &[u8]) -> String {
        match self {
            SigningSecret::Shared(secret) => secret.sign(id, at, body),
            SigningSecret::Private(pair) => pair.sign(id, at, body),
        }
    }
}

/// Not a secret; the text says why, and does not quote it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InvalidSigningSecret(String);

impl FromStr for SigningSecret {
    type Err = InvalidSigningSecret;

    fn from_str(text: &str) -> Result<SigningSecret, InvalidSigningSecret> {
        fn invalid(error: &dyn fmt::Display) -> InvalidSigningSecret {
            InvalidSigningSecret(error.to_string())
        }
        if text.starts_with("whsk_") {
            let pair: KeyPair = text.parse().map_err(|error| invalid(&error))?;
            return Ok(SigningSecret::Private(Box::new(pair)));
        }
        Ok(SigningSecret::Shared(text.parse().map_err(|error| invalid(&error))?))
    }
}

/// A secret and until when it signs: for ever when there is no end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveSecret {
    /// `whsec_…` or `whsk_…`.
    pub secret: String,
    /// When it stops to sign.
    pub ends_at_us: Option<i64>,
}

impl ActiveSecret {
    /// Whether it signs at this time.
    #[must_use]
    pub fn signs_at(&self, now: Timestamp) -> bool {
        self.ends_at_us.is_none_or(|end| end > now.as_micros())
    }
}

/// A public key that anybody may see, and until when it is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedKey {
    /// `whpk_…`
    pub key: String,
    /// When its private key stops to sign.
    pub ends_at_us: Option<i64>,
}

/// What is sealed cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no key.
    #[error("its secrets are sealed, and there is no security.encryption_key")]
    NoKey,
    /// There is another key.
    #[error("opening its secrets")]
    Seal(#[from] bus::seal::SealError),
    /// What was sealed is not what it ought to be.
    #[error("its sealed secrets are broken")]
    Broken,
}

/// Seals secrets, as [`crate::Endpoint::open_secrets`] opens them.
#[must_use]
pub fn seal_secrets(seal: &Seal, secrets: &[ActiveSecret]) -> String {
    seal.seal(&serde_json::to_string(secrets).unwrap_or_default())
}

/// The public keys of those secrets that have one.
#[must_use]
pub fn public_keys(secrets: &[ActiveSecret]) -> Vec<PublishedKey> {
    let public = |one: &ActiveSecret| {
        let pair: KeyPair = one.secret.parse().ok()?;
        Some(PublishedKey { key: pair.public().to_string(), ends_at_us: one.ends_at_us })
    };
    secrets.iter().filter_map(public).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_key_pairs_have_something_to_publish() {
        let drawn = [Scheme::V1, Scheme::V1a].map(Scheme::draw);
        let secrets = drawn
            .clone()
            .map(|secret| ActiveSecret { secret: secret.expose(), ends_at_us: Some(1) });
        let SigningSecret::Private(pair) = &drawn[1] else { panic!("{drawn:?}") };
        let keys = public_keys(&secrets);
        assert_eq!(keys, [PublishedKey { key: pair.public().to_string(), ends_at_us: Some(1) }]);
    }
}
