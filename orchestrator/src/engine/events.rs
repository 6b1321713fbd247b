//! Life-cycle events: `dev.skald.saga.…`, in the transaction of the transition.

use std::sync::Arc;

use bus::{StageError, Tx};
use schemas::Event;
use serde_json::{Map, Value, json};

use crate::publication;
use crate::request::{Call, RequestId};
use crate::state::State;
use crate::store::SagaRow;
use crate::transition::Transition;

/// Bytes of an error or of a reason in an event that would be too large with all of it; the journal
/// keeps all.
const TOLD_BYTES: usize = 2_000;

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
        T::SetAside { error } => ("stuck", json!({"error": error})),
        T::Abandoned { reason, by } => ("abandoned", json!({"reason": reason, "by": by})),
        T::Done { step, output } if steps => ("step.done", json!({"step": step, "output": output})),
        T::Refused { step, error } if steps => {
            ("step.refused", json!({"step": step, "error": error}))
        }
        T::Undone { step } if steps => ("step.undone", json!({"step": step})),
        _ => return Ok(()),
    };
    let Value::Object(mut more) = more else { return Ok(()) };
    more.retain(|_, value| !value.is_null());
    let status = status_after(transition, state);
    let mut announce = |more: &Map<String, Value>| {
        let mut data = json!({"id": row.id, "definition": row.definition, "version": row.version,
            "status": status});
        if let Some(data) = data.as_object_mut() {
            data.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let id = bus::work::WorkId::new().prefixed("evt");
        publish(tx, row, &format!("dev.skald.saga.{kind}"), &id, Some(&row.id), Some(data))
    };
    if announce(&more).is_ok() {
        return Ok(());
    }
    // What participants answer and people write may be as large as an event.
    announce(&shortened(more))
}

/// The same with texts cut and without an output.
fn shortened(mut more: Map<String, Value>) -> Map<String, Value> {
    more.remove("output");
    for value in more.values_mut() {
        if let Value::String(text) = value
            && text.len() > TOLD_BYTES
        {
            text.truncate(text.floor_char_boundary(TOLD_BYTES));
            text.push('…');
        }
    }
    more
}

/// Where the saga was right after the transition; later ones of the same commit have moved it on.
fn status_after(transition: &Transition, state: &State) -> &'static str {
    use crate::state::Status;
    let status = match transition {
        Transition::Started => Status::Running,
        Transition::Compensating { .. } | Transition::Undone { .. } => Status::Compensating,
        Transition::Stuck { .. } | Transition::SetAside { .. } => Status::Stuck,
        _ => state.status,
    };
    status.as_str()
}

/// Stages the event of a `publish` step.
pub(super) fn stage_publication(
    tx: &mut Tx,
    row: &SagaRow,
    request: &RequestId,
    call: &Arc<Call>,
) -> Result<(), StageError> {
    let Call::Publish { kind, subject, body } = call.as_ref() else { return Ok(()) };
    let id = publication::event_id(&row.id, request);
    let subject = publication::subject_of(subject.as_deref());
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
    let mut fields = publication::draft(&row.id, kind, id, subject, data);
    fields.insert("time".to_owned(), tx.clock().now().to_string().into());
    if let Some((cause, source)) = &row.cause {
        fields.insert("causationid".to_owned(), cause.clone().into());
        fields.insert(bus::lineage::CAUSATION_SOURCE.to_owned(), source.clone().into());
        fields.insert("correlationid".to_owned(), cause.clone().into());
    }
    if let Some(parent) = &row.traceparent {
        fields.insert("traceparent".to_owned(), parent.clone().into());
    }
    let json = Value::Object(fields).to_string();
    let event = Event::from_json(json.as_bytes()).map_err(StageError::Invalid)?;
    tx.stage(&event)
}
