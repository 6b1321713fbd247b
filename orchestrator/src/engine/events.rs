//! Life-cycle events: `dev.skald.saga.…`, in the transaction of the transition.

use std::sync::Arc;

use bus::{StageError, Tx};
use schemas::Event;
use serde_json::{Value, json};

use crate::request::{Call, RequestId};
use crate::state::State;
use crate::store::SagaRow;
use crate::transition::Transition;

const SOURCE: &str = "/skald/sagas";

/// Stages the event of a transition, where it has one.
pub(super) fn stage(
    tx: &mut Tx,
    row: &SagaRow,
    state: &State,
    transition: &Transition,
) -> Result<(), StageError> {
    use Transition as T;
    let steps = state.start.definition.step_events;
    let (kind, more) = match transition {
        T::Started => ("started", json!({})),
        T::Compensating { step, error, .. } => {
            ("compensating", json!({"step": step, "error": error}))
        }
        T::Completed { output, error } => ("completed", json!({"output": output, "error": error})),
        T::Compensated => ("compensated", json!({"error": state.error})),
        T::Cancelled => ("cancelled", json!({"error": state.error})),
        T::Stuck { step, operation, error, .. } => {
            ("stuck", json!({"step": step, "operation": operation, "error": error}))
        }
        T::Abandoned { reason, by } => ("abandoned", json!({"reason": reason, "by": by})),
        T::Done { step, output } if steps => ("step.done", json!({"step": step, "output": output})),
        T::Refused { step, error } if steps => {
            ("step.refused", json!({"step": step, "error": error}))
        }
        T::Undone { step } if steps => ("step.undone", json!({"step": step})),
        _ => return Ok(()),
    };
    let mut data = json!({"id": row.id, "definition": row.definition, "version": row.version,
        "status": status_after(transition, state)});
    if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
        data.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
    }
    let id = bus::work::WorkId::new().prefixed("evt");
    publish(tx, row, &format!("dev.skald.saga.{kind}"), &id, Some(&row.id), Some(data))
}

/// Where the saga was right after the transition; later ones of the same commit have moved it on.
fn status_after(transition: &Transition, state: &State) -> &'static str {
    use crate::state::Status;
    let status = match transition {
        Transition::Started => Status::Running,
        Transition::Compensating { .. } | Transition::Undone { .. } => Status::Compensating,
        Transition::Stuck { .. } => Status::Stuck,
        _ => state.status,
    };
    status.as_str()
}

/// Stages the event of a `publish` step. Its id is the step's idempotency key.
pub(super) fn stage_publication(
    tx: &mut Tx,
    row: &SagaRow,
    request: &RequestId,
    call: &Arc<Call>,
) -> Result<(), StageError> {
    let Call::Publish { kind, subject, body } = call.as_ref() else { return Ok(()) };
    let operation = request.operation.as_str();
    let id = format!("{}/{}/{operation}/{}", row.id, request.step, request.round);
    let subject = subject.as_deref().filter(|subject| !subject.is_empty());
    publish(tx, row, kind, &id, subject, body.clone())
}

fn publish(
    tx: &mut Tx,
    row: &SagaRow,
    kind: &str,
    id: &str,
    subject: Option<&str>,
    data: Option<Value>,
) -> Result<(), StageError> {
    let mut body = json!({"specversion": "1.0", "id": id, "source": SOURCE, "type": kind,
        "time": tx.clock().now().to_string(), "partitionkey": row.id});
    let Some(fields) = body.as_object_mut() else { return Ok(()) };
    if let Some(subject) = subject {
        fields.insert("subject".to_owned(), subject.into());
    }
    if let Some(data) = data {
        fields.insert("datacontenttype".to_owned(), "application/json".into());
        fields.insert("data".to_owned(), data);
    }
    if let Some((cause, source)) = &row.cause {
        fields.insert("causationid".to_owned(), cause.clone().into());
        fields.insert(bus::lineage::CAUSATION_SOURCE.to_owned(), source.clone().into());
        fields.insert("correlationid".to_owned(), cause.clone().into());
    }
    if let Some(parent) = &row.traceparent {
        fields.insert("traceparent".to_owned(), parent.clone().into());
    }
    let event = Event::from_json(body.to_string().as_bytes()).map_err(StageError::Invalid)?;
    tx.stage(&event)
}
