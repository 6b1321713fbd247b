//! Participants on NATS: commands go out as messages, answers come back over a stream.
//!
//! A command is a plain message on `commands.<participant>.<step>`: one that nobody hears is sent
//! again with the same key, as a call over HTTP that had no answer. The answer goes to the subject in
//! `Skald-Reply-To`, which a stream keeps until it is on the journal, so an answer outlives the node
//! that asked for it. `engine/replies.rs` reads that stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, RetentionPolicy, Stream};
use async_nats::jetstream::{Context, consumer::PullConsumer};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::oneshot;

use super::answer_with;
use super::seen::seen;
use crate::barrier::Asked;
use crate::request::{Answer, Request, RequestId};
use crate::store::{self, SagaRow};

/// Answers on their way to the journal.
const STREAM: &str = "SAGA_REPLIES";
const SUBJECTS: &str = "skald.replies.>";
/// An answer that no node takes goes after this time; its saga has asked again long before.
const KEPT: std::time::Duration = std::time::Duration::from_secs(3 * 24 * 3_600);
/// How long an answer may be on its way to the journal before another attempt.
const ACK_WAIT: std::time::Duration = std::time::Duration::from_secs(30);

/// The way to participants on NATS.
#[derive(Clone)]
pub struct Nats {
    context: Context,
    replicas: usize,
    /// Commands of this node that wait for their answer; telling one ends its waiting.
    waiting: Arc<Mutex<Commands>>,
}

/// What a participant publishes.
#[derive(Deserialize)]
struct Reply {
    status: ReplyStatus,
    #[serde(default)]
    output: Value,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReplyStatus {
    Done,
    Refused,
    Retry,
}

impl Nats {
    /// Over this connection; answers are kept in so many copies.
    #[must_use]
    pub fn new(client: async_nats::Client, replicas: usize) -> Nats {
        let context = async_nats::jetstream::new(client);
        Nats { context, replicas: replicas.max(1), waiting: Arc::default() }
    }

    /// Sends one attempt, and returns when its answer has reached the engine another way.
    ///
    /// # Errors
    /// Why it was not sent.
    pub(super) async fn send(
        &self,
        saga: &SagaRow,
        request: &Request,
        subject: &str,
        body: Option<&Value>,
    ) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        for (name, value) in seen(saga, request) {
            headers.insert(name, value.as_str());
        }
        let asked = asked(&saga.id, &request.id());
        headers.insert("Skald-Reply-To", reply_to(&asked).as_str());
        let body = body.map(Value::to_string).unwrap_or_default();
        // Dropped after `wait`, and so when that is closed.
        let _waiting = Waiting { nats: self, asked: asked.clone() };
        let (answered, wait) = oneshot::channel();
        self.lock().entry(asked).or_default().push(answered);
        let sent = self
            .context
            .client()
            .publish_with_headers(subject.to_owned(), headers, body.into())
            .await;
        sent.map_err(|error| format!("sending the command: {error}"))?;
        let _ = wait.await;
        Ok(())
    }

    /// Ends the waiting for an answer; whether this node waited for it.
    pub(crate) fn answered(&self, asked: &Asked) -> bool {
        let waiting = self.lock().remove(asked).unwrap_or_default();
        waiting.into_iter().filter_map(|one| one.send(()).ok()).count() > 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Commands> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answers for sagas of a shard; each is given to one reader, until it is acknowledged.
    ///
    /// # Errors
    /// Those of the broker.
    pub(crate) async fn replies(&self, shard: i64) -> Result<PullConsumer, async_nats::Error> {
        let stream: Stream = self
            .context
            .get_or_create_stream(Config {
                name: STREAM.to_owned(),
                description: Some("answers of participants of sagas".to_owned()),
                subjects: vec![SUBJECTS.to_owned()],
                retention: RetentionPolicy::WorkQueue,
                max_age: KEPT,
                num_replicas: self.replicas,
                ..Config::default()
            })
            .await?;
        let name = format!("shard-{shard}");
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: format!("skald.replies.{shard}.*"),
            ack_wait: ACK_WAIT,
            ..pull::Config::default()
        };
        Ok(stream.get_or_create_consumer(&name, config).await?)
    }
}

/// Who waits for an answer to which command: two, where the saga has left this node and come back.
type Commands = HashMap<Asked, Vec<oneshot::Sender<()>>>;

/// Forgets a command that is not waited for any more.
struct Waiting<'n> {
    nats: &'n Nats,
    asked: Asked,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut commands = self.nats.lock();
        if let Some(waiting) = commands.get_mut(&self.asked) {
            waiting.retain(|one| !one.is_closed());
            if waiting.is_empty() {
                commands.remove(&self.asked);
            }
        }
    }
}

fn asked(saga: &str, request: &RequestId) -> Asked {
    Asked {
        saga: saga.to_owned(),
        step: request.step.clone(),
        operation: request.operation,
        round: i64::from(request.round),
    }
}

/// Where the answer goes: the shard, so that its node takes it, and the key as one token.
fn reply_to(asked: &Asked) -> String {
    let key = asked.to_string().replace('.', "=");
    format!("skald.replies.{}.{key}", store::shard_of(&asked.saga))
}

/// Reads an answer off its message: who was asked, and what the answer means.
pub(crate) fn read(subject: &str, payload: &[u8]) -> Option<(Asked, Answer)> {
    let key = subject.split('.').nth(3)?.replace('=', ".");
    let asked: Asked = key.parse().ok()?;
    let answer = match serde_json::from_slice::<Reply>(payload) {
        Err(error) => Answer::unclear(format!("answered garbage: {error}")),
        Ok(reply) => {
            let told = || match reply.error {
                Some(Value::String(text)) => text,
                Some(other) => other.to_string(),
                None => "the participant gave no reason".to_owned(),
            };
            match reply.status {
                ReplyStatus::Done => answer_with(reply.output),
                ReplyStatus::Refused => Answer::Refused(told()),
                ReplyStatus::Retry => Answer::unclear(told()),
            }
        }
    };
    Some((asked, answer))
}

impl From<&Asked> for RequestId {
    fn from(asked: &Asked) -> RequestId {
        let round = u32::try_from(asked.round).unwrap_or(0);
        RequestId { step: asked.step.clone(), operation: asked.operation, round }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transition::Operation;

    #[test]
    fn an_answer_finds_its_saga_whatever_its_name() {
        for saga in ["order-42", "a..b.", "orders:x_1"] {
            let operation = Operation::Compensation;
            let asked = Asked { saga: saga.into(), step: "each.7".into(), operation, round: 2 };
            let subject = reply_to(&asked);
            assert!(subject.split('.').all(|token| !token.is_empty()), "{subject}");
            let payload = json!({"status": "done", "output": {"id": 1}}).to_string();
            let (read, answer) = read(&subject, payload.as_bytes()).unwrap();
            assert_eq!((read, answer), (asked, Answer::Done(json!({"id": 1}))));
        }
    }

    #[test]
    fn answers_mean_what_they_say_and_garbage_is_no_answer() {
        let subject = "skald.replies.3.s/a/action/1";
        let answer = |text: &str| read(subject, text.as_bytes()).unwrap().1;
        assert_eq!(answer(r#"{"status":"refused","error":"no"}"#), Answer::Refused("no".into()));
        assert!(matches!(answer(r#"{"status":"retry"}"#), Answer::Unclear { .. }));
        for garbage in ["", "{", r#"{"status":"maybe"}"#, "[]"] {
            assert!(matches!(answer(garbage), Answer::Unclear { .. }), "{garbage}");
        }
        assert!(read("skald.replies.3.x", b"{}").is_none());
    }
}
