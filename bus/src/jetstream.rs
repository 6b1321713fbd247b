//! The log on a JetStream stream: any number of nodes, one total order.
//!
//! `connection` finds or makes the stream. `publish` appends with acknowledgements in flight. A
//! `follow`er per node reads on from the head and keeps the newest events in memory, where consumers
//! that keep up find them; `scan` reads what lies further back. `message` makes events of whatever
//! NATS clients publish. `prune` deletes. When the stream is not the one it was, that is a `fault`,
//! and nothing is published or read any more.

mod connection;
mod fault;
mod follow;
mod message;
mod prune;
mod publish;
mod restore;
mod scan;
mod subjects;
mod wake;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::Info;
use async_trait::async_trait;
use schemas::{Event, EventType, Patterns, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::jetstream::fault::Fault;
use crate::jetstream::follow::Follower;
use crate::jetstream::message::RestoredThrough;
use crate::jetstream::prune::Sizes;
use crate::jetstream::publish::{Publisher, seq};
use crate::jetstream::scan::Scanner;
use crate::log::{Restored, check_size};
use crate::recent::Recent;
use crate::{
    Log, LogState, Page, Pruned, PublishError, Read, ReadError, Receipt, Recorded, Retention, Seq,
    Signals, span,
};

pub use connection::{ConnectError, JetStreamOptions};

/// How long a reader waits for memory to have what the stream has already.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The log of the distributed profile.
pub struct JetStreamLog {
    context: Context,
    name: String,
    replicas: usize,
    identity: String,
    publisher: Publisher,
    scanner: Scanner,
    recent: Arc<Recent>,
    head: watch::Receiver<Seq>,
    restored: RestoredThrough,
    /// Until the first reader comes: who only publishes is sent nothing.
    follower: Mutex<Option<Follower>>,
    fault: Fault,
    sizes: Sizes,
    stop: CancellationToken,
}

impl JetStreamLog {
    /// Connects, and makes or checks the stream.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn open(options: &JetStreamOptions) -> Result<JetStreamLog, ConnectError> {
        let context = connection::context(connection::connect(options).await?);
        let info = connection::prepare(&context, options).await?;
        let fail = |source| ConnectError::Stream { stream: options.stream.clone(), source };
        let stream = context.get_stream_no_info(&options.stream).await;
        let stream = stream.map_err(|error| fail(error.into()))?;

        let fault = Fault::none();
        let stop = CancellationToken::new();
        let recent = Arc::new(Recent::default());
        let last = seq(info.state.last_sequence);
        let restored = RestoredThrough::new(restore::restored_through(&info));
        let (sender, head) = watch::channel(last);
        let follower = Follower {
            stream: stream.clone(),
            recent: Arc::clone(&recent),
            restored: restored.clone(),
            head: sender,
            fault: fault.clone(),
            stop: stop.clone(),
        };
        let (identity, name) = (identity(&info), options.stream.clone());
        tokio::spawn(follow::watch(
            context.clone(),
            name.clone(),
            identity.clone(),
            head.clone(),
            fault.clone(),
            stop.clone(),
        ));
        let publisher = Publisher::new(context.clone(), name.clone(), last, fault.clone());
        Ok(JetStreamLog {
            context,
            name,
            replicas: options.replicas.max(1),
            identity,
            publisher,
            scanner: Scanner::new(stream, restored.clone()),
            recent,
            head,
            restored,
            follower: Mutex::new(Some(follower)),
            fault,
            sizes: Sizes::default(),
            stop,
        })
    }

    /// The connection, for what else travels on it.
    #[must_use]
    pub fn client(&self) -> async_nats::Client {
        self.context.client()
    }

    /// The newest position that has arrived here, from the first call on kept up to date.
    fn followed(&self) -> watch::Receiver<Seq> {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(follower) = follower.take() {
            tokio::spawn(follower.run());
        }
        self.head.clone()
    }

    /// The stream, as its leader sees it.
    async fn info(&self) -> Result<Info, ReadError> {
        self.fault.check_read()?;
        let info = scan::answered(|| self.scanner.stream.get_info()).await;
        info.and_then(|info| Ok(info?)).map_err(ReadError::Read)
    }

    /// The newest position that the stream has, and memory too, unless it takes too long to come.
    async fn last(&self) -> Result<Seq, ReadError> {
        let last = seq(self.info().await?.state.last_sequence);
        let mut head = self.followed();
        let _ = tokio::time::timeout(CATCH_UP, head.wait_for(|head| *head >= last)).await;
        Ok(last)
    }
}

