//! A request to an address that somebody else chose.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method};

use crate::target::Target;

/// Headers that belong to the connection. A customer who could set them could address another
/// virtual host, or make the server see a different request than the one that was sent.
const OWNED_HEADERS: [HeaderName; 11] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Headers that no configuration sets: they belong to the connection, to the body, to the way of the
/// request or to its trace.
const RESERVED_HEADERS: [&str; 20] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];

/// Whether a header, named in lower case, is one that no configuration sets.
#[must_use]
pub fn is_reserved_header(name: &str) -> bool {
    RESERVED_HEADERS.contains(&name)
}

/// A request to an address that somebody else chose.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method, usually POST.
    pub method: Method,
    /// Where it goes.
    pub url: Target,
    /// Its headers. Those of the connection (`Host`, `Content-Length`, `Connection`,
    /// `Transfer-Encoding` and such) are left out when it is sent; `User-Agent` is filled in.
    pub headers: HeaderMap,
    /// Its body; may be empty.
    pub body: Bytes,
    /// How long the whole exchange may take, from the name lookup to the end of the body.
    pub timeout: Duration,
}

/// Takes out the headers that belong to the connection.
pub(crate) fn without_owned_headers(mut headers: HeaderMap) -> HeaderMap {
    for name in &OWNED_HEADERS {
        headers.remove(name);
    }
    headers
}
