//! A participant in Rust: a service that sagas call over HTTP or NATS, safe to be asked twice.
//!
//! What the service does is a [`Participant`]; a [`Service`] puts the [`barrier`]
//! around it, one transaction in the service's own database for each call, and speaks both wires:
//! [`Service::http`] answers one request of whatever HTTP server there is, [`Service::serve_nats`]
//! answers commands.
//!
//! ```no_run
//! use orchestrator::service::{Command, Participant, Service};
//! use orchestrator::StepError;
//! use serde_json::{Value, json};
//! use sqlx::AnyConnection;
//!
//! /// Holds items back for orders.
//! struct Stock;
//!
//! #[async_trait::async_trait]
//! impl Participant for Stock {
//!     async fn act(&self, tx: &mut AnyConnection, command: &Command) -> Result<Value, StepError> {
//!         let take = sqlx::query("update item set free = free - 1 where free > 0 and name = $1");
//!         let name = command.body["item"].as_str().unwrap_or_default().to_owned();
//!         match take.bind(name.clone()).execute(tx).await?.rows_affected() {
//!             0 => Err(StepError::refused("sold out")),
//!             _ => Ok(json!({ "item": name })),
//!         }
//!     }
//!
//!     async fn undo(&self, tx: &mut AnyConnection, receipt: Value, _: &Command) -> Result<(), StepError> {
//!         let give = sqlx::query("update item set free = free + 1 where name = $1");
//!         let name = receipt["item"].as_str().unwrap_or_default().to_owned();
//!         give.bind(name).execute(tx).await?;
//!         Ok(())
//!     }
//! }
//!
//! # async fn run(db: sqlx::AnyPool, nats: async_nats::Client) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! Service::new(db, Stock).await?.serve_nats(nats, "stock").await?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use async_nats::HeaderMap as NatsHeaders;
use async_trait::async_trait;
use futures::StreamExt as _;
use http::HeaderMap;
use serde_json::{Value, json};
use sqlx::{AnyConnection, AnyPool};
use tokio::sync::Semaphore;

use crate::barrier::{self, Answer, Turn};
use crate::rust_saga::StepError;

/// Commands that one service works on at once.
const AT_ONCE: usize = 64;

/// What is asked of a service.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its idempotency key in parts: saga, step, which half, round.
    pub key: barrier::Asked,
    /// The path of the URL, or the last part of the command's subject.
    pub name: String,
    /// The JSON body; null without one.
    pub body: Value,
}

/// What a service does for sagas, in its own database.
#[async_trait]
pub trait Participant: Send + Sync + 'static {
    /// Does it. What it writes to `tx` is committed with its answer, and is gone when it refuses.
    ///
    /// # Errors
    /// [`StepError::refused`] for good; anything else means that nobody knows, and it is asked again.
    async fn act(&self, tx: &mut AnyConnection, command: &Command) -> Result<Value, StepError>;

    /// Undoes what `act` answered with `receipt`. Not called for what was never done.
    ///
    /// # Errors
    /// It is asked again, and by and by a person is.
    async fn undo(
        &self,
        tx: &mut AnyConnection,
        receipt: Value,
        command: &Command,
    ) -> Result<(), StepError>;
}

/// A participant behind the barrier.
pub struct Service<P> {
    db: AnyPool,
    participant: Arc<P>,
}

impl<P> Clone for Service<P> {
    fn clone(&self) -> Service<P> {
        Service { db: self.db.clone(), participant: Arc::clone(&self.participant) }
    }
}

impl<P: Participant> Service<P> {
    /// Makes the barrier's table where it is missing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn new(db: AnyPool, participant: P) -> Result<Service<P>, sqlx::Error> {
        sqlx::query(barrier::TABLE).execute(&db).await?;
        Ok(Service { db, participant: Arc::new(participant) })
    }

    /// Answers one call; `Err` says why nobody knows what became of it.
    ///
    /// # Errors
    /// Nothing was done: the caller asks again.
    pub async fn answer(&self, key: &str, name: &str, body: &[u8]) -> Result<Answer, String> {
        let key: barrier::Asked = key.parse().map_err(told)?;
        let is_empty = body.iter().all(u8::is_ascii_whitespace);
        let body =
            if is_empty { Value::Null } else { serde_json::from_slice(body).map_err(told)? };
        let command = Command { key, name: name.to_owned(), body };
        let mut tx = self.db.begin().await.map_err(told)?;
        let answer = match barrier::begin(&mut tx, &command.key).await.map_err(told)? {
            Turn::Answered(answer) => answer,
            Turn::Act => match self.participant.act(&mut tx, &command).await {
                Ok(output) => barrier::done(&mut tx, &command.key, output).await.map_err(told)?,
                Err(StepError::Refused(why)) => {
                    barrier::refused(&mut tx, &command.key, &why).await.map_err(told)?
                }
                Err(StepError::Unclear(why)) => return Err(why),
            },
            Turn::Undo(receipt) => match self.participant.undo(&mut tx, receipt, &command).await {
                Ok(()) => barrier::done(&mut tx, &command.key, json!({})).await.map_err(told)?,
                Err(StepError::Refused(why) | StepError::Unclear(why)) => return Err(why),
            },
        };
        tx.commit().await.map_err(told)?;
        Ok(answer)
    }

    /// Answers one HTTP request.
    pub async fn http(&self, path: &str, headers: &HeaderMap, body: &[u8]) -> (u16, Value) {
        let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
        match self.answer(key.unwrap_or_default(), path, body).await {
            Ok(answer) => (answer.status, answer.body),
            Err(why) => (500, json!({ "error": why })),
        }
    }

    /// Answers the commands of the participant `name`, together with all that do so under this name:
    /// each command goes to one of them. Returns when the connection is closed.
    ///
    /// # Errors
    /// The subscription.
    pub async fn serve_nats(
        &self,
        client: async_nats::Client,
        name: &str,
    ) -> Result<(), async_nats::Error> {
        let prefix = format!("commands.{name}.");
        let replies = async_nats::jetstream::new(client.clone());
        let subject = format!("{prefix}>");
        let mut commands = client.queue_subscribe(subject, name.to_owned()).await?;
        let places = Arc::new(Semaphore::new(AT_ONCE));
        while let Some(message) = commands.next().await {
            let place = Arc::clone(&places).acquire_owned().await?;
            let (service, replies, prefix) = (self.clone(), replies.clone(), prefix.clone());
            tokio::spawn(async move {
                let _place = place;
                let headers = message.headers.unwrap_or_default();
                let Some(reply_to) = header(&headers, "Skald-Reply-To") else { return };
                let key = header(&headers, "Idempotency-Key").unwrap_or_default();
                let name = message.subject.strip_prefix(&prefix).unwrap_or_default();
                let reply = reply(service.answer(&key, name, &message.payload).await);
                // An answer that is lost is asked for again.
                if let Ok(sent) = replies.publish(reply_to, reply.to_string().into()).await {
                    let _ = sent.await;
                }
            });
        }
        Ok(())
    }
}

fn reply(answer: Result<Answer, String>) -> Value {
    match answer {
        Ok(Answer { status: 200, body }) => json!({"status": "done", "output": body}),
        Ok(Answer { body, .. }) => json!({"status": "refused", "error": body["error"]}),
        Err(why) => json!({"status": "retry", "error": why}),
    }
}

fn header(headers: &NatsHeaders, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.as_str().to_owned())
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
