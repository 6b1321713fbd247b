//! Leases the rows that are due.

use std::collections::HashMap;
use std::time::Duration;

use schemas::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::limit::{self, Limit};
use super::queue::QueueInfo;
use super::{LeaseToken, NEVER_US, QueueId, WorkId};
use crate::db::{Query, built, sql};
use crate::{Db, Dialect, Policy, Seq, Span, Tx, bulk};

/// Queues that one round of a claim looks at; the next one looks at others.
const QUEUES_MAX: usize = 64;
/// Rounds of one claim, while full rounds give nothing.
const ROUNDS_MAX: usize = 32;

/// What to claim.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// Which kind of work.
    pub kind: &'a str,
    /// Only of this queue.
    pub queue: Option<&'a str>,
    /// Most rows.
    pub max: usize,
    /// How long the lease lasts.
    pub lease: Duration,
    /// Which process holds it; `None` for a program outside, whose lease outlives this process.
    pub owner: Option<&'a str>,
}

/// A row under lease.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The row.
    pub id: WorkId,
    /// Its queue.
    pub queue: QueueId,
    /// The name of its queue.
    pub queue_name: String,
    /// How it is to be tried.
    pub policy: Policy,
    /// Proof of the lease.
    pub token: LeaseToken,
    /// When the lease ends.
    pub expires_at: Timestamp,
    /// Which attempt this is, from 1.
    pub attempt: i64,
    /// When the row was made.
    pub created_at: Timestamp,
    /// See [`super::NewWork`].
    pub key: Option<String>,
    /// See [`super::NewWork`].
    pub tag: Option<String>,
    /// See [`super::NewWork`].
    pub seq: Option<Seq>,
    /// See [`super::NewWork`].
    pub payload: Option<String>,
}

/// Leases up to `claim.max` rows that are due, fairly over the queues, within their limits.
///
/// Two claims cannot lease the same row: on SQLite they run one after the other; on Postgres each
/// locks the queues that it looks at, and passes over those that are locked.
///
/// # Errors
/// Those of the database.
pub async fn claim(db: &Db, claim: &Claim<'_>) -> Result<Vec<Claimed>, sqlx::Error> {
    for _ in 0..ROUNDS_MAX {
        let (queues, claimed) = claim_round(db, claim).await?;
        if !claimed.is_empty() || queues < QUEUES_MAX {
            return Ok(claimed);
        }
    }
    Ok(Vec::new())
}

/// Looks at the queues that have waited longest: how many there were, and what they gave. Queues
/// that gave nothing are not looked at again before they have something to give.
async fn claim_round(db: &Db, claim: &Claim<'_>) -> Result<(usize, Vec<Claimed>), sqlx::Error> {
    let now = db.clock().now();
    if db.fetch_optional(due_queues(claim, now, "1", " limit 1")).await?.is_none() {
        return Ok((0, Vec::new())); // Without taking the write lock.
    }
    let mut tx = db.begin().await?;
    let lock = match tx.dialect() {
        Dialect::Sqlite => format!(" order by next_due_us limit {QUEUES_MAX}"),
        Dialect::Postgres => {
            format!(" order by next_due_us limit {QUEUES_MAX} for update skip locked")
        }
    };
    let rows =
        tx.fetch_all(due_queues(claim, now, "id, name, policy, limits, kind", &lock)).await?;
    let queues = rows.iter().map(QueueInfo::read).collect::<Result<Vec<_>, _>>()?;
    if queues.is_empty() {
        return Ok((0, Vec::new()));
    }
    let names = queues.iter().flat_map(|queue| queue.limits.clone()).collect();
    let mut limits = limit::load(&mut tx, names).await?;
    let shares = share(&queues, &mut limits, claim.max, now.as_micros());
    let lease = Lease {
        token: LeaseToken::draw(),
        until: Timestamp::from_micros(now.as_micros() + Span(claim.lease).micros()),
        owner: claim.owner.map(str::to_owned),
    };
    let claimed = lease_rows(&mut tx, &queues, &shares, &lease, now).await?;
    note_queues(&mut tx, &shares, &claimed, &limits, &queues, &lease, now).await?;
    note_limits(&mut tx, &queues, &shares, &claimed, &mut limits, now).await?;
    tx.commit().await?;
    Ok((queues.len(), claimed))
}

