//! Asymmetric signatures after the [Standard Webhooks](https://www.standardwebhooks.com)
//! specification 1.0.0, scheme `v1a`: ed25519, RFC 8032.
//!
//! The receiver needs the public key only, and cannot sign with it.

use std::fmt;
use std::str::FromStr;

use base64::engine::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

const KEY_BYTES: usize = 32;
const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const SIGNATURE_PREFIX: &str = "v1a,";

/// A private key and its public one: `whsk_` and both, 64 bytes, in base64.
///
/// `Debug` does not show it; [`KeyPair::expose`] does.
#[derive(Clone)]
pub struct KeyPair {
    private: SigningKey,
}

impl KeyPair {
    /// The pair whose private key is these 32 bytes, which ought to be random.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> KeyPair {
        KeyPair { private: SigningKey::from_bytes(bytes) }
    }

    /// The pair as text, to hand it to its owner. Never log it.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PRIVATE_PREFIX}{}", BASE64_STANDARD.encode(self.private.to_keypair_bytes()))
    }

    /// What receivers verify with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.private.verifying_key())
    }

    /// Signs one attempt: `v1a,` and the base64 of an ed25519 signature over
    /// `{id}.{timestamp}.{body}`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
        let signature = self.private.sign(&signed(id, timestamp_seconds, body));
        format!("{SIGNATURE_PREFIX}{}", BASE64_STANDARD.encode(signature.to_bytes()))
    }
}

impl FromStr for KeyPair {
    type Err = InvalidKeyPair;

    fn from_str(text: &str) -> Result<KeyPair, InvalidKeyPair> {
        let encoded = text.strip_prefix(PRIVATE_PREFIX).ok_or(InvalidKeyPair::Prefix)?;
        // The cause is left out: it would quote a character of the key.
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| InvalidKeyPair::Base64)?;
        let bytes = bytes.as_slice().try_into();
        let bytes: &[u8; 2 * KEY_BYTES] = bytes.map_err(|_| InvalidKeyPair::Length)?;
        let private =
            SigningKey::from_keypair_bytes(bytes).map_err(|_| InvalidKeyPair::NotAPair)?;
        Ok(KeyPair { private })
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyPair(…)")
    }
}

/// What receivers verify with: prints as `whpk_` and 32 bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The 32 bytes in URL-safe base64 without padding, as `x` of a JSON Web Key (RFC 8037).
    #[must_use]
    pub fn base64_url(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0.as_bytes())
    }

    /// Whether one of `signatures`, the value of the signature header, is by this key. The caller
    /// checks that the timestamp is recent.
    #[must_use]
    pub fn verify(&self, id: &str, timestamp_seconds: i64, body: &[u8], signatures: &str) -> bool {
        let signed = signed(id, timestamp_seconds, body);
        signatures
            .split(' ')
            .filter_map(|signature| signature.strip_prefix(SIGNATURE_PREFIX))
            .filter_map(|encoded| BASE64_STANDARD.decode(encoded).ok())
            .filter_map(|bytes| Signature::from_slice(&bytes).ok())
            .any(|signature| self.0.verify_strict(&signed, &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PUBLIC_PREFIX}{}", BASE64_STANDARD.encode(self.0.as_bytes()))
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKeyPair;

    fn from_str(text: &str) -> Result<PublicKey, InvalidKeyPair> {
        let encoded = text.strip_prefix(PUBLIC_PREFIX).ok_or(InvalidKeyPair::Prefix)?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| InvalidKeyPair::Base64)?;
        let bytes = bytes.as_slice().try_into();
        let bytes: &[u8; KEY_BYTES] = bytes.map_err(|_| InvalidKeyPair::Length)?;
        Ok(PublicKey(VerifyingKey::from_bytes(bytes).map_err(|_| InvalidKeyPair::NotAPair)?))
    }
}

/// Why a text is no key. Does not quote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKeyPair {
    /// It does not begin as a key does.
    #[error("a private key begins with `whsk_`, a public one with `whpk_`")]
    Prefix,
    /// What follows is not base64.
    #[error("a key is `whsk_` or `whpk_` and base64")]
    Base64,
    /// It is too short or too long.
    #[error("a private key holds 64 bytes, its public one in the second half; a public one 32")]
    Length,
    /// The halves do not belong together, or the public key is no point of the curve.
    #[error("the key's two halves do not belong together")]
    NotAPair,
}

fn signed(id: &str, timestamp_seconds: i64, body: &[u8]) -> Vec<u8> {
    let mut signed = format!("{id}.{timestamp_seconds}.").into_bytes();
    signed.extend_from_slice(body);
    signed
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    #[test]
    fn signatures_are_those_of_other_implementations() {
        let pair: KeyPair = TEXT.parse().unwrap();
        assert_eq!(pair.sign(ID, TIMESTAMP, BODY), SIGNATURE);
        assert_eq!(pair.expose(), TEXT);
        assert_eq!(format!("{pair:?}"), "KeyPair(…)");
    }

    #[test]
    fn the_public_key_verifies_what_was_signed_and_nothing_else() {
        let pair = KeyPair::from_bytes(&[7; 32]);
        let public: PublicKey = pair.public().to_string().parse().unwrap();
        let signature = pair.sign(ID, TIMESTAMP, BODY);
        assert!(public.verify(ID, TIMESTAMP, BODY, &format!("v1,AAAA {signature}")));
        assert!(!public.verify(ID, TIMESTAMP + 1, BODY, &signature));
        assert!(!public.verify(ID, TIMESTAMP, b"{}", &signature));
        assert!(!public.verify(ID, TIMESTAMP, BODY, SIGNATURE));
        assert!(!public.verify(ID, TIMESTAMP, BODY, "v1a,AAAA"));
    }

    #[test]
    fn a_bad_key_is_explained() {
        let other = BASE64_STANDARD.encode([7; 64]);
        for (text, expected) in [
            ("whsec_AAAA", InvalidKeyPair::Prefix),
            ("whsk_%", InvalidKeyPair::Base64),
            ("whsk_AAAA", InvalidKeyPair::Length),
            (&format!("whsk_{other}"), InvalidKeyPair::NotAPair),
        ] {
            assert_eq!(text.parse::<KeyPair>().unwrap_err(), expected, "{text}");
        }
    }
}
