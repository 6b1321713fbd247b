//! Metrics in the form that Prometheus reads.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::families::{COUNTS, FAMILIES, Family, Kind, OF_COUNTS, SECONDS};

/// How often samples are moved into buckets when nobody asks for them; until then they take memory.
const UPKEEP: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// The process's metrics. The first call starts recording, and describes every family.
///
/// Called within a runtime, it also bounds the memory of samples that nobody asks for.
pub fn metrics() -> PrometheusHandle {
    HANDLE.get_or_init(install).clone()
}

/// All metrics as text. Families without a series yet are there with their type, so that a
/// dashboard or an alert can be written before the first event.
#[must_use]
pub fn render(handle: &PrometheusHandle) -> String {
    let mut text = handle.render();
    for Family { name, kind, help, .. } in FAMILIES {
        let header = format!("# TYPE {name} {}\n", kind.as_str());
        if !text.contains(&header) {
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n{header}\n");
        }
    }
    text
}

fn install() -> PrometheusHandle {
    let recorder = builder().build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another recorder of metrics is installed; /metrics will show nothing");
    }
    FAMILIES.into_iter().for_each(describe);
    metrics::gauge!("skald_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let started = seconds(bus::Clock::system().now());
    metrics::gauge!("skald_start_time_seconds").set(started);
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let handle = handle.clone();
        runtime.spawn(async move {
            let mut ticks = tokio::time::interval(UPKEEP);
            loop {
                ticks.tick().await;
                handle.run_upkeep();
            }
        });
    }
    handle
}

fn builder() -> PrometheusBuilder {
    let counts = |builder: PrometheusBuilder, name: &&str| {
        builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), &COUNTS)
    };
    PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(|builder| OF_COUNTS.iter().try_fold(builder, counts))
        .unwrap_or_default() // only an empty list of buckets is refused
}

fn seconds(at: schemas::Timestamp) -> f64 {
    Duration::from_micros(at.as_micros().unsigned_abs()).as_secs_f64()
}

/// Describes a family; one without labels gets its series.
fn describe(Family { name, kind, help, labelled }: Family) {
    match kind {
        Kind::Counter => {
            metrics::describe_counter!(name, help);
            if !labelled {
                metrics::counter!(name).absolute(0);
            }
        }
        Kind::Gauge => {
            metrics::describe_gauge!(name, help);
            if !labelled {
                metrics::gauge!(name).set(0.0);
            }
        }
        Kind::Histogram => {
            metrics::describe_histogram!(name, help);
            if !labelled {
                let _registered = metrics::histogram!(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_there_from_the_start_and_once() {
        let text = render(&metrics());
        for Family { name, kind, .. } in FAMILIES {
            let header = format!("# TYPE {name} {}\n", kind.as_str());
            assert_eq!(text.matches(&header).count(), 1, "{name} in\n{text}");
        }
        assert!(text.contains("skald_events_published_total 0"), "{text}");
        assert!(text.contains("skald_log_commit_seconds_bucket{le=\"0.0005\"}"), "{text}");
        assert!(text.contains("skald_log_commit_events_bucket{le=\"1024\"}"), "{text}");
    }
}
