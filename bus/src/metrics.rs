//! Every metric that this room records, by name. `docs/metrics.md` lists them with their meaning.

#[cfg(any(feature = "embedded", feature = "database"))]
use std::time::Duration;

use metrics::counter;
#[cfg(any(feature = "embedded", feature = "database"))]
use metrics::histogram;

use crate::Receipt;

/// One group commit of the embedded log.
#[cfg(feature = "embedded")]
pub(crate) fn log_committed(events: usize, took: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "a count of at most thousands")]
    histogram!("skald_log_commit_events").record(events as f64);
    histogram!("skald_log_commit_seconds").record(took.as_secs_f64());
}

/// Publish calls are answered.
pub(crate) fn published<'a>(receipts: impl Iterator<Item = &'a Receipt>) {
    let (mut new, mut duplicates) = (0, 0);
    for receipt in receipts {
        *if receipt.duplicate { &mut duplicates } else { &mut new } += 1;
    }
    counter!("skald_events_published_total").increment(new);
    counter!("skald_events_duplicate_total").increment(duplicates);
}

/// A row of work of `queue` ended an attempt.
#[cfg(feature = "database")]
pub(crate) fn work_settled(queue: &str, verdict: crate::work::Verdict) {
    use crate::work::Verdict;
    match verdict {
        Verdict::Done => work_done(queue, 1),
        Verdict::Again => {
            counter!("skald_work_retried_total", "queue" => queue.to_owned()).increment(1);
        }
        Verdict::Dead => dead_letter(queue),
        Verdict::Expired => {}
    }
}

/// So many pieces of work of `queue` were done.
#[cfg(feature = "database")]
pub(crate) fn work_done(queue: &str, count: usize) {
    counter!("skald_work_done_total", "queue" => queue.to_owned()).increment(count as u64);
}

/// An event became a dead letter.
#[cfg(feature = "database")]
pub(crate) fn dead_letter(queue: &str) {
    counter!("skald_dead_letters_total", "queue" => queue.to_owned()).increment(1);
}

/// One batch of a consumer committed.
#[cfg(feature = "database")]
pub(crate) fn consumed(consumer: &str, done: usize, failed: usize, took: Duration) {
    let name = || consumer.to_owned();
    counter!("skald_events_consumed_total", "consumer" => name()).increment(done as u64);
    counter!("skald_events_failed_total", "consumer" => name()).increment(failed as u64);
    histogram!("skald_consumer_batch_seconds", "consumer" => name()).record(took.as_secs_f64());
}

/// A consumer passed over events that it had had before.
#[cfg(feature = "database")]
pub(crate) fn repeated(consumer: &str, events: usize) {
    if events > 0 {
        let consumer = consumer.to_owned();
        counter!("skald_events_repeated_total", "consumer" => consumer).increment(events as u64);
    }
}

/// Whether the log is not the one it was.
#[cfg(feature = "database")]
pub(crate) fn log_fault(is: bool) {
    metrics::gauge!("skald_log_fault").set(f64::from(u8::from(is)));
}

/// Staged events were published.
#[cfg(feature = "database")]
pub(crate) fn relayed(events: usize) {
    counter!("skald_outbox_relayed_total").increment(events as u64);
}

/// Events were deleted from the log.
#[cfg(feature = "database")]
pub(crate) fn pruned(pruned: &crate::Pruned) {
    counter!("skald_log_pruned_total").increment(pruned.events);
    counter!("skald_log_missed_total").increment(pruned.missed);
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("skald_log_held_back_events").set(pruned.held_back as f64);
}
