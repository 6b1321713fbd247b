//! Housekeeping that one node does at a time.

use crate::db::sql;
use crate::node::{LEASE, NodeId};
use crate::{Db, Span};

/// Whether `node` has the duty `name` now: it had it, or took it over from one that let its lease
/// end. One statement takes it and names the holder it takes it from, so two cannot both.
///
/// # Errors
/// Those of the database.
pub async fn hold(db: &Db, name: &str, node: &NodeId) -> Result<bool, sqlx::Error> {
    let mut tx = db.begin().await?;
    let now_us = tx.clock().now().as_micros();
    let query = sql("insert into duty (name, node, lease_until_us) values ($1, $2, $3)
         on conflict (name) do update set node = excluded.node,
             lease_until_us = excluded.lease_until_us
         where duty.node = excluded.node or duty.lease_until_us <= $4")
    .bind(name.to_owned())
    .bind(node.as_str().to_owned())
    .bind(now_us + Span(LEASE).micros())
    .bind(now_us);
    let held = tx.execute(query).await?.rows_affected() > 0;
    tx.commit().await?;
    Ok(held)
}
