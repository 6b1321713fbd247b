//! Signatures after the [Standard Webhooks](https://www.standardwebhooks.com) specification 1.0.0,
//! symmetric scheme `v1`.
//!
//! A request carries `webhook-id`, `webhook-timestamp` (seconds since 1970 of this attempt) and
//! `webhook-signature`: one or more signatures with a space between them, so that a secret can be
//! replaced while both the old and the new one are in use.

use std::fmt;
use std::str::FromStr;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The header with the id of the event, the same for every attempt.
pub const ID_HEADER: &str = "webhook-id";
/// The header with the time of the attempt, in whole seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header with the signatures.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// The fewest and the most bytes in a secret; both numbers are those of the specification.
const SECRET_BYTES_MIN: usize = 24;
const SECRET_BYTES_MAX: usize = 64;

const SECRET_PREFIX: &str = "whsec_";
const SIGNATURE_PREFIX: &str = "v1,";

/// Secrets come from many hands, and some leave out the padding at the end.
const BASE64_ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key that the sender and the receiver share: `whsec_` and 24 to 64 bytes in base64.
///
/// `Debug` does not show it; [`Secret::expose`] does.
#[derive(Clone)]
pub struct Secret {
    bytes: Vec<u8>,
    keyed: Hmac<Sha256>,
}

impl Secret {
    /// Takes 24 to 64 bytes, which ought to be random.
    ///
    /// # Errors
    /// [`InvalidSecret::Length`] if there are fewer or more.
    pub fn from_bytes(bytes: &[u8]) -> Result<Secret, InvalidSecret> {
        let wrong_length = InvalidSecret::Length { bytes: bytes.len() };
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            return Err(wrong_length);
        }
        let keyed = Hmac::new_from_slice(bytes).map_err(|_| wrong_length)?;
        Ok(Secret { bytes: bytes.to_vec(), keyed })
    }

    /// The secret as text, to hand it to its owner. Never log it.
    pub fn expose(&self) -> String {
        format!("{SECRET_PREFIX}{}", BASE64_STANDARD.encode(&self.bytes))
    }

    /// Signs one attempt: `v1,` and the base64 of an HMAC-SHA256 over `{id}.{timestamp}.{body}`.
    ///
    /// `id` must not hold a full stop, or two different messages could have the same signature.
    pub fn sign(&self, id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
        let mac = self.mac(id, timestamp_seconds, body).finalize().into_bytes();
        format!("{SIGNATURE_PREFIX}{}", BASE64_STANDARD.encode(mac))
    }

    /// Whether one of `signatures`, the value of the signature header, is by this secret.
    ///
    /// Compares in constant time and passes over signatures of other versions. The caller checks
    /// that the timestamp is recent (5 minutes either way is usual), or old messages can be sent
    /// again by anybody.
    pub fn verify(&self, id: &str, timestamp_seconds: i64, body: &[u8], signatures: &str) -> bool {
        let mac = self.mac(id, timestamp_seconds, body);
        signatures
            .split(' ')
            .filter_map(|signature| signature.strip_prefix(SIGNATURE_PREFIX))
            .filter_map(|encoded| BASE64_STANDARD.decode(encoded).ok())
            .any(|bytes| mac.clone().verify_slice(&bytes).is_ok())
    }

    fn mac(&self, id: &str, timestamp_seconds: i64, body: &[u8]) -> Hmac<Sha256> {
        self.keyed
            .clone()
            .chain_update(id)
            .chain_update(".")
            .chain_update(timestamp_seconds.to_string())
            .chain_update(".")
            .chain_update(body)
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Secret, InvalidSecret> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(InvalidSecret::Prefix)?;
        // The cause is left out: it would quote a character of the secret.
        let bytes = BASE64_ANY_PADDING.decode(encoded).map_err(|_| InvalidSecret::Base64)?;
        Secret::from_bytes(&bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Why a text is not a [`Secret`]. Does not quote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSecret {
    /// It does not begin as a secret does.
    #[error("a secret begins with `whsec_`")]
    Prefix,
    /// What follows is not base64.
    #[error("a secret is `whsec_` and base64")]
    Base64,
    /// It is too short to be safe or longer than the specification allows.
    #[error("a secret holds 24 to 64 bytes, and this one holds {bytes}")]
    Length {
        /// How many it holds.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret() -> Secret {
        TEXT.parse().unwrap()
    }

    #[test]
    fn signatures_are_those_of_the_specification() {
        assert_eq!(secret().sign(ID, TIMESTAMP, BODY), SIGNATURE);
        let other: Secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".parse().unwrap();
        assert_eq!(
            other.sign(
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                br#"{"email":"test@example.com","username":"test_user"}"#
            ),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
    }

    #[test]
    fn a_signature_verifies_alone_and_among_others() {
        for signatures in [
            SIGNATURE.to_owned(),
            format!("v1,AAAA {SIGNATURE}"),
            format!("v1a,hnO3f9T8Ytu9HwrXslvumg== {SIGNATURE} v1,%%%"),
        ] {
            assert!(secret().verify(ID, TIMESTAMP, BODY, &signatures), "{signatures}");
        }
    }

    #[test]
    fn nothing_about_a_signed_message_can_be_changed() {
        let secret = secret();
        assert!(!secret.verify("msg_other", TIMESTAMP, BODY, SIGNATURE));
        assert!(!secret.verify(ID, TIMESTAMP + 1, BODY, SIGNATURE));
        assert!(!secret.verify(ID, TIMESTAMP, b"{}", SIGNATURE));
        assert!(!Secret::from_bytes(&[7; 24]).unwrap().verify(ID, TIMESTAMP, BODY, SIGNATURE));
        for signatures in ["", "v1,", "v1", &SIGNATURE[3..], &SIGNATURE[..20]] {
            assert!(!secret.verify(ID, TIMESTAMP, BODY, signatures), "{signatures}");
        }
        assert!(!secret.verify(ID, TIMESTAMP, BODY, &SIGNATURE.replace("v1", "v2")));
    }

    #[test]
    fn an_exposed_secret_reads_back_and_a_debugged_one_does_not() {
        assert_eq!(secret().expose(), TEXT);
        assert_eq!(format!("{:?}", secret()), "Secret(…)");
        let bytes = [9; 25];
        let padded = Secret::from_bytes(&bytes).unwrap().expose();
        let unpadded: Secret = padded.trim_end_matches('=').parse().unwrap();
        assert_eq!(unpadded.expose(), padded);
    }

    #[test]
    fn a_bad_secret_is_explained_without_quoting_it() {
        for (text, expected) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", InvalidSecret::Prefix),
            ("whsec_MfKQ!", InvalidSecret::Base64),
            ("whsec_", InvalidSecret::Length { bytes: 0 }),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLQ==", InvalidSecret::Length { bytes: 22 }),
        ] {
            assert_eq!(text.parse::<Secret>().unwrap_err(), expected, "{text}");
        }
        assert!(Secret::from_bytes(&[0; 23]).is_err() && Secret::from_bytes(&[0; 65]).is_err());
        assert!(Secret::from_bytes(&[0; 24]).is_ok() && Secret::from_bytes(&[0; 64]).is_ok());
    }
}