/// When the next row of `kind` (of `queue`) may be due; `None` when there is none. It may be early.
///
/// # Errors
/// Those of the database.
pub async fn next_due(
    db: &Db,
    kind: &str,
    queue: Option<&str>,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let text = "select min(next_due_us) from work_queue where kind = $1 and paused = 0";
    let query = match queue {
        None => sql(text).bind(kind.to_owned()),
        Some(name) => {
            built(format!("{text} and name = $2")).bind(kind.to_owned()).bind(name.to_owned())
        }
    };
    let due: Option<i64> = db.fetch_optional(query).await?.and_then(|row| row.get(0));
    Ok(due.filter(|due| *due != NEVER_US).map(Timestamp::from_micros))
}

fn due_queues(claim: &Claim<'_>, now: Timestamp, columns: &str, rest: &str) -> Query {
    let named = if claim.queue.is_some() { " and name = $3" } else { "" };
    let query = built(format!(
        "select {columns} from work_queue
         where kind = $1 and paused = 0 and next_due_us <= $2{named}{rest}"
    ));
    let query = query.bind(claim.kind.to_owned()).bind(now.as_micros());
    match claim.queue {
        None => query,
        Some(name) => query.bind(name.to_owned()),
    }
}

struct Lease {
    token: LeaseToken,
    until: Timestamp,
    owner: Option<String>,
}

/// What one queue may have of this claim.
struct Share {
    queue: i64,
    rows: i64,
    /// Whether its limits allow no more than this.
    limited: bool,
}

/// Divides `max` evenly over the queues, within their limits. Limits are taken here, as if every
/// place were used, so that queues that share one do not count it twice; `note_limits` corrects.
fn share(
    queues: &[QueueInfo],
    limits: &mut HashMap<String, Limit>,
    max: usize,
    now_us: i64,
) -> Vec<Share> {
    let mut left = i64::try_from(max).unwrap_or(i64::MAX);
    let mut shares = Vec::with_capacity(queues.len());
    let mut taken: HashMap<&str, i64> = HashMap::new();
    for (index, queue) in queues.iter().enumerate() {
        let waiting = i64::try_from(queues.len() - index).unwrap_or(1);
        let fair = (left + waiting - 1) / waiting;
        let allowed = queue
            .limits
            .iter()
            .filter_map(|name| {
                let used = taken.get(name.as_str()).copied().unwrap_or(0);
                limits.get(name).map(|limit| limit.allows(now_us) - used)
            })
            .min()
            .unwrap_or(i64::MAX)
            .max(0);
        let rows = fair.min(allowed);
        for name in &queue.limits {
            *taken.entry(name).or_default() += rows;
        }
        left -= rows;
        shares.push(Share { queue: queue.id, rows, limited: allowed <= fair });
    }
    shares
}

async fn lease_rows(
    tx: &mut Tx,
    queues: &[QueueInfo],
    shares: &[Share],
    lease: &Lease,
    now: Timestamp,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let open: Vec<&Share> = shares.iter().filter(|share| share.rows > 0).collect();
    let by_id: HashMap<i64, &QueueInfo> = queues.iter().map(|queue| (queue.id, queue)).collect();
    let mut claimed = Vec::new();
    // Whoever has locked a row will wait for the queue that is locked here: it is passed over.
    let lock = match tx.dialect() {
        Dialect::Sqlite => "",
        Dialect::Postgres => " for update skip locked",
    };
    for chunk in bulk::chunks(&open) {
        let due: Vec<String> = (0..chunk.len())
            .map(|index| {
                let (queue, rows) = (5 + index * 2, 6 + index * 2);
                format!(
                    "select id from (select id from work where queue = ${queue} and
                     state = 'ready' and due_at_us <= $4 order by due_at_us limit ${rows}{lock}) d{index}"
                )
            })
            .collect();
        let mut query = built(format!(
            "with due as ({})
             update work set state = 'leased', due_at_us = $1, attempt = attempt + 1, token = $2,
                 owner = $3 where id in (select id from due)
             returning id, queue, attempt, created_at_us, key, tag, seq, payload",
            due.join(" union all ")
        ));
        query = query
            .bind(lease.until.as_micros())
            .bind(lease.token.get())
            .bind(lease.owner.clone())
            .bind(now.as_micros());
        for share in chunk {
            query = query.bind(share.queue).bind(share.rows);
        }
        for row in tx.fetch_all(query).await? {
            claimed.push(read(&row, &by_id, lease)?);
        }
    }
    // `returning` has no order of its own.
    claimed.sort_unstable_by_key(|row| (row.seq, row.id));
    Ok(claimed)
}

