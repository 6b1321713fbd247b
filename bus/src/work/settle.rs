//! Ends leases: done, again later, or a dead letter.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use schemas::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::id::bind_ids;
use super::queue::{QueueInfo, hint_due, hint_expiry};
use super::{LeaseToken, NEVER_US, QueueId, WorkId, key, limit};
use crate::db::built;
use crate::failure::kept;
use crate::policy::Next;
use crate::{Dialect, Seq, Span, Tx, bulk, metrics, replay};

/// How long an ended row is kept when it has something to tell: an output, several attempts, a name
/// that is not to be used again at once.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// What became of an attempt.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It worked; `output` is kept for those who wait for it.
    Done {
        /// JSON.
        output: Option<String>,
    },
    /// It did not.
    Failed {
        /// Why, for people.
        error: String,
        /// Whether trying again cannot help.
        permanent: bool,
        /// The wait before the next attempt that the failing side asked for.
        delay: Option<Duration>,
    },
    /// It was not tried: the attempt does not count, and the row is due after `delay`.
    Released {
        /// From now.
        delay: Duration,
    },
}

/// What a settlement did with one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// It is tried again.
    Again,
    /// It is a dead letter.
    Dead,
    /// The lease had ended, or the token was not the lease's: nothing changed.
    Expired,
}

/// One row and what a settlement did with it.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// The row.
    pub id: WorkId,
    /// What became of it.
    pub verdict: Verdict,
    /// The event of one that is a dead letter now; its text is to be kept with `dead_letter::keep`.
    pub seq: Option<Seq>,
    /// Its queue, unless it had expired.
    pub queue: Option<QueueId>,
}

/// One row and whether its lease was extended.
#[derive(Clone, Copy, Debug)]
pub struct Extended {
    /// The row.
    pub id: WorkId,
    /// When the lease ends now; `None` when it had ended already.
    pub expires_at: Option<Timestamp>,
}

/// Ends the leases in `answers`, in bulk, in this transaction; with `only`, those of other queues
/// count as expired. An answer whose token is not the
/// row's, or whose lease has ended, changes nothing: the same statement that reads the row for the
/// change names the token, and locks it.
///
/// # Errors
/// Those of the database.
pub async fn settle(
    tx: &mut Tx,
    only: Option<QueueId>,
    answers: &[(WorkId, LeaseToken, Outcome)],
) -> Result<Vec<Settled>, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let mut rows = leased(tx, answers.iter().map(|(id, ..)| *id), now_us).await?;
    rows.retain(|_, row| only.is_none_or(|queue| row.queue == queue.0));
    let mut ids: Vec<i64> = rows.values().map(|row| row.queue).collect();
    ids.sort_unstable();
    ids.dedup();
    let queues = QueueInfo::load(tx, &ids).await?;
    let queues: HashMap<i64, QueueInfo> =
        queues.into_iter().map(|queue| (queue.id, queue)).collect();

    let mut plan = Plan::default();
    let mut settled = Vec::with_capacity(answers.len());
    for (id, token, outcome) in answers {
        // With its first answer a lease is over.
        let holds = rows.get(id).is_some_and(|row| row.token == token.get());
        let row = holds.then(|| rows.remove(id)).flatten();
        let row = row.as_ref();
        let verdict = match row.and_then(|row| Some((row, queues.get(&row.queue)?))) {
            Some((row, queue)) => plan.add(*id, row, queue, outcome, now_us),
            None => Verdict::Expired,
        };
        let seq = row.filter(|_| verdict == Verdict::Dead).and_then(|row| row.seq);
        let queue = row.map(|row| QueueId(row.queue));
        settled.push(Settled { id: *id, verdict, seq, queue });
    }
    plan.execute(tx, now_us).await?;
    Ok(settled)
}

/// Counts what was done at the first try without ever having a row, as the metrics count rows.
pub fn count_done(kind: &str, count: usize) {
    metrics::work_done(kind, count);
}

