//! The relay: events that transactions staged, on their way into the log.

use std::time::Instant;

use bus::{Clock, outbox};

use super::Extent;
use super::disk;
use super::folder::Folder;
use super::jetstream::per_second;
use super::load::{Events, close_log, open_database, open_log};
use super::report::{Report, Target};

/// Events staged in one transaction.
const BATCH: usize = 1_000;

pub(super) async fn measure(
    extent: Extent,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("the outbox relay");
    let folder = folder.inner()?;
    let clock = Clock::system();
    let log = open_log(folder.path(), &clock)?;
    let db = open_database(folder.path(), &clock).await?;
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
    loop {
        let count = outbox::relay_round(&db, log.as_ref()).await?;
        if count == 0 {
            break;
        }
        relayed += count as u64;
    }
    let rate = per_second(relayed, started);
    report.add_value("relay of staged events", "events/s", rate, &[Target::AtLeast(50_000.0)]);
    db.close().await;
    close_log(log).await
}
