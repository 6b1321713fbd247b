//! Secrets at rest: encrypted with XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03).

use std::fmt::Write as _;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Seals and opens secrets with one key. A sealed text names its key (a fingerprint), so that keys
/// can be changed and a wrong one is told from a broken text.
#[derive(Clone)]
pub struct Seal {
    cipher: XChaCha20Poly1305,
    key_id: String,
    /// What opens texts of the key before.
    before: Option<Box<Seal>>,
}

/// A sealed text cannot be opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealError {
    /// It was sealed with another key.
    #[error("the secret was sealed with the key {0}, which is not the configured one")]
    OtherKey(String),
    /// It is not what a seal wrote.
    #[error("the sealed secret is broken")]
    Broken,
}

impl Seal {
    /// A seal with this key.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Seal {
        let key_id = format!("{:016x}", crate::partition::fnv1a(key));
        Seal { cipher: XChaCha20Poly1305::new(key.into()), key_id, before: None }
    }

    /// The same, which also opens what was sealed with `key`: for a change of keys.
    #[must_use]
    pub fn opening(self, key: &[u8; KEY_BYTES]) -> Seal {
        Seal { before: Some(Box::new(Seal::new(key))), ..self }
    }

    /// Seals `secret`: another text each time.
    #[must_use]
    pub fn seal(&self, secret: &str) -> String {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        // Fails only for texts of more than 256 GiB.
        let sealed =
            self.cipher.encrypt(&XNonce::from(nonce), secret.as_bytes()).unwrap_or_default();
        format!("v1:{}:{}{}", self.key_id, hex(&nonce), hex(&sealed))
    }

    /// Opens what [`Seal::seal`] wrote.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&self, sealed: &str) -> Result<String, SealError> {
        let rest = sealed.strip_prefix("v1:").ok_or(SealError::Broken)?;
        let (key_id, text) = rest.split_once(':').ok_or(SealError::Broken)?;
        if key_id != self.key_id {
            if let Some(before) = &self.before {
                return before.open(sealed);
            }
            return Err(SealError::OtherKey(key_id.to_owned()));
        }
        let bytes = unhex(text).ok_or(SealError::Broken)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Broken)?;
        let opened = self.cipher.decrypt(&XNonce::from(*nonce), sealed);
        String::from_utf8(opened.map_err(|_| SealError::Broken)?).map_err(|_| SealError::Broken)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair.first()?)? * 16 + digit(pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_opens_a_secret() {
        let (seal, other) = (Seal::new(&[7; 32]), Seal::new(&[8; 32]));
        let sealed = seal.seal("whsec_x");
        assert!(!sealed.contains("whsec"));
        assert_ne!(sealed, seal.seal("whsec_x"));
        assert_eq!(seal.open(&sealed).as_deref(), Ok("whsec_x"));
        assert!(matches!(other.open(&sealed), Err(SealError::OtherKey(_))));
        let changed = other.opening(&[7; 32]);
        assert_eq!(changed.open(&sealed).as_deref(), Ok("whsec_x"));
        let resealed = changed.seal("whsec_x");
        assert!(matches!(seal.open(&resealed), Err(SealError::OtherKey(_))));
        let mut broken = sealed;
        broken.pop();
        assert_eq!(seal.open(&broken), Err(SealError::Broken));
        assert_eq!(seal.open("whsec_x"), Err(SealError::Broken));
    }
}