/// Makes leases on rows of `queue` last `lease` from now.
///
/// # Errors
/// Those of the database.
pub async fn extend(
    tx: &mut Tx,
    queue: QueueId,
    leases: &[(WorkId, LeaseToken)],
    lease: Duration,
) -> Result<Vec<Extended>, sqlx::Error> {
    let now_us = tx.clock().now().as_micros();
    let until = now_us.saturating_add(Span(lease).micros());
    let rows = leased(tx, leases.iter().map(|(id, _)| *id), now_us).await?;
    let holds = |(id, token): &(WorkId, LeaseToken)| {
        rows.get(id).is_some_and(|row| row.token == token.get() && row.queue == queue.0)
    };
    let mut held: Vec<WorkId> =
        leases.iter().filter(|lease| holds(lease)).map(|(id, _)| *id).collect();
    held.sort_unstable();
    held.dedup();
    for chunk in bulk::lists(&held) {
        let ids = bulk::list(2, chunk.len());
        let query = built(format!("update work set due_at_us = $1 where id in ({ids})"));
        tx.execute(bind_ids(query.bind(until), chunk)).await?;
    }
    if !held.is_empty() {
        hint_expiry(tx, vec![queue.0], until).await?;
    }
    let expires_at = |lease| holds(lease).then(|| Timestamp::from_micros(until));
    Ok(leases.iter().map(|lease| Extended { id: lease.0, expires_at: expires_at(lease) }).collect())
}

/// A row as it stood when its lease ended.
pub(super) struct Leased {
    queue: i64,
    token: i64,
    attempt: i64,
    key: Option<String>,
    tag: Option<String>,
    seq: Option<Seq>,
    created_at_us: i64,
    /// A name outlives its row's end for a while, so that it is not taken again by a repetition.
    named: bool,
}

impl Leased {
    /// From [`Leased::COLUMNS`].
    pub(super) const COLUMNS: &str = "id, queue, token, attempt, key, tag, seq, created_at_us,
        case when name is null then 0 else 1 end";

    pub(super) fn read(row: &AnyRow) -> Leased {
        Leased {
            queue: row.get(1),
            token: row.get::<Option<i64>, _>(2).unwrap_or(0),
            attempt: row.get(3),
            key: row.get(4),
            tag: row.get(5),
            seq: row.get::<Option<i64>, _>(6).map(Seq::new),
            created_at_us: row.get(7),
            named: row.get::<i64, _>(8) == 1,
        }
    }

    pub(super) fn queue(&self) -> i64 {
        self.queue
    }

    pub(super) fn seq(&self) -> Option<Seq> {
        self.seq
    }
}

/// What is to be written, gathered over all rows.
#[derive(Default)]
pub(super) struct Plan {
    deleted: Vec<WorkId>,
    kept: Vec<(WorkId, Option<String>)>,
    /// Row, error, when it is due again; `None` when it is dead.
    failed: Vec<(WorkId, String, Option<i64>)>,
    released: Vec<(WorkId, i64)>,
    freed: HashMap<String, i64>,
    keys: Vec<(i64, String)>,
    hints: Vec<(i64, i64)>,
    replays: BTreeMap<String, replay::Ended>,
}

impl Plan {
    pub(super) fn add(
        &mut self,
        id: WorkId,
        row: &Leased,
        queue: &QueueInfo,
        outcome: &Outcome,
        now_us: i64,
    ) -> Verdict {
        for name in &queue.limits {
            *self.freed.entry(name.clone()).or_default() += 1;
        }
        if !queue.limits.is_empty() {
            self.hints.push((row.queue, now_us)); // A place may be free.
        }
        let verdict = match outcome {
            Outcome::Done { output } => {
                if output.is_some() || row.attempt > 1 || row.named {
                    self.kept.push((id, output.clone()));
                } else {
                    self.deleted.push(id);
                }
                Verdict::Done
            }
            Outcome::Failed { error, permanent, delay } => {
                let jitter = rand::random::<f64>();
                let age_us = u64::try_from(now_us - row.created_at_us).unwrap_or(0);
                let age = Duration::from_micros(age_us);
                let next = queue.policy.after_failure(row.attempt, age, *permanent, *delay, jitter);
                let due = match next {
                    Next::RetryAfter(wait) => Some(now_us.saturating_add(Span(wait).micros())),
                    Next::Dead => None,
                };
                self.hints.extend(due.map(|due| (row.queue, due)));
                self.failed.push((id, kept(error), due));
                if due.is_some() { Verdict::Again } else { Verdict::Dead }
            }
            Outcome::Released { delay } => {
                let due = now_us.saturating_add(Span(*delay).micros());
                self.released.push((id, due));
                self.hints.push((row.queue, due));
                Verdict::Again
            }
        };
        if matches!(verdict, Verdict::Done | Verdict::Dead) {
            self.keys.extend(row.key.clone().map(|key| (row.queue, key)));
            if let Some(tag) = &row.tag {
                self.replays
                    .entry(tag.clone())
                    .or_default()
                    .count(verdict == Verdict::Done, row.seq);
            }
        }
        metrics::work_settled(queue.label(), verdict);
        verdict
    }

