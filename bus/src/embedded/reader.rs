//! Reads the file, on threads of their own, with connections that are kept.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};
use schemas::{Data, Event, EventId, EventType, Patterns, Source, Timestamp};
use tokio::sync::Semaphore;

use crate::embedded::names::{Names, source_of};
use crate::log::PAGE_BYTES_MAX;
use crate::{Page, Read, ReadError, Recorded, Seq};

/// Reads at once; more wait.
const READERS_MAX: usize = 8;
/// Rows looked at after which a page ends early, so that no read holds its snapshot for long: an
/// open snapshot keeps the write-ahead log from being reused.
const PAGE_ROWS_MAX: usize = 50_000;

const COLUMNS: &str = "seq, source, id, type, recorded_at_us, attributes, data_kind, data";

pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Reader>>>,
    places: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Readers {
        Readers { path, idle: Arc::default(), places: Arc::new(Semaphore::new(READERS_MAX)) }
    }

    /// Runs `job` with a reader on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit =
            Arc::clone(&self.places).acquire_owned().await.map_err(|_| ReadError::Closed)?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut reader = kept.map_or_else(|| Reader::open(&path), Ok)?;
            let answer = job(&mut reader)?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            Ok(answer)
        });
        match work.await {
            Ok(answer) => answer.map_err(|error: rusqlite::Error| ReadError::Read(error.into())),
            Err(_) => Err(ReadError::Closed),
        }
    }
}

/// One type as the log counts it.
pub(super) struct TypeRow {
    pub(super) id: i64,
    pub(super) name: EventType,
    pub(super) events: i64,
    pub(super) bytes: i64,
}

pub(super) struct Reader {
    connection: Connection,
    sources: Names,
    types: Names,
}

impl Reader {
    fn open(path: &std::path::Path) -> rusqlite::Result<Reader> {
        let connection = super::connect(path)?;
        connection.execute_batch("pragma query_only = on; pragma cache_size = -2000;")?;
        let (sources, types) = (Names::new("source"), Names::new("type"));
        Ok(Reader { connection, sources, types })
    }

    pub(super) fn forward(&mut self, read: &Read, head: Seq) -> rusqlite::Result<Page> {
        let until = read.until.min(head);
        let limit = read.events_max;
        let (matching, share) = self.matching(&read.types)?;
        if share < SCAN_SHARE_MIN {
            let mut seqs = self.seqs(&matching, read.after, until, limit, Order::OldestFirst)?;
            seqs.sort_unstable();
            return self.page_of(&seqs, limit, until.max(read.after));
        }
        self.scan(read, until, &matching, Order::OldestFirst)
    }

    pub(super) fn back(&mut self, read: &Read, head: Seq) -> rusqlite::Result<Page> {
        let until = read.until.min(head);
        let (matching, share) = self.matching(&read.types)?;
        if share < SCAN_SHARE_MIN {
            let limit = read.events_max;
            let mut seqs = self.seqs(&matching, read.after, until, limit, Order::NewestFirst)?;
            seqs.sort_unstable_by(|a, b| b.cmp(a));
            return self.page_of(&seqs, limit, read.after);
        }
        self.scan(read, until, &matching, Order::NewestFirst)
    }

    /// The events at `seqs`, which are sorted; the page ends at `end` when there are no more.
    fn page_of(&mut self, seqs: &[Seq], limit: usize, end: Seq) -> rusqlite::Result<Page> {
        let wanted = &seqs[..seqs.len().min(limit)];
        let mut page = Page { events: Vec::with_capacity(wanted.len()), through: end };
        let mut bytes = 0;
        for (index, seq) in wanted.iter().enumerate() {
            let Some(event) = self.row(*seq)? else { continue };
            bytes += event.event.data.as_bytes().len();
            page.events.push(event);
            let full = index + 1 == limit || bytes >= PAGE_BYTES_MAX;
            if full {
                page.through = *seq;
                break;
            }
        }
        Ok(page)
    }

