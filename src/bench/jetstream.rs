//! The reference: JetStream with a file store, driven by its own client as fast as that goes.
//!
//! It acknowledges before it syncs: by default a server writes to the disk every two minutes. The
//! log answers only after the sync.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream::consumer::pull::MessagesErrorKind;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{Context, PublishAckFuture};
use async_nats::jetstream::stream::{self, StorageType, Stream};
use bytes::Bytes;
use futures::StreamExt as _;

use super::load::{Events, data};

/// Publishes that wait for their acknowledgement at once.
const WINDOW: usize = 1_000;
/// Messages asked for at once.
const BATCH: usize = 200;
const STREAM: &str = "bench";
const SUBJECT: &str = "bench.measured";
/// The consumer.
const NAME: &str = "bench";
/// How often a consumer's acknowledgements are asked for at the end.
const LOOK: Duration = Duration::from_millis(2);

/// A client of the server.
pub(super) struct JetStream {
    context: Context,
    payload: Bytes,
}

impl JetStream {
    pub(super) async fn connect(address: &str) -> anyhow::Result<JetStream> {
        let client = async_nats::connect(address).await.context("connecting to nats-server")?;
        let context = async_nats::jetstream::new(client);
        Ok(JetStream { context, payload: Bytes::from(data()) })
    }

    /// Messages acknowledged per second while one client publishes for `length`.
    pub(super) async fn publish(&self, length: Duration) -> anyhow::Result<f64> {
        let stream = self.make().await?;
        let started = Instant::now();
        let sent = self.pipeline(|_| started.elapsed() < length).await?;
        let rate = per_second(sent, started);
        self.delete(stream).await?;
        Ok(rate)
    }

    /// The same with the messages that events travel as, each with an id that the server remembers.
    pub(super) async fn publish_events(&self, length: Duration) -> anyhow::Result<f64> {
        let stream = self.make().await?;
        let started = Instant::now();
        let events = Events::new();
        let mut window: VecDeque<PublishAckFuture> = VecDeque::with_capacity(WINDOW);
        let mut sent = 0;
        while started.elapsed() < length {
            if window.len() == WINDOW
                && let Some(oldest) = window.pop_front()
            {
                oldest.await?;
            }
            let event = events.one();
            let (attributes, payload) = schemas::nats::to_message(&event);
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("{} {}", event.source, event.id));
            for (name, value) in attributes {
                headers.insert(name.into_owned(), value);
            }
            let sending = self.context.publish_with_headers(SUBJECT, headers, payload);
            window.push_back(sending.await?);
            sent += 1;
        }
        for acknowledgement in window {
            acknowledgement.await?;
        }
        let rate = per_second(sent, started);
        self.delete(stream).await?;
        Ok(rate)
    }

    /// A stream with `count` messages.
    pub(super) async fn filled(&self, count: u64) -> anyhow::Result<Stream> {
        let stream = self.make().await?;
        self.pipeline(|sent| sent < count).await?;
        Ok(stream)
    }

    /// Messages per second that a new durable consumer pulls and acknowledges one by one.
    pub(super) async fn pull_and_ack(&self, stream: &Stream, count: u64) -> anyhow::Result<f64> {
        for _ in 0..3 {
            let rate = self.try_pull_and_ack(stream, count).await?;
            stream.delete_consumer(NAME).await?;
            match rate {
                Some(rate) => return Ok(rate),
                None => tracing::warn!("the server of the reference said nothing for 10 s: again"),
            }
        }
        anyhow::bail!("the server of the reference stalls again and again")
    }

    /// `None` when the server stalled: that is no measurement.
    async fn try_pull_and_ack(&self, stream: &Stream, count: u64) -> anyhow::Result<Option<f64>> {
        let config = pull::Config {
            durable_name: Some(NAME.to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: 10_000,
            ..pull::Config::default()
        };
        let mut consumer: PullConsumer = stream.create_consumer(config).await?;
        let started = Instant::now();
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .heartbeat(Duration::from_secs(5))
            .expires(Duration::from_secs(30))
            .messages()
            .await?;
        for _ in 0..count {
            let message = match messages.next().await.context("the consumer ended")? {
                Err(error) if error.kind() == MessagesErrorKind::MissingHeartbeat => {
                    return Ok(None);
                }
                message => message?,
            };
            message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
        }
        // An acknowledgement is not answered: the server is asked whether it has had them all.
        while consumer.info().await?.ack_floor.stream_sequence < count {
            tokio::time::sleep(LOOK).await;
        }
        Ok(Some(per_second(count, started)))
    }

    /// Messages per second that an ordered consumer reads from the start.
    pub(super) async fn read(&self, stream: &Stream, count: u64) -> anyhow::Result<f64> {
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
        let started = Instant::now();
        let mut messages = consumer.messages().await?;
        for _ in 0..count {
            messages.next().await.context("the consumer ended")??;
        }
        Ok(per_second(count, started))
    }

    /// Deletes a stream.
    pub(super) async fn delete(&self, stream: Stream) -> anyhow::Result<()> {
        self.context.delete_stream(stream.cached_info().config.name.clone()).await?;
        Ok(())
    }

    async fn make(&self) -> anyhow::Result<Stream> {
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            storage: StorageType::File,
            ..stream::Config::default()
        };
        self.context.create_stream(config).await.context("making a stream")
    }

    /// Publishes while `more` says so, given how many were sent, and waits for the rest.
    async fn pipeline(&self, more: impl Fn(u64) -> bool) -> anyhow::Result<u64> {
        let mut window: VecDeque<PublishAckFuture> = VecDeque::with_capacity(WINDOW);
        let mut sent = 0;
        while more(sent) {
            if window.len() == WINDOW
                && let Some(oldest) = window.pop_front()
            {
                oldest.await?;
            }
            window.push_back(self.context.publish(SUBJECT, self.payload.clone()).await?);
            sent += 1;
        }
        for acknowledgement in window {
            acknowledgement.await?;
        }
        Ok(sent)
    }
}

/// `count` by the time since `started`.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(super) fn per_second(count: u64, started: Instant) -> f64 {
    count as f64 / started.elapsed().as_secs_f64()
}
