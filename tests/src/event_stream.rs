//! Server-sent events, read one by one.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::pin::Pin;

use crate::{Call, DEADLINE};

/// An open stream.
pub struct EventStream {
    chunks: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    unread: String,
}

/// One message.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Its id.
    pub id: String,
    /// Its data.
    pub data: String,
}

impl EventStream {
    /// Opens the stream that a call answers with.
    ///
    /// # Panics
    /// When it answers something else.
    pub async fn open(call: Call) -> EventStream {
        let response = call.header("accept", "text/event-stream").open().await;
        assert_eq!(response.status(), 200);
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        assert!(kind.is_some_and(|kind| kind.starts_with("text/event-stream")), "{kind:?}");
        EventStream { chunks: Box::pin(response.bytes_stream()), unread: String::new() }
    }

    /// The next message; comments are passed over.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(DEADLINE, self.read()).await;
        next.expect("a message in time").expect("a message before the end")
    }

    /// Whether the server ends the stream within `time`; messages before that are passed over.
    pub async fn ends_within(&mut self, time: Duration) -> bool {
        let to_the_end = async { while self.read().await.is_some() {} };
        tokio::time::timeout(time, to_the_end).await.is_ok()
    }

    async fn read(&mut self) -> Option<Message> {
        loop {
            while let Some((block, rest)) = self.unread.split_once("\n\n") {
                let message = parse(block);
                self.unread = rest.to_owned();
                if message.is_some() {
                    return message;
                }
            }
            let chunk = self.chunks.next().await?.ok()?;
            self.unread.push_str(&String::from_utf8_lossy(&chunk));
        }
    }
}

fn parse(block: &str) -> Option<Message> {
    let mut message = Message::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':')?;
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut message.id),
            "data" => message.data.push_str(value),
            _ => {}
        }
    }
    (!message.data.is_empty()).then_some(message)
}
