//! What every participant sees beside the body, over HTTP and NATS alike.

use crate::request::Request;
use crate::store::SagaRow;

/// Names and values of headers.
pub(super) fn seen(saga: &SagaRow, request: &Request) -> Vec<(&'static str, String)> {
    let mut seen = vec![
        ("Idempotency-Key", request.idempotency_key(&saga.id)),
        ("Skald-Saga-Id", saga.id.clone()),
        ("Skald-Saga-Definition", saga.definition.clone()),
        ("Skald-Step", request.step.clone()),
        ("Skald-Operation", request.operation.as_str().to_owned()),
    ];
    if let Some(outcome) = request.outcome {
        seen.push(("Skald-Outcome", outcome.as_str().to_owned()));
    }
    seen.push(("Skald-Attempt", request.attempt.to_string()));
    seen.push(("traceparent", traceparent(saga)));
    seen
}

/// The trace that the saga was started in, or one of its own, the same for all its calls.
fn traceparent(saga: &SagaRow) -> String {
    let span: u64 = rand::random::<u64>() | 1;
    let trace = saga.traceparent.as_deref().and_then(|parent| parent.split('-').nth(1));
    match trace {
        Some(trace) => format!("00-{trace}-{span:016x}-01"),
        None => {
            let of = |salt: &str| {
                saga.id.bytes().chain(salt.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                })
            };
            format!("00-{:016x}{:016x}-{span:016x}-01", of("a") | 1, of("b"))
        }
    }
}
