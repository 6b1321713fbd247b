//! Who is calling, and whether they may.

use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{Method, Version, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::api::problem::Problem;
use crate::api::{Access, State};
use crate::keys::{Principal, Scope};

/// Whether an address needs no key.
pub(crate) fn is_open(path: &str) -> bool {
    path == "/healthz" || path == "/readyz" || path.starts_with("/.well-known/")
}

/// Lets a request in, or refuses it.
pub(crate) async fn admit(state: &State, request: &Parts) -> Result<Principal, Problem> {
    let (headers, path) = (&request.headers, request.uri.path());
    if request.version == Version::HTTP_11 && !headers.contains_key(header::HOST) {
        return Err(Problem::malformed("the header Host is missing (RFC 9112, section 3.2)"));
    }
    if state.access == Access::Loopback {
        check_origin(request)?;
    }
    if is_open(path) {
        return Ok(Principal::local()); // Whatever key is sent along.
    }
    let Some(header) = headers.get(header::AUTHORIZATION) else {
        if state.access == Access::Loopback {
            return Ok(Principal::local());
        }
        return Err(Problem::unauthorized("send `Authorization: Bearer sk_…`"));
    };
    let (scheme, credentials) =
        header.to_str().ok().and_then(|value| value.split_once(' ')).unwrap_or_default();
    let key = if scheme.eq_ignore_ascii_case("bearer") {
        credentials.trim().to_owned()
    } else if let Some(key) = password(scheme, credentials) {
        // A browser sends it along with whatever a page of somebody else's makes it call.
        check_same_origin(request)?;
        key
    } else {
        return Err(Problem::unauthorized("send `Authorization: Bearer sk_…`"));
    };
    // Beside, so that requests that need no look-up do not carry the room for one around.
    let principal = Box::pin(state.keys.find(&key)).await?;
    let principal = principal.ok_or_else(|| Problem::unauthorized("this key does not hold"))?;
    let wanted = scope(&request.method, path);
    if !principal.scopes.allow(wanted) {
        let detail = format!("this key may not do that: it needs the scope {wanted:?}");
        return Err(Problem::forbidden(detail.to_lowercase()));
    }
    if principal.tenant.is_some() && !tenant_bound(path) {
        return Err(Problem::forbidden("a key bound to a tenant reaches only events"));
    }
    Ok(principal)
}

/// Whether a request may take a while because it was asked to: long polls, replays, which count
/// their events first, and tests of webhooks, which wait for the endpoint.
pub(crate) fn waits(path: &str) -> bool {
    let webhook = path.starts_with("/v1/webhooks/");
    (webhook && (path.ends_with("/test") || path.ends_with("/recover")))
        || path.ends_with("/lease")
        || path == "/v1/replays"
        || path.starts_with("/v1/sagas")
        || path == "/v1/wait"
}

fn scope(method: &Method, path: &str) -> Scope {
    if path == "/v1/events" && *method == Method::POST {
        return Scope::Publish;
    }
    // Who knows a secret can sign.
    let secret = path.starts_with("/v1/webhooks/") && path.ends_with("/secret");
    let reads = [Method::GET, Method::HEAD].contains(method) || path == "/v1/wait";
    if reads && !secret { Scope::Read } else { Scope::Operate }
}

fn tenant_bound(path: &str) -> bool {
    path == "/v1/events" || path == "/v1/events/stream"
}

/// The password of basic credentials, as browsers send what was typed into their own dialogue.
fn password(scheme: &str, credentials: &str) -> Option<String> {
    let basic = scheme.eq_ignore_ascii_case("basic");
    let decoded = BASE64_STANDARD.decode(credentials.trim()).ok().filter(|_| basic)?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// A web page must not reach a developer's server: neither under a name that its author controls
/// (DNS rebinding), nor by a request from another origin.
fn check_origin(request: &Parts) -> Result<(), Problem> {
    if hosts(request).any(|host| !host.is_empty() && !is_loopback(host)) {
        return Err(Problem::forbidden(
            "without keys only loopback names are answered, such as localhost or 127.0.0.1",
        ));
    }
    check_same_origin(request)
}

/// All that a request says of whom it is for: HTTP/2 has it in the address, as has HTTP/1.1 when it is
/// sent to a proxy. What is no text is no name that is known.
fn hosts(request: &Parts) -> impl Iterator<Item = &str> {
    let named = request.headers.get_all(header::HOST).iter();
    let named = named.map(|host| host.to_str().unwrap_or("?"));
    request.uri.authority().map(Authority::as_str).into_iter().chain(named)
}

/// What a page of another origin makes a browser call is refused. Only a link may lead here, which shows
/// nothing to the page that it stands on.
fn check_same_origin(request: &Parts) -> Result<(), Problem> {
    let follows = request.headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    if follows && request.method == Method::GET {
        return Ok(());
    }
    let same = |origin: &str| {
        let to = origin.split_once("://").map(|(_, rest)| rest);
        to.is_some_and(|to| hosts(request).any(|host| host == to))
    };
    let mut origins = request.headers.get_all(header::ORIGIN).iter();
    // Browsers that send no origin with a simple request say at least that it crosses origins.
    let crosses = request.headers.get("sec-fetch-site");
    let crosses = crosses.is_some_and(|site| site == "cross-site" || site == "same-site");
    if crosses || origins.any(|origin| !origin.to_str().is_ok_and(same)) {
        return Err(Problem::forbidden("calls from pages of other origins are refused"));
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let address = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    address || name.eq_ignore_ascii_case("localhost") || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_loopback() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:80", "a.localhost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["evil.com", "127.0.0.1.evil.com", "10.0.0.1:80", "localhost.evil.com"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
