//! What the program tells about itself: log lines and traces ([`init`]), and metrics
//! ([`metrics()`]).
//!
//! Log lines go to stderr, so that stdout stays for answers. With the feature `otel` and
//! `otel.endpoint`, spans go out as OTLP over HTTP too, with W3C trace context between processes.

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogFormat, Logs, Settings};

mod families;

mod prometheus;
pub use prometheus::{metrics, render};

#[cfg(feature = "otel")]
mod otel;

/// Log lines or traces could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// `logs.filter` does not parse.
    #[error("reading logs.filter")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The exporter for traces cannot be built.
    #[error("building the exporter for otel.endpoint")]
    Exporter(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A subscriber is there already.
    #[error("setting up log lines")]
    Install(#[source] tracing_subscriber::util::TryInitError),
}

/// Keeps traces flowing; what is not sent yet is sent when it is dropped.
#[must_use = "traces end when it is dropped"]
pub struct Guard {
    #[cfg(feature = "otel")]
    traces: Option<otel::Traces>,
}

impl Guard {
    /// Sends what is not sent yet and stops, within a few seconds.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        #[cfg(feature = "otel")]
        if let Some(traces) = self.traces.take() {
            traces.shutdown();
        }
    }
}

/// Sets up log lines and traces for the process, once.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(settings: &Settings) -> Result<Guard, TelemetryError> {
    let registry = tracing_subscriber::registry().with(lines(&settings.logs)?);
    #[cfg(feature = "otel")]
    {
        let traces = otel::start(&settings.otel)?;
        let spans = traces.as_ref().map(otel::Traces::layer);
        registry.with(spans).try_init().map_err(TelemetryError::Install)?;
        Ok(Guard { traces })
    }
    #[cfg(not(feature = "otel"))]
    {
        registry.try_init().map_err(TelemetryError::Install)?;
        Ok(Guard {})
    }
}

/// The layer that writes log lines, with its filter.
fn lines(logs: &Logs) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError> {
    let filter = EnvFilter::builder().parse(&logs.filter).map_err(TelemetryError::Filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match logs.format {
        LogFormat::Pretty => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr())
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            lines.compact().with_ansi(ansi).with_filter(filter).boxed()
        }
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_filter(filter)
            .boxed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_filter_is_an_error_and_not_silence() {
        for format in [LogFormat::Pretty, LogFormat::Json] {
            let bad = Logs { format, filter: "skald_bus=loud".to_owned() };
            assert!(matches!(lines(&bad), Err(TelemetryError::Filter(_))));
            assert!(lines(&Logs { format, filter: "info".to_owned() }).is_ok());
        }
    }
}
