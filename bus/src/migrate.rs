//! Brings the database to the version this program knows, at start, under a lock.

use sqlx::Row;

use crate::db::sql;
use crate::{Db, DbError, Dialect, Tx};

struct Migration {
    version: i64,
    name: &'static str,
    text: &'static str,
}

/// In order; one that was released is never edited.
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "core", text: include_str!("../../migrations/0001_core.sql") },
    Migration { version: 2, name: "nodes", text: include_str!("../../migrations/0002_nodes.sql") },
    Migration {
        version: 3,
        name: "webhooks",
        text: include_str!("../../migrations/0003_webhooks.sql"),
    },
    Migration { version: 4, name: "sagas", text: include_str!("../../migrations/0004_sagas.sql") },
    Migration {
        version: 5,
        name: "dispatch",
        text: include_str!("../../migrations/0005_dispatch.sql"),
    },
    Migration {
        version: 6,
        name: "delivery age",
        text: include_str!("../../migrations/0006_delivery_age.sql"),
    },
    Migration {
        version: 7,
        name: "node transactions",
        text: include_str!("../../migrations/0007_node_transactions.sql"),
    },
    Migration {
        version: 8,
        name: "first attempt",
        text: include_str!("../../migrations/0008_first_attempt.sql"),
    },
];

/// Applies what is missing, all in one transaction. Other processes that start meanwhile wait.
pub(crate) async fn migrate(db: &Db) -> Result<(), DbError> {
    let mut tx = db.begin().await.map_err(DbError::Prepare)?;
    apply(&mut tx).await?;
    tx.commit().await.map_err(DbError::Prepare)
}

async fn apply(tx: &mut Tx) -> Result<(), DbError> {
    let dialect = tx.dialect();
    if dialect == Dialect::Postgres {
        // However long it takes whoever migrates now.
        tx.execute(sql("set local lock_timeout = 0")).await.map_err(DbError::Prepare)?;
        // Released with the transaction. The number means "skald migrations" and nothing else.
        tx.execute(sql("select pg_advisory_xact_lock(7310482910)"))
            .await
            .map_err(DbError::Prepare)?;
    }
    tx.execute(sql("create table if not exists schema_migration (
            version bigint primary key, name text not null, text_hash text not null,
            applied_at_us bigint not null)"))
        .await
        .map_err(DbError::Prepare)?;
    let applied = tx
        .fetch_all(sql("select version, text_hash from schema_migration order by version"))
        .await
        .map_err(DbError::Prepare)?;
    let known = MIGRATIONS.last().map_or(0, |migration| migration.version);
    for row in &applied {
        let (found, hash): (i64, String) = (row.get(0), row.get(1));
        let Some(migration) = MIGRATIONS.iter().find(|m| m.version == found) else {
            return Err(DbError::Newer { found, known });
        };
        if hash != fingerprint(migration.text) {
            return Err(DbError::Changed(found));
        }
    }
    let is_applied = |version: i64| applied.iter().any(|row| row.get::<i64, _>(0) == version);
    for migration in MIGRATIONS.iter().filter(|migration| !is_applied(migration.version)) {
        tx.execute_script(&for_dialect(migration.text, dialect)).await.map_err(DbError::Prepare)?;
        let now = tx.clock().now().as_micros();
        let note = sql("insert into schema_migration (version, name, text_hash, applied_at_us)
                        values ($1, $2, $3, $4)")
        .bind(migration.version)
        .bind(migration.name)
        .bind(fingerprint(migration.text))
        .bind(now);
        tx.execute(note).await.map_err(DbError::Prepare)?;
        tracing::info!(version = migration.version, name = migration.name, "migrated the database");
    }
    Ok(())
}

fn for_dialect(text: &str, dialect: Dialect) -> String {
    let (identity, clustered, appended) = match dialect {
        Dialect::Sqlite => ("integer primary key autoincrement", "without rowid", ""),
        Dialect::Postgres => ("bigint generated always as identity primary key", "", "using brin"),
    };
    text.replace("{identity}", identity)
        .replace("{clustered}", clustered)
        .replace("{appended}", appended)
}

/// FNV-1a of the text: tells an edited migration, guards against nobody.
fn fingerprint(text: &str) -> String {
    format!("{:016x}", crate::partition::fnv1a(text.as_bytes()))
}
