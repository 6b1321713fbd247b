//! Which stretch of the log a consumer was asked to handle: tells an event that is done from one
//! that it was never given.

use std::collections::{HashMap, HashSet};

use schemas::{Event, Filter, Patterns};
use sqlx::Row;

use crate::assignment::Assignment;
use crate::db::{built, sql};
use crate::partition::partition_of;
use crate::registry::{Registration, json, queue_name};
use crate::work::WorkId;
use crate::{Db, Recorded, Seq, Tx, bulk};

/// Notes, for the partitions of `assignment`, from where on the present types and filter count.
pub(crate) async fn note(
    tx: &mut Tx,
    config: &Registration,
    generation: i64,
    assignment: &Assignment,
) -> Result<(), sqlx::Error> {
    let known = rows(tx, &config.name, generation).await?;
    let (types, filter) = (json(&config.types), config.filter.as_ref().map(json));
    for (partition, held) in &assignment.partitions {
        let newest = known.iter().rfind(|row| row.partition == *partition);
        if newest.is_some_and(|row| row.types == types && row.filter == filter) {
            continue;
        }
        let query = sql("insert into consumer_coverage (consumer, generation, partition, from_seq,
                 types, filter) values ($1, $2, $3, $4, $5, $6)
             on conflict (consumer, generation, partition, from_seq)
                 do update set types = excluded.types, filter = excluded.filter")
        .bind(config.name.clone())
        .bind(generation)
        .bind(*partition)
        .bind(held.cursor.next().get())
        .bind(types.clone())
        .bind(filter.clone());
        tx.execute(query).await?;
    }
    Ok(())
}

struct CoverageRow {
    partition: i64,
    from: Seq,
    types: String,
    filter: Option<String>,
}

const ROWS: &str = "select partition, from_seq, types, filter from consumer_coverage
    where consumer = $1 and generation = $2 order by from_seq";

async fn rows(
    tx: &mut Tx,
    consumer: &str,
    generation: i64,
) -> Result<Vec<CoverageRow>, sqlx::Error> {
    let query = sql(ROWS).bind(consumer.to_owned()).bind(generation);
    Ok(tx.fetch_all(query).await?.iter().map(read).collect())
}

fn read(row: &sqlx::any::AnyRow) -> CoverageRow {
    let (partition, from) = (row.get(0), Seq::new(row.get(1)));
    CoverageRow { partition, from, types: row.get(2), filter: row.get(3) }
}

/// How far one consumer is with one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is not meant for the consumer.
    NotForIt,
    /// It was handled.
    Done {
        /// How many attempts it took.
        attempts: i64,
    },
    /// It has not been tried.
    Waiting,
    /// It failed and is tried again.
    Retrying {
        /// Attempts so far.
        attempts: i64,
        /// The last failure.
        error: Option<String>,
    },
    /// It is a dead letter.
    Dead {
        /// The letter, unless it was thrown away.
        letter: Option<WorkId>,
        /// Attempts made.
        attempts: i64,
        /// The last failure.
        error: Option<String>,
    },
}

/// Where a consumer stands, to be asked about many events.
pub struct Coverage {
    consumer: Registration,
    queue: Option<i64>,
    cursors: HashMap<i64, Seq>,
    stretches: Vec<(i64, Seq, Patterns, Option<Filter>)>,
}

impl Coverage {
    /// Reads where `consumer` stands.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn load(db: &Db, consumer: Registration) -> Result<Coverage, sqlx::Error> {
        let (name, generation) = (consumer.name.clone(), consumer.generation);
        let query = sql("select partition, cursor_seq from consumer_partition
             where consumer = $1 and generation = $2")
        .bind(name.clone())
        .bind(generation);
        let cursors = db.fetch_all(query).await?;
        let cursors = cursors.iter().map(|row| (row.get(0), Seq::new(row.get(1)))).collect();
        let query = sql(ROWS).bind(name.clone()).bind(generation);
        let mut stretches = Vec::new();
        for row in db.fetch_all(query).await?.iter().map(read) {
            let types = parse(&row.types)?;
            let filter = row.filter.as_deref().map(parse).transpose()?;
            stretches.push((row.partition, row.from, types, filter));
        }
        let queue =
            crate::work::find(db, consumer.kind.work(), &queue_name(&name, generation)).await?;
        Ok(Coverage { consumer, queue: queue.map(|queue| queue.0), cursors, stretches })
    }

