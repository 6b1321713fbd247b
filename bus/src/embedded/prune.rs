//! Retention: deletes what is old enough or too much, in small transactions.

use schemas::Timestamp;

use crate::embedded::EmbeddedLog;
use crate::embedded::reader::TypeRow;
use crate::{Log, Pruned, ReadError, Retention, Seq};

/// Events deleted in one transaction, so that no publisher waits long behind it.
const CHUNK: usize = 500;
const MINUTE_US: i64 = 60_000_000;

/// Applies `rules`; the first that matches a type counts for it.
pub(super) async fn prune(
    log: &EmbeddedLog,
    rules: &[Retention],
    consumed: Seq,
    now: Timestamp,
) -> Result<Pruned, ReadError> {
    let mut pruned = Pruned::default();
    let types = log.readers.run(super::reader::Reader::type_rows).await?;
    for (index, rule) in rules.iter().enumerate() {
        let governs = |row: &&TypeRow| {
            rules.iter().position(|rule| rule.types.matches(&row.name)) == Some(index)
        };
        let mine: Vec<&TypeRow> = types.iter().filter(governs).collect();
        if let Some(age) = rule.max_age {
            let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            let cutoff = Timestamp::from_micros(now.as_micros().saturating_sub(age_us));
            by_age(log, &mine, cutoff, consumed, &mut pruned).await?;
        }
        if let Some(limit) = rule.max_bytes {
            by_size(log, &mine, limit, consumed, &mut pruned).await?;
        }
    }
    Ok(pruned)
}

/// Deletes whole minutes only, so that a rollup by minute is either complete or sealed.
async fn by_age(
    log: &EmbeddedLog,
    types: &[&TypeRow],
    cutoff: Timestamp,
    consumed: Seq,
    pruned: &mut Pruned,
) -> Result<(), ReadError> {
    let old = log.position_at(minute(cutoff)).await?;
    let unread = log.readers.run(move |reader| reader.recorded_at(consumed.next())).await?;
    let through = unread.map_or(minute(cutoff), |at| minute(at.min(cutoff)));
    let last = log.position_at(through).await?;
    for row in types {
        let kind = row.id;
        loop {
            let oldest = log.readers.run(move |reader| reader.oldest(kind, last, CHUNK)).await?;
            let seqs: Vec<Seq> = oldest.iter().map(|(seq, ..)| *seq).collect();
            let more = seqs.len() == CHUNK;
            if !seqs.is_empty() {
                pruned.events += log.delete(seqs, (kind, through)).await?;
            }
            if !more {
                break;
            }
        }
        let types = schemas::Patterns::from(exact(row));
        pruned.held_back += log.count(last, old, &types).await?;
    }
    Ok(())
}

/// Deletes the oldest events, whatever their age, until the rest fits.
async fn by_size(
    log: &EmbeddedLog,
    types: &[&TypeRow],
    limit: u64,
    consumed: Seq,
    pruned: &mut Pruned,
) -> Result<(), ReadError> {
    let ids: Vec<i64> = types.iter().map(|row| row.id).collect();
    loop {
        let wanted = ids.clone();
        let (total, mut oldest) = log
            .readers
            .run(move |reader| {
                let rows = reader.type_rows()?;
                let total: i64 =
                    rows.iter().filter(|row| wanted.contains(&row.id)).map(|row| row.bytes).sum();
                let mut oldest = Vec::new();
                for kind in wanted {
                    for (seq, bytes, at) in reader.oldest(kind, Seq::MAX, CHUNK)? {
                        oldest.push((seq, kind, bytes, at));
                    }
                }
                Ok((total, oldest))
            })
            .await?;
        let mut excess = total.saturating_sub(i64::try_from(limit).unwrap_or(i64::MAX));
        if excess <= 0 || oldest.is_empty() {
            return Ok(());
        }
        oldest.sort_unstable_by_key(|(seq, ..)| *seq);
        let mut doomed: Vec<(i64, Vec<Seq>, Timestamp)> = Vec::new();
        for (seq, kind, bytes, at) in oldest.into_iter().take(CHUNK) {
            if excess <= 0 {
                break;
            }
            excess -= bytes;
            if seq > consumed {
                pruned.missed += 1;
                pruned.missed_through = pruned.missed_through.max(Some(seq));
            }
            match doomed.iter_mut().find(|(of, ..)| *of == kind) {
                Some((_, seqs, newest)) => {
                    seqs.push(seq);
                    *newest = at;
                }
                None => doomed.push((kind, vec![seq], at)),
            }
        }
        for (kind, seqs, newest) in doomed {
            let sealed = Timestamp::from_micros(minute(newest).as_micros() + MINUTE_US);
            pruned.events += log.delete(seqs, (kind, sealed)).await?;
        }
    }
}

/// The pattern that matches just this type, reserved or not.
fn exact(row: &TypeRow) -> schemas::Pattern {
    schemas::Pattern::from(&row.name)
}

fn minute(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() - at.as_micros().rem_euclid(MINUTE_US))
}
