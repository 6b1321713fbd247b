//! Which partitions of a consumer this node has.

use std::collections::BTreeMap;

use sqlx::Row;

use crate::db::{built, sql};
use crate::handler::Kind;
use crate::node::{self, LEASE, NodeId};
use crate::partition::PARTITIONS;
use crate::{Db, Seq, Span, Tx};

/// The partitions of one generation of a consumer that this node has: fence and cursor of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assignment {
    pub(crate) partitions: BTreeMap<i64, Held>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    fence: i64,
    pub(crate) cursor: Seq,
}

/// The node lost a partition that it thought it had: what it was about to write must not be.
#[derive(Debug, thiserror::Error)]
#[error("another node has taken over a partition")]
pub(crate) struct LostPartition;

impl Assignment {
    /// Renews what this node has, gives up what is more than its share, takes what is free.
    ///
    /// Two nodes cannot both take a partition: the one statement that takes it requires that it is
    /// free or its lease has ended, and sees the other's change once that has committed.
    pub(crate) async fn refresh(
        db: &Db,
        node: &NodeId,
        (consumer, kind): (&str, Kind),
        generation: i64,
    ) -> Result<Assignment, sqlx::Error> {
        let mut tx = db.begin().await?;
        let now_us = tx.clock().now().as_micros();
        let until = now_us + Span(LEASE).micros();
        let nodes = match kind {
            Kind::Builtin | Kind::Rust => node::count(&mut tx, Some(consumer)).await?,
            Kind::Pull | Kind::Push => node::count(&mut tx, None).await?, // They need no code.
        };
        let nodes = nodes.max(1);
        let share = (PARTITIONS + nodes - 1) / nodes;
        let mut held = mine(&mut tx, node, consumer, generation, until).await?;
        while i64::try_from(held.len()).unwrap_or(0) > share {
            let Some((partition, _)) = held.pop_last() else { break };
            let give = sql("update consumer_partition set node = null where consumer = $1
                 and generation = $2 and partition = $3");
            tx.execute(give.bind(consumer.to_owned()).bind(generation).bind(partition)).await?;
        }
        let wanted = share - i64::try_from(held.len()).unwrap_or(0);
        if wanted > 0 {
            take(&mut tx, node, consumer, generation, (now_us, until), wanted, &mut held).await?;
        }
        tx.commit().await?;
        Ok(Assignment { partitions: held })
    }

    /// Whether these are the same partitions, held without a break.
    pub(crate) fn continues(&self, before: &Assignment) -> bool {
        let fences = |of: &Assignment| -> Vec<(i64, i64)> {
            of.partitions.iter().map(|(partition, held)| (*partition, held.fence)).collect()
        };
        fences(self) == fences(before)
    }

    /// Where reading starts.
    pub(crate) fn lowest(&self) -> Seq {
        self.partitions.values().map(|held| held.cursor).min().unwrap_or(Seq::ZERO)
    }

    /// Whether the event at `seq` of `partition` is still to be handled here.
    pub(crate) fn wants(&self, partition: i64, seq: Seq) -> bool {
        self.partitions.get(&partition).is_some_and(|held| held.cursor < seq)
    }

    /// Moves all cursors to `through`, in the transaction of the effects.
    ///
    /// A node that lost a partition cannot get past this: the statement names the fence of each,
    /// and anything but all of them changed takes the whole batch back.
    pub(crate) async fn advance(
        &self,
        tx: &mut Tx,
        node: &NodeId,
        consumer: &str,
        generation: i64,
        through: Seq,
    ) -> Result<Result<(), LostPartition>, sqlx::Error> {
        use std::fmt::Write as _;
        let mut which = String::new();
        for index in 0..self.partitions.len() {
            let or = if index == 0 { "" } else { " or " };
            let (partition, fence) = (6 + index * 2, 7 + index * 2);
            let _ = write!(which, "{or}(partition = ${partition} and fence = ${fence})");
        }
        let mut query = built(format!(
            "update consumer_partition set lease_until_us = $1,
                 cursor_seq = case when cursor_seq < $2 then $2 else cursor_seq end
             where consumer = $3 and generation = $4 and node = $5 and ({which})"
        ));
        let until = tx.clock().now().as_micros() + Span(LEASE).micros();
        query = query
            .bind(until)
            .bind(through.get())
            .bind(consumer.to_owned())
            .bind(generation)
            .bind(node.0.clone());
        for (partition, held) in &self.partitions {
            query = query.bind(*partition).bind(held.fence);
        }
        let changed = tx.execute(query).await?.rows_affected();
        Ok(if changed == self.partitions.len() as u64 { Ok(()) } else { Err(LostPartition) })
    }

    /// Notes what [`Assignment::advance`] wrote, after its commit.
    pub(crate) fn advanced(&mut self, through: Seq) {
        for held in self.partitions.values_mut() {
            held.cursor = held.cursor.max(through);
        }
    }
}

async fn mine(
    tx: &mut Tx,
    node: &NodeId,
    consumer: &str,
    generation: i64,
    until: i64,
) -> Result<BTreeMap<i64, Held>, sqlx::Error> {
    let query = sql("update consumer_partition set lease_until_us = $1 where consumer = $2
         and generation = $3 and node = $4 returning partition, fence, cursor_seq")
    .bind(until)
    .bind(consumer.to_owned())
    .bind(generation)
    .bind(node.0.clone());
    Ok(tx.fetch_all(query).await?.iter().map(read).collect())
}

async fn take(
    tx: &mut Tx,
    node: &NodeId,
    consumer: &str,
    generation: i64,
    (now_us, until): (i64, i64),
    wanted: i64,
    held: &mut BTreeMap<i64, Held>,
) -> Result<(), sqlx::Error> {
    let query = sql("update consumer_partition set node = $1, fence = fence + 1,
             lease_until_us = $2
         where consumer = $3 and generation = $4 and (node is null or lease_until_us <= $5)
             and partition in (select partition from consumer_partition where consumer = $3
                 and generation = $4 and (node is null or lease_until_us <= $5)
                 order by partition limit $6)
         returning partition, fence, cursor_seq")
    .bind(node.0.clone())
    .bind(until)
    .bind(consumer.to_owned())
    .bind(generation)
    .bind(now_us)
    .bind(wanted);
    held.extend(tx.fetch_all(query).await?.iter().map(read));
    Ok(())
}

fn read(row: &sqlx::any::AnyRow) -> (i64, Held) {
    (row.get(0), Held { fence: row.get(1), cursor: Seq::new(row.get(2)) })
}
