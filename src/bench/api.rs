//! Publishing over HTTP, to a server that is a process of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Extent;
use super::client::{Connection, with_body};
use super::disk;
use super::folder::Folder;
use super::jetstream::per_second;
use super::load::data;
use super::process::Process;
use super::report::{Report, Target};
use super::samples::Samples;

/// Kept connections with one event a request, and with batches.
const CONNECTIONS: usize = 64;
const CONNECTIONS_BATCH: usize = 8;
/// Events in a batch.
const BATCH: usize = 100;
/// Time before the samples, in which connections are made and caches fill.
const WARM_UP: Duration = Duration::from_millis(500);
const ACCEPTED: u16 = 202;

pub(super) async fn measure(
    extent: Extent,
    folder: &Folder,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.begin("publishing over HTTP");
    let (here, there) = (folder.inner()?, folder.inner()?);
    let skald = Process::dev(here.path()).await?;
    let noop = Process::noop(there.path()).await?;
    let [mut one, mut one_noop, mut batch, mut batch_noop] = [(); 4].map(|()| Samples::default());
    let ids = Arc::new(AtomicU64::new(0));
    load(skald.address(), &ids, CONNECTIONS, 1, WARM_UP).await?;
    load(noop.address(), &ids, CONNECTIONS, 1, WARM_UP).await?;
    for _ in 0..extent.rounds {
        disk::settle(folder.path()).await?;
        one_noop.push(load(noop.address(), &ids, CONNECTIONS, 1, extent.sample).await?);
        one.push(load(skald.address(), &ids, CONNECTIONS, 1, extent.sample).await?);
        batch_noop.push(load(noop.address(), &ids, CONNECTIONS_BATCH, BATCH, extent.sample).await?);
        batch.push(load(skald.address(), &ids, CONNECTIONS_BATCH, BATCH, extent.sample).await?);
    }
    noop.stop().await?;
    skald.stop().await?;
    let unit = "events/s";
    let what = "POST one event, 64 connections (reference: a server that does nothing)";
    report.add(what, unit, &one, &one_noop, &[Target::Ratio(0.6)]);
    let what = "POST batches of 100, 8 connections (reference: a server that does nothing)";
    report.add(what, unit, &batch, &batch_noop, &[Target::AtLeast(60_000.0)]);
    Ok(())
}

/// Events per second that are answered as accepted, over `connections`.
async fn load(
    address: SocketAddr,
    ids: &Arc<AtomicU64>,
    connections: usize,
    events: usize,
    length: Duration,
) -> anyhow::Result<f64> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(address).await?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for connection in open {
        let request = Request::new(events);
        tasks.spawn(publish(connection, request, Arc::clone(ids), started + length));
    }
    let mut requests = 0;
    while let Some(ended) = tasks.join_next().await {
        requests += ended??;
    }
    Ok(per_second(requests * events as u64, started))
}

/// Requests answered until `until`.
async fn publish(
    mut connection: Connection,
    mut request: Request,
    ids: Arc<AtomicU64>,
    until: Instant,
) -> anyhow::Result<u64> {
    let mut requests = 0;
    while Instant::now() < until {
        request.number(&ids);
        let status = connection.send(&request.bytes).await?;
        anyhow::ensure!(status == ACCEPTED, "a publish request was answered with {status}");
        requests += 1;
    }
    Ok(requests)
}

/// The bytes of a request, made once; for each sending only the ids in it change.
struct Request {
    bytes: Vec<u8>,
    /// Where the digits of the ids begin.
    ids: Vec<usize>,
}

impl Request {
    /// What an id is until it is numbered; as long as a number.
    const BLANK: &str = "################";

    fn new(events: usize) -> Request {
        let event = format!(
            r#"{{"specversion":"1.0","id":"{}","source":"/bench","type":"bench.measured","data":{}}}"#,
            Request::BLANK,
            data()
        );
        let (media_type, body) = match events {
            1 => ("application/cloudevents+json", event),
            _ => (
                "application/cloudevents-batch+json",
                format!("[{}]", vec![event; events].join(",")),
            ),
        };
        let bytes = with_body("POST", "/v1/events", media_type, &body);
        let text = String::from_utf8_lossy(&bytes);
        let ids = text.match_indices(Request::BLANK).map(|(at, _)| at).collect();
        Request { bytes, ids }
    }

    /// Gives every event the next number. They grow over all connections, as ids that are made of
    /// the time do.
    fn number(&mut self, ids: &AtomicU64) {
        let first = ids.fetch_add(self.ids.len() as u64, Ordering::Relaxed);
        for (number, at) in (first..).zip(&self.ids) {
            let digits = &mut self.bytes[*at..*at + Request::BLANK.len()];
            for (index, digit) in digits.iter_mut().rev().enumerate() {
                let nibble = (number >> (4 * index)) & 0xf;
                *digit = b"0123456789abcdef"[usize::from(nibble.to_le_bytes()[0])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_a_request_has_the_next_id() {
        let ids = AtomicU64::new(0x1f);
        let mut request = Request::new(2);
        request.number(&ids);
        let text = String::from_utf8(request.bytes.clone()).unwrap();
        assert!(text.contains(r#""id":"000000000000001f""#), "{text}");
        assert!(text.contains(r#""id":"0000000000000020""#), "{text}");
        assert_eq!(ids.into_inner(), 0x21);
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert!(schemas::http::batch_with(body.as_bytes(), 2, |_| Ok(())).is_ok());
    }
}
