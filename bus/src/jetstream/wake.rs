//! Wake-ups between nodes, as plain messages: one that is lost costs a second, nothing else.

use std::time::Duration;

use async_nats::Client;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::Signals;

/// Wake-ups are gathered this long before the next message.
const GATHER: Duration = Duration::from_millis(2);
/// Wait before subscribing again.
const PAUSE: Duration = Duration::from_secs(1);
/// Carries a random number that tells a node its own messages.
const SENDER: &str = "Skald-Node";

/// Tells the other nodes of a stream what is notified here, and the tasks here what is notified
/// there.
pub(super) async fn carry(
    client: &Client,
    stream: &str,
    signals: &Signals,
    stop: CancellationToken,
) {
    let subject = format!("skald.signals.{stream}");
    let me = uuid::Uuid::now_v7().simple().to_string();
    tokio::select! {
        () = stop.cancelled() => {}
        () = send(client, &subject, &me, signals) => {}
        () = receive(client, &subject, &me, signals) => {}
    }
}

async fn send(client: &Client, subject: &str, me: &str, signals: &Signals) {
    loop {
        let topics = signals.untold().await.join(" ");
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(SENDER, me);
        let sent = client.publish_with_headers(subject.to_owned(), headers, topics.into()).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "waking other nodes");
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn receive(client: &Client, subject: &str, me: &str, signals: &Signals) {
    loop {
        match client.subscribe(subject.to_owned()).await {
            Ok(mut messages) => {
                while let Some(message) = messages.next().await {
                    let headers = message.headers.as_ref();
                    let sender = headers.and_then(|headers| headers.get(SENDER));
                    if sender.is_some_and(|sender| sender.as_str() == me) {
                        continue;
                    }
                    let topics = std::str::from_utf8(&message.payload).unwrap_or_default();
                    topics.split(' ').for_each(|topic| signals.arrived(topic));
                }
            }
            Err(error) => tracing::debug!(%error, "listening for other nodes"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
