//! Traces over OTLP/HTTP.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::Subscriber;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::TelemetryError;
use crate::config::Otel;

/// Name of the tracer: the instrumentation scope of all spans.
const SCOPE: &str = "skald";
/// Where OTLP/HTTP takes traces, under the endpoint.
const TRACES_PATH: &str = "/v1/traces";
/// How long one export may take; the next batch waits meanwhile.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the program waits for the last export.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Spans of `info` and above, and those of requests, which are `debug` so that a server without
/// traces does not pay for them.
const SPANS: &str = "info,skald::api::gate=debug";
/// Crates whose own spans would be caused by sending spans, without end.
const SILENT: [&str; 5] = ["hyper", "reqwest", "h2", "rustls", "opentelemetry"];

/// The running export of traces.
pub(super) struct Traces {
    provider: SdkTracerProvider,
    /// Does the input and output of the export. A runtime of its own: the export runs on a thread
    /// without one, and must still end while the program's runtime waits for it.
    runtime: Runtime,
}

/// Starts the export when an endpoint is set, and makes W3C trace context the one in use.
pub(super) fn start(otel: &Otel) -> Result<Option<Traces>, TelemetryError> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let Some(endpoint) = &otel.endpoint else { return Ok(None) };
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| TelemetryError::Exporter(error);
    egress::install_crypto_provider();
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("traces")
        .enable_all()
        .build()
        .map_err(|error| failed(error.into()))?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(traces_url(endpoint))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| failed(error.into()))?;
    let resource = Resource::builder().with_service_name(otel.service_name.clone()).build();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(OnRuntime { exporter, runtime: runtime.handle().clone() })
        .build();
    opentelemetry::global::set_tracer_provider(provider.clone());
    Ok(Some(Traces { provider, runtime }))
}

impl Traces {
    /// The layer that turns spans of `info` and above into traces.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let silent =
            filter_fn(|metadata| !SILENT.iter().any(|name| metadata.target().starts_with(name)));
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SCOPE))
            .with_filter(silent)
            .with_filter(EnvFilter::new(SPANS))
    }

    /// Sends what is not sent yet, and stops.
    pub(super) fn shutdown(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(error = %error, "the last traces were not sent");
        }
        self.runtime.shutdown_background(); // dropping it would panic inside the program's runtime
    }
}

fn traces_url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let base = endpoint.strip_suffix(TRACES_PATH).unwrap_or(endpoint);
    format!("{base}{TRACES_PATH}")
}

/// An exporter whose futures are polled inside a runtime, wherever they are polled.
#[derive(Debug)]
struct OnRuntime<E> {
    exporter: E,
    runtime: Handle,
}

impl<E: SpanExporter> SpanExporter for OnRuntime<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut export = pin!(self.exporter.export(batch));
        std::future::poll_fn(|context| -> Poll<OTelSdkResult> {
            let _entered = self.runtime.enter();
            export.as_mut().poll(context)
        })
        .await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_may_or_may_not_name_the_path_of_traces() {
        for endpoint in
            ["http://collector:4318", "http://collector:4318/", "http://collector:4318/v1/traces"]
        {
            assert_eq!(traces_url(endpoint), "http://collector:4318/v1/traces");
        }
    }
}
