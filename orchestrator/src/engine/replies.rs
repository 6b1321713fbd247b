//! Answers of participants on NATS, taken from their stream and acknowledged once they are on the
//! journal.
//!
//! Each shard has its own reader, so answers come to the node that has the saga. While a shard moves,
//! an answer may come to the other one: it is left in the database then, as any input from elsewhere.

use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use bus::PARTITIONS;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{Engine, InputError};
use crate::participants::nats::{Nats, read};
use crate::planner::Input;
use crate::request::{Answer, RequestId};
use crate::store;

/// Answers taken to the journal at once, for each shard.
const AT_ONCE: usize = 256;
/// Wait before another attempt to read, and before another look at whose a shard is.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the server waits for answers before it says that there are none.
const EXPIRES: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Reads the answers for all shards of this node until `stop`.
pub(super) async fn listen(engine: Engine, nats: Nats, stop: CancellationToken) {
    let readers = (0..PARTITIONS).map(|shard| {
        let (engine, nats) = (engine.clone(), nats.clone());
        async move {
            loop {
                if engine.has_shard(shard)
                    && let Err(error) = read_shard(&engine, &nats, shard).await
                {
                    tracing::debug!(%error, shard, "reading answers of participants");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
    tokio::select! {
        _ = futures::future::join_all(readers) => {}
        () = stop.cancelled() => {}
    }
}

/// Takes answers for as long as the shard is this node's.
async fn read_shard(engine: &Engine, nats: &Nats, shard: i64) -> Result<(), async_nats::Error> {
    let replies = nats.replies(shard).await?;
    let messages = replies.stream().max_messages_per_batch(AT_ONCE);
    let messages = messages.expires(EXPIRES).heartbeat(HEARTBEAT).messages().await?;
    let mut chunks = messages.ready_chunks(AT_ONCE);
    while engine.has_shard(shard) {
        let Ok(chunk) = tokio::time::timeout(PAUSE, chunks.next()).await else { continue };
        let Some(chunk) = chunk else { break };
        let messages = chunk.into_iter().collect::<Result<Vec<_>, _>>()?;
        futures::future::join_all(messages.iter().map(|message| take(engine, nats, message))).await;
    }
    Ok(())
}

/// Takes one answer; it comes again where that failed.
async fn take(engine: &Engine, nats: &Nats, message: &Message) {
    let taken = match read(&message.subject, &message.payload) {
        Some((asked, answer)) => {
            let was_waited_for = nats.answered(&asked);
            let is_definite = !matches!(answer, Answer::Unclear { .. });
            // Without a clear answer an attempt is over, once; the time of any other is over already.
            if is_definite || was_waited_for {
                hand_over(engine, &asked.saga, RequestId::from(&asked), answer).await
            } else {
                Ok(())
            }
        }
        None => Ok(()), // Not one that Skald asked for.
    };
    let ack = match taken {
        Ok(()) | Err(InputError::NoSaga(_) | InputError::Refused(_)) => AckKind::Ack,
        Err(InputError::Database(_) | InputError::Unavailable(_)) => AckKind::Nak(Some(PAUSE)),
    };
    if let Err(error) = message.ack_with(ack).await {
        tracing::debug!(%error, "acknowledging an answer; it comes again");
    }
}

async fn hand_over(
    engine: &Engine,
    saga: &str,
    request: RequestId,
    answer: Answer,
) -> Result<(), InputError> {
    let input = Input::Answer { request, answer };
    if engine.is_ours(saga) {
        return engine.input(saga, input).await;
    }
    let text = serde_json::to_string(&input).unwrap_or_default();
    let mut tx = engine.db().begin().await?;
    store::keep(&mut tx, &[(saga.to_owned(), text, None)]).await?;
    Ok(tx.commit().await?)
}
