//! What came of an input that another node left, on its way back over the database.

use super::InputError;
use crate::planner::Refusal;

/// The answer as it is kept.
pub(super) fn write(answer: &Result<(), InputError>) -> String {
    let (kind, detail) = match answer {
        Ok(()) => ("ok", String::new()),
        Err(InputError::NoSaga(saga)) => ("no_saga", saga.clone()),
        Err(InputError::Refused(Refusal::NoStep(step))) => ("no_step", step.clone()),
        Err(InputError::Refused(error)) => ("conflict", error.to_string()),
        Err(error) => ("unavailable", error.to_string()),
    };
    serde_json::json!([kind, detail]).to_string()
}

/// Reads what [`write`] wrote.
pub(super) fn read(text: &str) -> Result<(), InputError> {
    let (kind, detail): (String, String) = serde_json::from_str(text).unwrap_or_default();
    match kind.as_str() {
        "ok" => Ok(()),
        "no_saga" => Err(InputError::NoSaga(detail)),
        "no_step" => Err(Refusal::NoStep(detail).into()),
        "conflict" => Err(Refusal::Conflict(detail).into()),
        _ => Err(InputError::Unavailable(detail)),
    }
}