impl Drop for JetStreamLog {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Which stream this is: one that is made again has another time of making.
fn identity(info: &Info) -> String {
    format!("{} {}", info.config.name, message::moment(info.created.unix_timestamp_nanos()))
}

#[async_trait]
impl Log for JetStreamLog {
    async fn publish_all(&self, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError> {
        let bytes = check_size(&events)?;
        let span = span::publish(events.len(), bytes);
        if span.is_disabled() {
            return self.publisher.publish(&events).await;
        }
        self.publisher.publish(&events).instrument(span).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.fault.check_read()?;
        if let Some(page) = self.recent.read(&read).filter(|page| page.through > read.after) {
            return Ok(page);
        }
        let until = self.last().await?.min(read.until);
        if until <= read.after {
            return Ok(Page { events: Vec::new(), through: read.after });
        }
        if let Some(page) = self.recent.read(&read).filter(|page| page.through > read.after) {
            return Ok(page);
        }
        self.scanner.forward(&read, until).await
    }

    async fn read_back(&self, read: Read) -> Result<Page, ReadError> {
        let info = self.info().await?;
        let until = self.last().await?.min(read.until);
        let oldest = seq(info.state.first_sequence).previous();
        let read = Read { until, after: read.after.max(oldest), ..read };
        if until <= read.after {
            return Ok(Page { events: Vec::new(), through: read.after.next() });
        }
        let mut page = Page { events: Vec::new(), through: until.next() };
        if let Some(recent) = self.recent.read_back(&read) {
            page = recent;
            if page.events.len() == read.events_max {
                return Ok(page);
            }
        }
        let from = page.through.previous();
        self.scanner.back(&read, from, page).await
    }

    async fn get(&self, seqs: &[Seq]) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let known = self.recent.get(seqs);
        let unknown = seqs.iter().zip(&known).filter(|(_, known)| known.is_none());
        let unknown: Vec<Seq> = unknown.map(|(seq, _)| *seq).collect();
        if !unknown.is_empty() {
            self.fault.check_read()?;
        }
        let mut found = self.scanner.get(unknown).await?.into_iter();
        let all = known.into_iter().map(|known| known.or_else(|| found.next().flatten()));
        Ok(all.flatten().collect())
    }

    async fn count(&self, after: Seq, until: Seq, types: &Patterns) -> Result<u64, ReadError> {
        let until = until.min(self.last().await?);
        if after >= until {
            return Ok(0);
        }
        match self.recent.count(after, until, types) {
            Some(count) => Ok(count),
            None => self.scanner.count(after, until, types).await,
        }
    }

    async fn position_at(&self, at: Timestamp) -> Result<Seq, ReadError> {
        let last = self.last().await?;
        self.scanner.position_at(at, last).await
    }

    async fn state(&self) -> Result<LogState, ReadError> {
        let info = self.info().await?;
        let last = seq(info.state.last_sequence);
        let first =
            if info.state.messages == 0 { last.next() } else { seq(info.state.first_sequence) };
        Ok(LogState { identity: self.identity.clone(), first, last })
    }

    fn head(&self) -> watch::Receiver<Seq> {
        self.followed()
    }

    async fn prune(
        &self,
        rules: &[Retention],
        consumed: Seq,
        now: Timestamp,
    ) -> Result<Pruned, ReadError> {
        prune::prune(self, rules, consumed, now).await
    }

    async fn pruned_through(&self) -> Result<Vec<(EventType, Timestamp)>, ReadError> {
        prune::pruned_through(self).await
    }

    async fn restore(
        &self,
        events: Vec<Recorded>,
        end: Option<Restored>,
    ) -> Result<(), PublishError> {
        restore::restore(self, events, end).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn fault(&self) -> Option<Arc<str>> {
        self.fault.get()
    }

    async fn carry(&self, signals: &Signals, stop: CancellationToken) {
        wake::carry(&self.context.client(), &self.name, signals, stop).await;
    }
}
