//! What came back.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::egress_error::EgressError;
use crate::retry_after;

/// How many bytes of a body are read, unless the client says otherwise. Enough to show a person what an endpoint answered, little
/// enough to keep for thousands of exchanges at once.
pub const RESPONSE_BODY_BYTES_MAX: usize = 64 * 1024;

/// What came back, whatever its status: a redirect is handed over, never followed.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it was sent, at most [`RESPONSE_BODY_BYTES_MAX`] bytes of it, or as many as the
    /// client was made for.
    pub body: Bytes,
    /// Whether there was more body than that; the rest was not read.
    pub truncated: bool,
    /// Why the body is not there to its end; see [`crate::Egress::send_for_status`].
    pub cut: Option<EgressError>,
    /// How long the exchange took, from the name lookup to the end of the body.
    pub duration: Duration,
}

impl Response {
    /// How long the other side asks to be left alone, by its `Retry-After` header.
    ///
    /// Takes seconds or any HTTP date of RFC 9110; at most 24 hours, zero for a time gone by.
    /// `None` without the header, or when it cannot be read.
    pub fn retry_after(&self, now_unix_seconds: i64) -> Option<Duration> {
        retry_after::read(&self.headers, now_unix_seconds)
    }
}

/// Reads a body up to `bytes_max` into `body`; true means that there was more.
///
/// Dropping the rest then closes the connection, so it is never received.
pub(crate) async fn read_body(
    mut from: Incoming,
    bytes_max: usize,
    body: &mut BytesMut,
) -> Result<bool, hyper::Error> {
    while let Some(frame) = from.frame().await {
        let Ok(chunk) = frame?.into_data() else { continue };
        let room = bytes_max - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            return Ok(true);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(false)
}
