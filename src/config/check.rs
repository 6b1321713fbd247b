//! Checks of single values. What they return as `Err` is told to the person who wrote the value.

use std::net::SocketAddr;

use base64::Engine as _;
use bus::log::PUBLISH_BYTES_MAX;

use super::{ByteSize, Secret};

const ADMIN_KEY_BYTES_MIN: usize = 20;

/// `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080`.
pub(super) fn listen(text: &str) -> Result<String, String> {
    let host_and_port = || {
        let (host, port) = text.rsplit_once(':')?;
        let named = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        (named && port.parse::<u16>().is_ok()).then_some(())
    };
    if text.parse::<SocketAddr>().is_ok() || host_and_port().is_some() {
        return Ok(text.to_owned());
    }
    Err(format!("must be an address and a port such as 127.0.0.1:8080, not `{text}`"))
}

/// The data folder. Its path becomes part of the database's URL, where these characters mean
/// something.
pub(super) fn folder(text: &str) -> Result<&str, String> {
    if text.contains(['?', '%']) {
        return Err("must be a folder without `?` and `%` in its path".to_owned());
    }
    Ok(text)
}

/// The URL of the log.
pub(super) fn log_url(text: &str) -> Result<String, String> {
    one_of(text, &["embedded:", "nats://", "tls://"])
        .ok_or_else(|| "must be embedded:FOLDER, nats://HOST:PORT or tls://HOST:PORT".to_owned())
}

/// The name of a JetStream stream.
pub(super) fn stream(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.len() <= 64 && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err("must be at most 64 letters, digits, `-` and `_`".to_owned())
}

/// Copies of a JetStream stream.
pub(super) fn replicas(count: usize) -> Result<usize, String> {
    if [1, 3, 5].contains(&count) { Ok(count) } else { Err("must be 1, 3 or 5".to_owned()) }
}

/// Bytes of requests at once.
pub(super) fn in_flight_bytes(size: ByteSize) -> Result<ByteSize, String> {
    if size.0 >= PUBLISH_BYTES_MAX as u64 {
        Ok(size)
    } else {
        Err("must be at least 16MiB, the largest publish".to_owned())
    }
}

/// The URL of the state database.
pub(super) fn database_url(text: &str) -> Result<String, String> {
    let url = one_of(text, &["sqlite:", "postgres://", "postgresql://"])
        .ok_or_else(|| "must be sqlite://PATH or postgres://USER@HOST/NAME".to_owned())?;
    if url.starts_with("sqlite:") && url.contains('?') {
        return Err("must be sqlite://PATH without parameters".to_owned());
    }
    Ok(url)
}

/// An `http://` or `https://` URL.
pub(super) fn http_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|error| format!("must be a URL: {error}"))?;
    match url.scheme() {
        "http" | "https" => Ok(text.to_owned()),
        other => Err(format!("must be an http:// or https:// URL, not {other}:")),
    }
}

/// A forward proxy. The text, which may hold a password, is not repeated in the fault.
pub(super) fn proxy(text: &str) -> Result<String, String> {
    let proxy: Result<egress::Proxy, _> = text.parse();
    proxy.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// A key that always holds. The text is not repeated in the fault.
pub(super) fn admin_key(text: &str) -> Result<Secret, String> {
    if text.starts_with("sk_") && text.len() >= ADMIN_KEY_BYTES_MIN && is_visible(text) {
        return Ok(Secret::new(text));
    }
    Err(format!("must start with sk_ and have at least {ADMIN_KEY_BYTES_MIN} characters"))
}

/// 32 bytes as base64. The text is not repeated in the fault.
pub(super) fn encryption_key(text: &str) -> Result<Secret, String> {
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(bytes) if bytes.len() == 32 => Ok(Secret::new(text)),
        _ => Err("must be 32 bytes as base64, such as `openssl rand -base64 32` makes".to_owned()),
    }
}

/// Directives for log lines.
pub(super) fn filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("must be a filter such as `info` or `info,bus=debug`: {error}")),
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn one_of(text: &str, schemes: &[&str]) -> Option<String> {
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme))?;
    (!rest.trim_matches('/').is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for text in ["127.0.0.1:8080", "[::1]:0", "localhost:80", "my-host.example:65535"] {
            assert!(listen(text).is_ok(), "{text}");
        }
        for text in ["", "8080", ":8080", "localhost", "localhost:99999", "a b:1", "::1:80"] {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_have_a_known_scheme_and_a_place() {
        for text in ["embedded:.skald", "nats://a:4222,b:4222", "tls://a"] {
            assert!(log_url(text).is_ok(), "{text}");
        }
        for text in ["", "embedded:", "nats://", "kafka://a", ".skald"] {
            assert!(log_url(text).is_err(), "{text}");
        }
        for text in ["sqlite://a.db", "sqlite:a.db", "postgres://h/d", "postgresql://h/d"] {
            assert!(database_url(text).is_ok(), "{text}");
        }
        for text in ["mysql://h/d", "postgres:", "sqlite://a.db?mode=ro"] {
            assert!(database_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_checked_without_being_repeated() {
        assert!(admin_key("sk_0123456789abcdefgh").is_ok());
        let told = admin_key("0123456789abcdefghijk").unwrap_err();
        assert!(!told.contains("0123"), "{told}");
        assert!(encryption_key(&"A".repeat(43)).is_err());
        assert!(encryption_key(&format!("{}=", "A".repeat(43))).is_ok());
    }

    #[test]
    fn filters_are_parsed() {
        assert!(filter("info,bus=debug").is_ok());
        assert!(filter("bus=loud").is_err());
    }
}