    /// Reads every row in turn and drops those of other types.
    fn scan(
        &mut self,
        read: &Read,
        until: Seq,
        matching: &[i64],
        order: Order,
    ) -> rusqlite::Result<Page> {
        let Reader { connection, sources, types } = self;
        let mut statement = connection.prepare_cached(&format!(
            "select {COLUMNS} from event where seq > ?1 and seq <= ?2 order by seq {order}"
        ))?;
        let mut rows = statement.query(params![read.after.get(), until.get()])?;
        let end = match order {
            Order::OldestFirst => until.max(read.after),
            Order::NewestFirst => read.after,
        };
        let mut page = Page { events: Vec::new(), through: end };
        let (mut bytes, mut looked_at) = (0, 0);
        while let Some(row) = rows.next()? {
            looked_at += 1;
            let kind: i64 = row.get(3)?;
            if matching.binary_search(&kind).is_ok() {
                let event = decode(row, connection, sources, types)?;
                bytes += event.event.data.as_bytes().len();
                page.events.push(Arc::new(event));
            }
            let full = page.events.len() >= read.events_max || bytes >= PAGE_BYTES_MAX;
            if full || looked_at >= PAGE_ROWS_MAX {
                page.through = Seq::new(row.get(0)?);
                break;
            }
        }
        Ok(page)
    }

    pub(super) fn rows(&mut self, seqs: &[Seq]) -> rusqlite::Result<Vec<Arc<Recorded>>> {
        let mut events = Vec::with_capacity(seqs.len());
        for seq in seqs {
            events.extend(self.row(*seq)?);
        }
        Ok(events)
    }

