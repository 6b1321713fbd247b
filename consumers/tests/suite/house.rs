//! A fresh log and a fresh database with the built-in consumers running.

use std::sync::Arc;
use std::time::Duration;

use bus::{
    BatchConsumer, Clock, Db, EmbeddedLog, Kind, Log, Platform, Running, Seq, Whole, registry,
};
use consumers::analytics::{CountEvents, Interval, Timeseries};
use jiff::tz::TimeZone;
use schemas::{Event, EventId, Timestamp};
use tempfile::TempDir;

pub(crate) struct House {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) running: Running,
    _folder: TempDir,
}

impl House {
    pub(crate) async fn start() -> House {
        let folder = TempDir::new().unwrap();
        let clock = Clock::system();
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(folder.path(), &clock).unwrap());
        let url = format!("sqlite://{}", folder.path().join("state.db").display());
        let db = Db::open(&url, clock.clone()).await.unwrap();
        let platform = Platform {
            db: db.clone(),
            log: Arc::clone(&log),
            handlers: vec![Arc::new(Whole::new(CountEvents, Kind::Builtin))],
            targets: Vec::new(),
            retention: Vec::new(),
            inbox: std::time::Duration::from_secs(3_600),
            alone: true,
        };
        let running = platform.start().await.unwrap();
        House { log, db, clock, running, _folder: folder }
    }

    pub(crate) async fn publish(&self, kind: &str, count: usize) {
        let event = || {
            let id = EventId::from_uuid(uuid::Uuid::now_v7());
            Event::new(kind.parse().unwrap(), "/tests".parse().unwrap(), id)
        };
        let events = (0..count).map(|_| event()).collect();
        self.log.publish_all(events).await.unwrap();
    }

    /// Waits until every event was counted.
    pub(crate) async fn counted(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let consumer = registry::find(&self.db, CountEvents::NAME).await.unwrap().unwrap();
            let position = registry::position(&self.db, &consumer).await.unwrap();
            let head: Seq = *self.log.head().borrow();
            if position >= head {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not counted within 20 s");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The sum over all minutes.
    pub(crate) async fn total(&self, types: Option<&str>) -> i64 {
        let now = self.clock.now().as_micros();
        let series = Timeseries {
            types: types.map(|types| types.parse().unwrap()),
            interval: Interval::Minute,
            zone: TimeZone::UTC,
            from: Timestamp::from_micros(now - 3_600_000_000),
            to: Timestamp::from_micros(now + 1),
        };
        series.read(&self.db).await.unwrap().iter().map(|point| point.value).sum()
    }
}