    pub(super) async fn execute(self, tx: &mut Tx, now_us: i64) -> Result<(), sqlx::Error> {
        for chunk in bulk::lists(&self.deleted) {
            let text = format!("delete from work where id in ({})", bulk::list(1, chunk.len()));
            tx.execute(bind_ids(built(text), chunk)).await?;
        }
        self.keep(tx, now_us).await?;
        self.retry(tx, now_us).await?;
        self.release(tx).await?;
        let mut hints = self.hints;
        hints.extend(key::release(tx, &self.keys, now_us).await?);
        if !hints.is_empty() {
            hint_due(tx, &hints).await?;
        }
        limit::give_back(tx, &self.freed).await?;
        for (tag, ended) in self.replays {
            replay::progress(tx, &tag, ended).await?;
        }
        tx.wake(crate::signals::OUTCOME);
        Ok(())
    }

    async fn keep(&self, tx: &mut Tx, now_us: i64) -> Result<(), sqlx::Error> {
        for chunk in bulk::lists(&self.kept) {
            let n = chunk.len();
            let mut query = built(format!(
                "update work set state = 'done', due_at_us = ${}, token = null, owner = null,
                     output = v.column2 from {} where id = v.column1",
                1 + 2 * n,
                bulk::table(tx.dialect(), n, 2)
            ));
            for (id, output) in &chunk {
                query = query.bind(id.bytes()).bind(output.clone());
            }
            query = query.bind(now_us.saturating_add(Span(KEPT).micros()));
            tx.execute(query).await?;
        }
        Ok(())
    }

    async fn retry(&self, tx: &mut Tx, now_us: i64) -> Result<(), sqlx::Error> {
        for chunk in bulk::lists(&self.failed) {
            let n = chunk.len();
            let mut query = built(format!(
                "update work set
                     state = case when v.column2 = {NEVER_US} then 'dead' else 'ready' end,
                     due_at_us = v.column2, token = null, owner = null,
                     first_failed_at_us = coalesce(first_failed_at_us, ${now}),
                     last_failed_at_us = ${now}, last_error = v.column3
                 from {} where id = v.column1",
                bulk::table(tx.dialect(), n, 3),
                now = 1 + 3 * n,
            ));
            for (id, error, due) in &chunk {
                let due_us = due.unwrap_or(NEVER_US);
                query = query.bind(id.bytes()).bind(due_us).bind(error.clone());
            }
            tx.execute(query.bind(now_us)).await?;
        }
        Ok(())
    }

    async fn release(&self, tx: &mut Tx) -> Result<(), sqlx::Error> {
        for chunk in bulk::lists(&self.released) {
            let mut query = built(format!(
                "update work set state = 'ready', due_at_us = v.column2, token = null, owner = null,
                     attempt = attempt - 1 from {} where id = v.column1",
                bulk::table(tx.dialect(), chunk.len(), 2)
            ));
            for (id, due) in &chunk {
                query = query.bind(id.bytes()).bind(*due);
            }
            tx.execute(query).await?;
        }
        Ok(())
    }
}

/// Those of the rows that are under a lease that has not ended, whoever's it is. They are locked, in
/// the order of their ids as everywhere, until the transaction ends.
async fn leased(
    tx: &mut Tx,
    ids: impl Iterator<Item = WorkId>,
    now_us: i64,
) -> Result<HashMap<WorkId, Leased>, sqlx::Error> {
    let lock = if tx.dialect() == Dialect::Postgres { " order by id for update" } else { "" };
    let mut ids: Vec<WorkId> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    let mut rows = HashMap::with_capacity(ids.len());
    for chunk in bulk::lists(&ids) {
        let query = built(format!(
            "select {} from work where state = 'leased' and due_at_us > $1 and id in ({}){lock}",
            Leased::COLUMNS,
            bulk::list(2, chunk.len())
        ));
        for row in tx.fetch_all(bind_ids(query.bind(now_us), chunk)).await? {
            rows.insert(WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?, Leased::read(&row));
        }
    }
    Ok(rows)
}