    /// The consumer.
    #[must_use]
    pub fn consumer(&self) -> &Registration {
        &self.consumer
    }

    /// Whether the consumer would be given this event today.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        self.consumer.types.matches(&event.kind)
            && self.consumer.filter.as_ref().is_none_or(|filter| filter.matches(event))
    }

    /// How far the consumer is with each of `events`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn progress(
        &self,
        db: &Db,
        events: &[std::sync::Arc<Recorded>],
    ) -> Result<Vec<Progress>, sqlx::Error> {
        let seqs: Vec<i64> = events.iter().map(|event| event.seq.get()).collect();
        let rows = self.work_rows(db, &seqs).await?;
        let extra = self.done_besides(db, &seqs).await?;
        let one = |event: &std::sync::Arc<Recorded>| match rows.get(&event.seq.get()) {
            Some(progress) => progress.clone(),
            None if extra.contains(&event.seq.get()) => Progress::Done { attempts: 1 },
            None => self.by_position(event),
        };
        Ok(events.iter().map(one).collect())
    }

    fn by_position(&self, event: &Recorded) -> Progress {
        let partition = partition_of(&event.event);
        let cursor = self.cursors.get(&partition).copied().unwrap_or_default();
        if event.seq > cursor {
            let wanted = self.wants(&event.event);
            return if wanted { Progress::Waiting } else { Progress::NotForIt };
        }
        let of = self.stretches.iter().rfind(|(p, from, ..)| *p == partition && *from <= event.seq);
        let covered = of.is_some_and(|(_, _, types, filter)| {
            types.matches(&event.event.kind)
                && filter.as_ref().is_none_or(|filter| filter.matches(&event.event))
        });
        if covered { Progress::Done { attempts: 1 } } else { Progress::NotForIt }
    }

    async fn work_rows(
        &self,
        db: &Db,
        seqs: &[i64],
    ) -> Result<HashMap<i64, Progress>, sqlx::Error> {
        let mut found = HashMap::new();
        let Some(queue) = self.queue else { return Ok(found) };
        for chunk in bulk::chunks(seqs) {
            let mut query = built(format!(
                "select seq, state, attempt, last_error, id from work
                 where queue = $1 and seq in ({})",
                bulk::list(2, chunk.len())
            ));
            query = query.bind(queue);
            for seq in chunk {
                query = query.bind(*seq);
            }
            for row in db.fetch_all(query).await? {
                let (attempts, error) = (row.get(2), row.get(3));
                let progress = match row.get::<String, _>(1).as_str() {
                    "done" => Progress::Done { attempts },
                    "dead" => {
                        let letter = Some(WorkId::from_bytes(&row.get::<Vec<u8>, _>(4))?);
                        Progress::Dead { letter, attempts, error }
                    }
                    "discarded" => Progress::Dead { letter: None, attempts, error },
                    "leased" if attempts == 1 => Progress::Waiting,
                    _ if attempts == 0 => Progress::Waiting,
                    _ => Progress::Retrying { attempts, error },
                };
                found.insert(row.get(0), progress);
            }
        }
        Ok(found)
    }

    async fn done_besides(&self, db: &Db, seqs: &[i64]) -> Result<HashSet<i64>, sqlx::Error> {
        let mut found = HashSet::new();
        for chunk in bulk::chunks(seqs) {
            let mut query = built(format!(
                "select seq from consumer_done where consumer = $1 and seq in ({})",
                bulk::list(2, chunk.len())
            ));
            query = query.bind(self.consumer.name.clone());
            for seq in chunk {
                query = query.bind(*seq);
            }
            found.extend(db.fetch_all(query).await?.iter().map(|row| row.get::<i64, _>(0)));
        }
        Ok(found)
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}
