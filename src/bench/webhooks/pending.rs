//! A million deliveries that are pending when a server starts: what it holds in memory, and how soon
//! it delivers.

use std::time::{Duration, Instant};

use bus::{Clock, Db, Tx, built, sql};

use super::{Server, Sink, add, batches};
use crate::bench::process::Process;
use crate::bench::report::{Report, Target};
use crate::bench::{Folder, disk};

const ENDPOINTS: usize = 1_000;
/// How long memory is watched once the first has arrived.
const WATCHED: Duration = Duration::from_secs(10);

pub(super) async fn measure(
    deliveries: usize,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("pending deliveries");
    let (server, sink) = (Server::start(folder).await?, Sink::start().await?);
    add(&server, ENDPOINTS, |_| (sink.url(), "bench.other".to_owned())).await?;
    server.publish(batches("bench.t", deliveries / ENDPOINTS)).await?;
    let folder = server.stop_and_keep().await?;
    let path = folder.path().join("state.db");
    let db = Db::open(&format!("sqlite://{}", path.display()), Clock::system()).await?;
    let mut tx = db.begin().await?;
    make_pending(&mut tx, i64::try_from(deliveries / ENDPOINTS)?).await?;
    tx.commit().await?;
    db.close().await;
    disk::settle(folder.path()).await?;

    let begun = Instant::now();
    let process = Process::dev_at(folder.path()).await?;
    sink.reaches(1, Duration::from_secs(60)).await?;
    let took = begun.elapsed();
    tokio::time::sleep(WATCHED).await;
    let (_, most) = process.memory_mib()?;
    process.stop().await?;
    let name = format!("{deliveries} pending: start until the first arrives");
    report.add_value(name, "s", took.as_secs_f64(), &[Target::AtMost(2.0)]);
    let name = format!("{deliveries} pending: memory at most, while they are delivered");
    report.add_value(name, "MiB", most, &[Target::AtMost(200.0)]);
    Ok(())
}

/// A delivery of each of the first events to each endpoint, as it stands when it is due.
async fn make_pending(tx: &mut Tx, events: i64) -> Result<(), sqlx::Error> {
    let deliveries = sql("with recursive event (seq) as
             (select 1 union all select seq + 1 from event where seq < $1)
         insert into webhook_delivery (id, endpoint, seq, event_id, type, status, caused_by,
             created_at_us)
         select cast(printf('%08d%08d', q.id, seq) as blob), e.id, seq, 'bench.t-' || seq,
             'bench.t', 'pending', 'schedule', 1
         from webhook_endpoint e join work_queue q on q.name = e.id and q.kind = 'webhook', event");
    tx.execute(deliveries.bind(events)).await?;
    for text in [
        "insert into work (id, queue, state, due_at_us, created_at_us, seq)
         select d.id, q.id, 'ready', 1, 1, d.seq from webhook_delivery d
         join work_queue q on q.name = d.endpoint and q.kind = 'webhook'",
        "update work_queue set next_due_us = 1 where kind = 'webhook'",
    ] {
        tx.execute(built(text.to_owned())).await?;
    }
    Ok(())
}
