//! W3C trace context of requests: a caller's trace goes on in the span of its request.

use axum::http::HeaderMap;

/// Makes the caller's span the parent of `span`, when the caller names one.
#[cfg(feature = "otel")]
pub(crate) fn continue_from(span: &tracing::Span, headers: &HeaderMap) {
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    if headers.contains_key("traceparent") {
        let parent = opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.extract(&Headers(headers))
        });
        // Fails only where no layer turns spans into traces.
        let _ = span.set_parent(parent);
    }
}

/// Without the feature `otel` there are no traces to go on.
#[cfg(not(feature = "otel"))]
pub(crate) fn continue_from(_span: &tracing::Span, _headers: &HeaderMap) {}

#[cfg(feature = "otel")]
struct Headers<'a>(&'a HeaderMap);

#[cfg(feature = "otel")]
impl opentelemetry::propagation::Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
