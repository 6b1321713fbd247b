//! Spans of this room, named and filled in after the OpenTelemetry messaging conventions. They
//! stand for batches: one per event would cost more than the work that it measures.

use tracing::Span;

/// Events on their way into the log.
pub(crate) fn publish(events: usize, bytes: usize) -> Span {
    tracing::debug_span!(
        "publish",
        otel.kind = "producer",
        messaging.system = "skald",
        messaging.operation.name = "publish",
        messaging.destination.name = "events",
        messaging.batch.message_count = events,
        messaging.message.body.size = bytes,
    )
}

/// A batch of events in the hands of a consumer; `error.type` is set when the batch did not commit.
#[cfg(feature = "database")]
pub(crate) fn process(consumer: &str, events: usize, attempt: &'static str) -> Span {
    tracing::info_span!(
        "process",
        otel.kind = "consumer",
        messaging.system = "skald",
        messaging.operation.name = "process",
        messaging.destination.name = "events",
        messaging.consumer.group.name = consumer,
        messaging.batch.message_count = events,
        delivery.attempt = attempt,
        error.type = tracing::field::Empty,
    )
}
