//! The cryptography behind TLS.

use rustls::crypto::{CryptoProvider, ring};

/// Makes ring the process-wide provider of cryptography for TLS, unless one is installed already.
///
/// [`Egress::new`](crate::Egress::new) calls it. A program that builds other TLS clients calls it
/// first thing in `main`. Calling it again changes nothing.
pub fn install_crypto_provider() {
    if CryptoProvider::get_default().is_none() {
        // An error means that another thread has just installed one, which serves as well.
        let _ = ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installing_twice_is_harmless() {
        install_crypto_provider();
        install_crypto_provider();
        assert!(CryptoProvider::get_default().is_some());
    }
}
