//! Follows the log live, over any backend.

use std::sync::Arc;

use futures::Stream;
use schemas::Patterns;

use crate::{Log, Read, ReadError, Recorded, Seq};

/// Events read in one go. Whoever follows slowly holds them all that time.
const PAGE: usize = 64;

/// Every event of `types` after `after`, then each new one as it is recorded. Ends when the log is
/// closed, or with the error that stopped it.
pub fn tail(
    log: Arc<dyn Log>,
    after: Seq,
    types: Patterns,
) -> impl Stream<Item = Result<Arc<Recorded>, ReadError>> + Send {
    let state = Tail { head: log.head(), log, after, types, page: Vec::new().into_iter() };
    futures::stream::try_unfold(state, |mut state| async move {
        Ok(state.next().await?.map(|event| (event, state)))
    })
}

struct Tail {
    log: Arc<dyn Log>,
    head: tokio::sync::watch::Receiver<Seq>,
    after: Seq,
    types: Patterns,
    page: std::vec::IntoIter<Arc<Recorded>>,
}

impl Tail {
    async fn next(&mut self) -> Result<Option<Arc<Recorded>>, ReadError> {
        loop {
            if let Some(event) = self.page.next() {
                return Ok(Some(event));
            }
            let after = self.after;
            if self.head.wait_for(|head| *head > after).await.is_err() {
                return Ok(None);
            }
            let read = Read::after(after).types(self.types.clone()).limit(PAGE);
            let page = self.log.read(read).await?;
            self.after = page.through;
            self.page = page.events.into_iter();
        }
    }
}
