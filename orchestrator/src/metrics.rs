//! Every metric that this room records, by name. `docs/metrics.md` lists them with their meaning.

use std::time::Duration;

use metrics::{counter, histogram};

use crate::request::Request;
use crate::store::SagaRow;
use crate::transition::Transition;

/// A saga ended.
pub(crate) fn ended(row: &SagaRow, now_us: i64) {
    let (definition, status) = (|| row.definition.clone(), row.status.as_str());
    counter!("skald_sagas_ended_total", "definition" => definition(), "status" => status)
        .increment(1);
    let took = u64::try_from(now_us - row.created_us).unwrap_or(0);
    histogram!("skald_saga_seconds", "definition" => definition())
        .record(Duration::from_micros(took).as_secs_f64());
}

/// A saga moved.
pub(crate) fn transition(row: &SagaRow, transition: &Transition) {
    let definition = || row.definition.clone();
    match transition {
        Transition::Started => {
            counter!("skald_sagas_started_total", "definition" => definition()).increment(1);
        }
        Transition::Retrying { .. } => {
            counter!("skald_saga_retries_total", "definition" => definition()).increment(1);
        }
        Transition::Stuck { step, error, .. } => {
            tracing::error!(saga.id = row.id, saga.step = step, error, "a saga needs a person");
            counter!("skald_sagas_stuck_total", "definition" => definition()).increment(1);
        }
        Transition::SetAside { error } => {
            tracing::error!(saga.id = row.id, error, "a saga is set aside: it needs a person");
            counter!("skald_sagas_stuck_total", "definition" => definition()).increment(1);
        }
        _ => {}
    }
}

/// A participant answered.
pub(crate) fn step(definition: &str, request: &Request, took: Duration) {
    let operation = request.operation.as_str();
    histogram!("skald_saga_step_seconds", "definition" => definition.to_owned(), "operation" => operation)
        .record(took.as_secs_f64());
}

/// A round committed.
pub(crate) fn round(sagas: usize, took: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "a count of at most thousands")]
    histogram!("skald_saga_commit_sagas").record(sagas as f64);
    histogram!("skald_saga_commit_seconds").record(took.as_secs_f64());
}

/// A shard was taken from a node that is gone, or came free.
pub(crate) fn shard_taken() {
    counter!("skald_saga_shards_taken_total").increment(1);
}
