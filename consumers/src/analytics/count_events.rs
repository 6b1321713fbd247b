//! Counts events by type and minute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{BatchConsumer, Failure, Policy, Recorded, Tx, sql};
use schemas::{EventType, Patterns, Timestamp};

/// Microseconds in a minute.
pub(crate) const MINUTE_US: i64 = 60_000_000;

/// Counts events by type and by the minute in which they were recorded.
///
/// The minute is that of recording and not the producer's `time`, so a minute that has passed is
/// complete once its events were consumed, and the log's retention (which prunes whole minutes)
/// can tell exactly which minutes a rebuild must carry forward.
pub struct CountEvents;

impl BatchConsumer for CountEvents {
    const NAME: &'static str = "count-events";
    const POLICY: Policy = Policy { attempts_max: 100, ..Policy::DEFAULT };
    const REBUILDS: bool = true;
    const LINGER: Duration = Duration::from_millis(100);

    fn types(&self) -> Patterns {
        Patterns::any()
    }

    async fn handle(
        &self,
        events: &[Arc<Recorded>],
        generation: i64,
        tx: &mut Tx,
    ) -> Result<(), Failure> {
        let mut counts: BTreeMap<(&EventType, i64), i64> = BTreeMap::new();
        for event in events {
            *counts.entry((&event.event.kind, minute(event.recorded_at))).or_default() += 1;
        }
        for ((kind, minute), count) in counts {
            let add =
                sql("insert into analytics_event_minute (generation, type, minute_us, events)
                 values ($1, $2, $3, $4) on conflict (generation, type, minute_us)
                 do update set events = analytics_event_minute.events + excluded.events");
            let add = add.bind(generation).bind(kind.as_str().to_owned()).bind(minute).bind(count);
            tx.execute(add).await?;
        }
        Ok(())
    }

    /// Minutes whose events are gone from the log were counted by the old generation alone.
    async fn switch(
        &self,
        tx: &mut Tx,
        from: i64,
        to: i64,
        pruned: &[(EventType, Timestamp)],
    ) -> Result<(), sqlx::Error> {
        for (kind, through) in pruned {
            let replace = sql("delete from analytics_event_minute
                 where generation = $1 and type = $2 and minute_us < $3")
            .bind(to)
            .bind(kind.as_str().to_owned())
            .bind(through.as_micros());
            tx.execute(replace).await?;
            let carry =
                sql("insert into analytics_event_minute (generation, type, minute_us, events)
                 select $2, type, minute_us, events from analytics_event_minute
                 where generation = $1 and type = $3 and minute_us < $4")
                .bind(from)
                .bind(to)
                .bind(kind.as_str().to_owned())
                .bind(through.as_micros());
            tx.execute(carry).await?;
        }
        tx.execute(sql("delete from analytics_event_minute where generation = $1").bind(from))
            .await
            .map(|_| ())
    }
}

fn minute(at: Timestamp) -> i64 {
    at.as_micros() - at.as_micros().rem_euclid(MINUTE_US)
}