fn read(
    row: &AnyRow,
    queues: &HashMap<i64, &QueueInfo>,
    lease: &Lease,
) -> Result<Claimed, sqlx::Error> {
    let queue: i64 = row.get(1);
    let info = queues.get(&queue).ok_or(sqlx::Error::RowNotFound)?;
    Ok(Claimed {
        id: WorkId::from_bytes(&row.get::<Vec<u8>, _>(0))?,
        queue: QueueId(queue),
        queue_name: info.name.clone(),
        policy: info.policy.clone(),
        token: lease.token,
        expires_at: lease.until,
        attempt: row.get(2),
        created_at: Timestamp::from_micros(row.get(3)),
        key: row.get(4),
        tag: row.get(5),
        seq: row.get::<Option<i64>, _>(6).map(Seq::new),
        payload: row.get(7),
    })
}

/// Notes when each queue is to be looked at again: at once where the claim was too small for it,
/// when its limit opens, or when its next row is due.
async fn note_queues(
    tx: &mut Tx,
    shares: &[Share],
    claimed: &[Claimed],
    limits: &HashMap<String, Limit>,
    queues: &[QueueInfo],
    lease: &Lease,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let counts = count_by_queue(claimed);
    let again = shares.iter().zip(queues).map(|(share, queue)| {
        if counts.get(&share.queue).copied().unwrap_or(0) < share.rows {
            return (share.queue, None); // Nothing more is due: the statement looks for the next row.
        }
        let again = if share.limited {
            opens_at(queue, limits, share.rows, now.as_micros())
        } else {
            now.as_micros()
        };
        (share.queue, Some(again))
    });
    let again: Vec<(i64, Option<i64>)> = again.collect();
    for chunk in bulk::lists(&again) {
        let until = 1 + 2 * chunk.len();
        let mut query = built(format!(
            "update work_queue set
                 next_due_us = coalesce(v.column2, (select min(due_at_us) from work
                     where queue = work_queue.id and state = 'ready'), {NEVER_US}),
                 next_expiry_us = case when next_expiry_us > ${until} then ${until}
                     else next_expiry_us end
             from {} where id = v.column1",
            bulk::table(tx.dialect(), chunk.len(), 2)
        ));
        for (queue, again) in chunk {
            query = query.bind(*queue).bind(*again);
        }
        tx.execute(query.bind(lease.until.as_micros())).await?;
    }
    Ok(())
}

/// When the tightest limit of a queue lets one more start, after `rows` have.
fn opens_at(queue: &QueueInfo, limits: &HashMap<String, Limit>, rows: i64, now_us: i64) -> i64 {
    let open = |name: &String| {
        let mut limit = limits.get(name)?.clone();
        limit.take(rows, now_us);
        (limit.allows(now_us) == 0).then(|| limit.opens_at_us(now_us).unwrap_or(NEVER_US))
    };
    queue.limits.iter().filter_map(open).max().unwrap_or(now_us)
}

async fn note_limits(
    tx: &mut Tx,
    queues: &[QueueInfo],
    shares: &[Share],
    claimed: &[Claimed],
    limits: &mut HashMap<String, Limit>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let counts = count_by_queue(claimed);
    let mut changed: Vec<String> = Vec::new();
    for (queue, share) in queues.iter().zip(shares) {
        let started = counts.get(&share.queue).copied().unwrap_or(0);
        for name in queue.limits.iter().filter(|_| started > 0) {
            if let Some(limit) = limits.get_mut(name) {
                limit.take(started, now.as_micros());
                changed.push(name.clone());
            }
        }
    }
    changed.sort_unstable();
    changed.dedup();
    let changed: Vec<&Limit> = changed.iter().filter_map(|name| limits.get(name)).collect();
    limit::store(tx, &changed).await
}

fn count_by_queue(claimed: &[Claimed]) -> HashMap<i64, i64> {
    let mut counts = HashMap::new();
    for row in claimed {
        *counts.entry(row.queue.0).or_default() += 1;
    }
    counts
}
