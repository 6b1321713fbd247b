//! Bodies that are refused before they were read: the rest is read and thrown away, within bounds.
//!
//! A server that answers early and closes makes the client's kernel drop the answer while it is
//! still sending (RFC 9112, section 9.6), so the client sees a broken pipe and not the reason.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Error;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Bodies up to this length are read by the connection anyway.
const SMALL: u64 = 64 * 1024;
/// Most bytes read and thrown away.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest time for it.
const TIME_MAX: Duration = Duration::from_secs(5);

/// `body`, with its rest read when it is dropped early. The length of one that was compressed is
/// not known before its end.
pub(crate) fn linger(body: Body) -> Body {
    let small = body.size_hint().upper().is_some_and(|length| length <= SMALL);
    if small || body.is_end_stream() { body } else { Body::new(Lingering(Some(body))) }
}

/// A body that is not at its end; `None` after that.
struct Lingering(Option<Body>);

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = frame {
            self.0 = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) {
            tokio::spawn(tokio::time::timeout(TIME_MAX, discard(body)));
        }
    }
}

async fn discard(body: Body) {
    let mut left = BYTES_MAX;
    let mut chunks = body.into_data_stream();
    while let Some(Ok(chunk)) = chunks.next().await {
        let Some(rest) = left.checked_sub(chunk.len()) else { return };
        left = rest;
    }
}
