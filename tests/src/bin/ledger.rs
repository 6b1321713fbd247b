//! A node with a consumer that keeps a ledger, for tests that look at its effects: which events it
//! had, in which order, and how often. All settings come from the environment.

use bus::Clock;
use skald::config::{Flags, Settings};
use skald::server::{Profile, open_database};
use skald::{Consumer, Delivery, DomainEvent, Failure, Policy, Skald, Span, sql};
use std::time::Duration;

/// Whatever happened.
#[derive(serde::Deserialize)]
struct Happened {
    /// How long to take for it.
    #[serde(default)]
    linger_ms: u64,
}

impl DomainEvent for Happened {
    const TYPE: &'static str = "crash.happened";
}

/// Writes one line per event. Nothing keeps it from writing a second one but the platform.
struct KeepLedger;

/// Of so many events one fails at first, after its line is written.
const FAILS_ONCE: i64 = 29;

impl Consumer for KeepLedger {
    type Event = Happened;
    const NAME: &'static str = "keep-ledger";
    const POLICY: Policy = Policy {
        attempts_max: 100,
        backoff_min: Span(Duration::from_millis(50)),
        backoff_max: Span(Duration::from_secs(1)),
        ordered: true,
        ..Policy::DEFAULT
    };

    async fn handle(&self, event: Happened, delivery: &mut Delivery<'_>) -> Result<(), Failure> {
        let (seq, attempt) = (delivery.seq().get(), delivery.attempt());
        let line = sql("insert into ledger (key, seq) values ($1, $2)")
            .bind(delivery.event().partition_key().to_owned())
            .bind(seq);
        delivery.tx().execute(line).await?;
        if event.linger_ms > 0 {
            tokio::time::sleep(Duration::from_millis(event.linger_ms)).await;
        }
        if attempt == 1 && seq % FAILS_ONCE == 0 {
            return Err(Failure::transient("it fails at first"));
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::load(&Flags::default())?.settings;
    let db = open_database(&settings, Clock::system()).await?;
    let mut tx = db.begin().await?;
    tx.execute(sql("create table if not exists ledger (
             line bigint generated always as identity, key text not null, seq bigint not null)"))
        .await?;
    tx.commit().await?;
    db.close().await;
    Ok(Skald::new(settings, Profile::Serve).consumer(KeepLedger).run().await?)
}
