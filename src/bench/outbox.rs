//! The relay: events that transactions staged, on their way into the log.

use std::time::Instant;

use bus::{Clock, outbox};

use super::Extent;
use super::disk;
use super::jetstream::per_second;
use super::load::{Events, close_log};
use super::report::{Report, Target};
use super::site::Site;

/// Events staged in one transaction.
const BATCH: usize = 1_000;

pub(super) async fn measure(
    extent: Extent,
    site: &Site,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("the outbox relay");
    let folder = site.folder.inner()?;
    let clock = Clock::system();
    let log = site.log(folder.path(), &clock).await?;
    let database = site.database(None, &clock).await?;
    let db = &database.db;
    let events = Events::new();
    for _ in (0..extent.staged).step_by(BATCH) {
        let mut tx = db.begin().await?;
        for _ in 0..BATCH {
            tx.stage(&events.one())?;
        }
        tx.commit().await?;
    }
    disk::settle(folder.path()).await?;
    let (started, mut relayed) = (Instant::now(), 0);
    let mut aside = outbox::Aside::default();
    loop {
        let count = outbox::relay_round(db, log.as_ref(), &mut aside).await?;
        if count == 0 {
            break;
        }
        relayed += count as u64;
    }
    let rate = per_second(relayed, started);
    let embedded = !site.has_broker() && !site.has_server();
    let targets: &[Target] = if embedded { &[Target::AtLeast(50_000.0)] } else { &[] };
    report.add_value("relay of staged events", "events/s", rate, targets);
    site.drop(database).await?;
    close_log(log).await
}
