//! Bodies of requests under way, which are bounded together and not each by itself alone.
//!
//! A thousand requests with the largest body allowed would be 16 GB. A body counts as it comes and until
//! its request is answered: what was read of it is held by then as bytes, as events, or as both.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::Error;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Bodies up to this length (bytes) are not counted: as many as there may be requests are no burden.
const SMALL: u64 = 64 * 1024;

/// The room for all bodies.
pub struct Bodies {
    bytes_max: u64,
    bytes: AtomicU64,
}

/// There is no room left.
#[derive(Debug, thiserror::Error)]
#[error("too many bytes of requests at once")]
pub(crate) struct Full;

impl Full {
    /// Each layer around a body wraps its errors.
    pub(crate) fn is_cause_of(error: &(dyn StdError + 'static)) -> bool {
        let mut causes = std::iter::successors(Some(error), |&error| error.source());
        causes.any(|cause| cause.downcast_ref::<Full>().is_some())
    }
}

impl Bodies {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Arc<Bodies> {
        Arc::new(Bodies { bytes_max, bytes: AtomicU64::new(0) })
    }

    /// `body`, counted from now until what is returned beside it is dropped.
    pub(crate) fn count(self: &Arc<Bodies>, body: Body) -> (Body, Option<Arc<Share>>) {
        if body.size_hint().upper().is_some_and(|length| length <= SMALL) {
            return (body, None);
        }
        let share = Arc::new(Share { bodies: Arc::clone(self), bytes: AtomicU64::new(0) });
        (Body::new(Counted { body, share: Arc::clone(&share) }), Some(share))
    }
}

/// What one request has taken of the room. Dropped, it gives it back.
pub(crate) struct Share {
    bodies: Arc<Bodies>,
    bytes: AtomicU64,
}

impl Share {
    fn take(&self, bytes: u64) -> Result<(), Full> {
        let before = self.bodies.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.bodies.bytes_max { Err(Full) } else { Ok(()) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bodies.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// A body that takes its share as it comes.
struct Counted {
    body: Body,
    share: Arc<Share>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(full) = self.share.take(data.len() as u64)
        {
            return Poll::Ready(Some(Err(Error::new(full))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use futures::stream;

    use super::*;

    fn of_unknown_length(bytes: usize) -> Body {
        Body::from_stream(stream::iter([Ok::<_, Error>(Bytes::from(vec![0; bytes]))]))
    }

    #[tokio::test]
    async fn what_is_under_way_is_bounded_together() {
        let bodies = Bodies::new(100_000);
        let (first, share) = bodies.count(Body::from(vec![0; 70_000]));
        assert_eq!(to_bytes(first, usize::MAX).await.unwrap().len(), 70_000);
        // Its request is not answered yet, so there is no room for as much again.
        let (second, its_share) = bodies.count(of_unknown_length(70_000));
        let refused = to_bytes(second, usize::MAX).await.unwrap_err();
        assert!(Full::is_cause_of(&refused));
        drop(its_share);
        let (small, none) = bodies.count(Body::from(vec![0; 60_000]));
        assert!(none.is_none() && to_bytes(small, usize::MAX).await.is_ok());
        drop(share);
        let (third, _share) = bodies.count(of_unknown_length(100_000));
        assert!(to_bytes(third, usize::MAX).await.is_ok());
    }
}
