//! Every family of metrics, so that all are described and shown from the start.

/// A family of metrics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    /// Whether its series have labels; those without one exist from the start.
    pub(super) labelled: bool,
}

/// What a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Comes and goes.
    Gauge,
    /// How often which size was seen.
    Histogram,
}

impl Kind {
    /// As `# TYPE` says it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Upper bounds for histograms of seconds.
pub(super) const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds for histograms of counts: one batch holds a thousand events at most.
pub(super) const COUNTS: [f64; 11] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];

/// The histograms that count something other than seconds.
pub(super) const OF_COUNTS: [&str; 2] = ["skald_log_commit_events", "skald_saga_commit_sagas"];

/// Every family, in the order of the alphabet within each part.
pub(super) const FAMILIES: [Family; 36] = [
    // The log and what reads it.
    counter("skald_dead_letters_total", "Events that became dead letters, by queue.", true),
    counter("skald_events_consumed_total", "Events that a consumer has done.", true),
    counter("skald_events_duplicate_total", "Published events that were there already.", false),
    counter("skald_events_failed_total", "Events that failed at a consumer's first try.", true),
    counter("skald_events_published_total", "Events recorded, duplicates not counted.", false),
    counter("skald_events_repeated_total", "Events passed over that a consumer had had.", true),
    gauge("skald_log_fault", "1 while the log is not the one it was; see /readyz.", false),
    counter("skald_log_missed_total", "Events pruned by size before a consumer had them.", false),
    counter("skald_log_pruned_total", "Events deleted from the log by retention.", false),
    counter("skald_outbox_relayed_total", "Staged events that were published.", false),
    counter("skald_work_done_total", "Pieces of work done, by queue.", true),
    counter(
        "skald_work_retried_total",
        "Attempts that failed and are tried again, by queue.",
        true,
    ),
    histogram("skald_consumer_batch_seconds", "Time a consumer took for one batch.", true),
    histogram("skald_log_commit_events", "Events in one commit of the embedded log.", false),
    histogram("skald_log_commit_seconds", "Time of one commit of the embedded log.", false),
    gauge(
        "skald_log_held_back_events",
        "Events past their age that a consumer still needs.",
        false,
    ),
    // Read from the log and the database when asked for.
    gauge("skald_consumer_lag_events", "Events that a consumer has not reached yet.", true),
    gauge(
        "skald_consumer_oldest_waiting_seconds",
        "Age of a consumer's oldest waiting event.",
        true,
    ),
    gauge("skald_log_last_seq", "The newest event of the log.", false),
    gauge("skald_outbox_rows", "Staged events that are not published yet.", false),
    gauge("skald_work_rows", "Pieces of work, by kind and state.", true),
    // Sagas.
    counter("skald_saga_retries_total", "Attempts of steps without a clear answer.", true),
    counter("skald_saga_shards_taken_total", "Shards that this node took over.", false),
    counter("skald_sagas_ended_total", "Sagas that ended, by definition and status.", true),
    counter("skald_sagas_started_total", "Sagas started, by definition.", true),
    counter("skald_sagas_stuck_total", "Times that a saga needed a person.", true),
    histogram("skald_saga_commit_seconds", "Time of one commit of the saga engine.", false),
    histogram("skald_saga_seconds", "Time from start to end of a saga.", true),
    histogram("skald_saga_step_seconds", "Time of one call of a participant.", true),
    histogram("skald_saga_commit_sagas", "Sagas moved by one commit of the engine.", false),
    gauge("skald_saga_oldest_seconds", "Age of the oldest saga that has not ended.", true),
    gauge("skald_sagas_open", "Sagas that have not ended, by status.", true),
    // HTTP.
    counter("skald_http_requests_total", "Requests answered, by method, route and status.", true),
    histogram("skald_http_request_seconds", "Time until a request was answered, by route.", true),
    // The process.
    gauge("skald_build_info", "1, with the version as a label.", true),
    gauge("skald_start_time_seconds", "When the process started, in seconds since 1970.", false),
];

const fn counter(name: &'static str, help: &'static str, labelled: bool) -> Family {
    Family { name, kind: Kind::Counter, help, labelled }
}

const fn gauge(name: &'static str, help: &'static str, labelled: bool) -> Family {
    Family { name, kind: Kind::Gauge, help, labelled }
}

const fn histogram(name: &'static str, help: &'static str, labelled: bool) -> Family {
    Family { name, kind: Kind::Histogram, help, labelled }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_as_prometheus_wants_them() {
        for family in FAMILIES {
            let total = family.name.ends_with("_total");
            assert_eq!(total, family.kind == Kind::Counter, "{}", family.name);
            let measured =
                ["_seconds", "_events", "_sagas"].iter().any(|unit| family.name.ends_with(unit));
            assert!(family.kind != Kind::Histogram || measured, "{}", family.name);
        }
    }
}