    fn row(&mut self, seq: Seq) -> rusqlite::Result<Option<Arc<Recorded>>> {
        let Reader { connection, sources, types } = self;
        let mut statement =
            connection.prepare_cached(&format!("select {COLUMNS} from event where seq = ?1"))?;
        let mut rows = statement.query([seq.get()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(Arc::new(decode(row, connection, sources, types)?)))
    }

    pub(super) fn count(
        &mut self,
        after: Seq,
        until: Seq,
        types: &Patterns,
    ) -> rusqlite::Result<u64> {
        let (matching, _) = self.matching(types)?;
        let mut statement = self.connection.prepare_cached(
            "select count(*) from event where type = ?1 and seq > ?2 and seq <= ?3",
        )?;
        let mut total = 0;
        for kind in matching {
            let of_kind: i64 =
                statement.query_row(params![kind, after.get(), until.get()], |row| row.get(0))?;
            total += u64::try_from(of_kind).unwrap_or(0);
        }
        Ok(total)
    }

    /// A binary search over the numbers: times never decrease, so no index on them is needed.
    pub(super) fn position_at(&mut self, at: Timestamp, head: Seq) -> rusqlite::Result<Seq> {
        let mut statement = self.connection.prepare_cached(
            "select seq, recorded_at_us from event where seq >= ?1 order by seq limit 1",
        )?;
        let (mut low, mut high) = (1_i64, head.get() + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            let found: Option<(i64, i64)> =
                statement.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            match found {
                Some((seq, recorded)) if recorded < at.as_micros() => low = seq + 1,
                _ => high = middle,
            }
        }
        Ok(Seq::new(low - 1))
    }

    pub(super) fn first(&mut self) -> rusqlite::Result<Option<Seq>> {
        let first: Option<i64> = self
            .connection
            .prepare_cached("select seq from event order by seq limit 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        Ok(first.map(Seq::new))
    }

    pub(super) fn recorded_at(&mut self, from: Seq) -> rusqlite::Result<Option<Timestamp>> {
        let at: Option<i64> = self
            .connection
            .prepare_cached(
                "select recorded_at_us from event where seq >= ?1 order by seq limit 1",
            )?
            .query_row([from.get()], |row| row.get(0))
            .optional()?;
        Ok(at.map(Timestamp::from_micros))
    }

    /// Every type, with what it holds.
    pub(super) fn type_rows(&mut self) -> rusqlite::Result<Vec<TypeRow>> {
        let mut statement = self
            .connection
            .prepare_cached("select id, name, events, bytes from type order by id")?;
        let rows = statement.query_map([], |row| {
            let name = EventType::from_trusted(row.get::<_, String>(1)?.into());
            Ok(TypeRow { id: row.get(0)?, name, events: row.get(2)?, bytes: row.get(3)? })
        })?;
        rows.collect()
    }

    pub(super) fn pruned_through(&mut self) -> rusqlite::Result<Vec<(EventType, Timestamp)>> {
        let mut statement = self.connection.prepare_cached(
            "select name, pruned_through_us from type where pruned_through_us is not null",
        )?;
        let rows = statement.query_map([], |row| {
            let name = EventType::from_trusted(row.get::<_, String>(0)?.into());
            Ok((name, Timestamp::from_micros(row.get(1)?)))
        })?;
        rows.collect()
    }

    /// The oldest events of one type up to `until`, with their sizes in bytes.
    pub(super) fn oldest(
        &mut self,
        kind: i64,
        until: Seq,
        limit: usize,
    ) -> rusqlite::Result<Vec<(Seq, i64, Timestamp)>> {
        let mut statement = self.connection.prepare_cached(
            "select seq, length(id) + length(attributes) + length(data), recorded_at_us
             from event where type = ?1 and seq <= ?2 order by seq limit ?3",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![kind, until.get(), limit], |row| {
            let at = Timestamp::from_micros(row.get(2)?);
            Ok((Seq::new(row.get(0)?), row.get(1)?, at))
        })?;
        rows.collect()
    }

    /// Up to `limit` positions of each type, over the index alone.
    fn seqs(
        &mut self,
        kinds: &[i64],
        after: Seq,
        until: Seq,
        limit: usize,
        order: Order,
    ) -> rusqlite::Result<Vec<Seq>> {
        let mut statement = self.connection.prepare_cached(&format!(
            "select seq from event where type = ?1 and seq > ?2 and seq <= ?3
             order by seq {order} limit ?4"
        ))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut seqs = Vec::new();
        for kind in kinds {
            let mut rows = statement.query(params![kind, after.get(), until.get(), limit])?;
            while let Some(row) = rows.next()? {
                seqs.push(Seq::new(row.get(0)?));
            }
        }
        Ok(seqs)
    }

    /// The numbers of the types that match, sorted, and their share of all events.
    fn matching(&mut self, patterns: &Patterns) -> rusqlite::Result<(Vec<i64>, f64)> {
        let mut matching = Vec::new();
        let (mut matched, mut total) = (0_i64, 0_i64);
        for row in self.type_rows()? {
            total += row.events;
            if patterns.matches(&row.name) {
                matched += row.events;
                matching.push(row.id);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a share decides between two ways to read")]
        let share = if total == 0 { 1.0 } else { matched as f64 / total as f64 };
        Ok((matching, share))
    }
}

/// In which order rows are read.
#[derive(Clone, Copy)]
enum Order {
    OldestFirst,
    NewestFirst,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Order::OldestFirst => "asc",
            Order::NewestFirst => "desc",
        })
    }
}

/// From this share of all events on, reading every row is cheaper than going by the index.
const SCAN_SHARE_MIN: f64 = 0.25;

fn decode(
    row: &Row<'_>,
    connection: &Connection,
    sources: &mut Names,
    types: &mut Names,
) -> rusqlite::Result<Recorded> {
    let source = source_of(sources.name(connection, row.get(1)?)?);
    let kind = types.name(connection, row.get(3)?)?;
    let id: Arc<str> = row.get_ref(2)?.as_str()?.into();
    let attributes = row.get_ref(5)?.as_str()?;
    let bytes = bytes::Bytes::copy_from_slice(row.get_ref(7)?.as_bytes()?);
    let data = Data::from_code(row.get(6)?, bytes).unwrap_or(Data::Empty);
    let event = Event::from_parts(
        EventId::from_trusted(id),
        Source::from_trusted(source),
        EventType::from_trusted(kind),
        attributes,
        data,
    )
    .map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(5, rusqlite::types::Type::Text, error.into())
    })?;
    let recorded_at = Timestamp::from_micros(row.get(4)?);
    Ok(Recorded { seq: Seq::new(row.get(0)?), recorded_at, event })
}
