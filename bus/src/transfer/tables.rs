//! Rows out of one database and into another, whatever tables there are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::any::{AnyRow, AnyTypeInfoKind};
use sqlx::{Row, ValueRef as _};

use super::{TableContents, TransferError};
use crate::db::{built, sql};
use crate::node::{self, LEASE};
use crate::{Db, Dialect, Span};

/// Tables that tell of processes and of this place, not of the state.
const OF_PLACE: [&str; 5] = ["schema_migration", "node", "duty", "log_identity", "config_version"];
/// Rows read by one statement, and written by one.
const PAGE: usize = 1_000;
const CHUNK: usize = 200;
/// Bytes of text written by one statement, at most about.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// A table and its columns, in the order of their names.
pub(super) struct Table {
    pub(super) name: String,
    columns: Vec<String>,
}

impl Table {
    pub(super) fn columns(&self) -> Vec<String> {
        self.columns.clone()
    }

    /// Names in quotes: `key` and the like are words of SQL.
    fn list(&self) -> String {
        quoted(&self.columns)
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

pub(super) async fn nobody_runs(db: &Db) -> Result<(), TransferError> {
    let alive = db.clock().now().as_micros() - Span(LEASE).micros();
    let query = sql("select count(*) from node where seen_at_us > $1").bind(alive);
    match db.fetch_optional(query).await?.map_or(0, |row| row.get(0)) {
        0 => Ok(()),
        running => Err(TransferError::Running(running)),
    }
}

pub(super) async fn migration(db: &Db) -> Result<i64, TransferError> {
    let newest = db.fetch_optional(sql("select max(version) from schema_migration")).await?;
    Ok(newest.and_then(|row| row.get(0)).unwrap_or(0))
}

/// All tables with state in them.
pub(super) async fn all(db: &Db) -> Result<Vec<Table>, TransferError> {
    let query = match db.dialect() {
        Dialect::Sqlite => sql("select m.name, c.name from sqlite_master m
             join pragma_table_info(m.name) c
             where m.type = 'table' and m.name not like 'sqlite_%' order by m.name, c.name"),
        Dialect::Postgres => sql("select cast(table_name as text), cast(column_name as text)
             from information_schema.columns
             where table_schema = current_schema() order by table_name, column_name"),
    };
    let mut tables: Vec<Table> = Vec::new();
    for row in db.fetch_all(query).await? {
        let (name, column): (String, String) = (row.get(0), row.get(1));
        if OF_PLACE.contains(&name.as_str()) {
            continue;
        }
        match tables.iter_mut().find(|table| table.name == name) {
            Some(table) => table.columns.push(column),
            None => tables.push(Table { name, columns: vec![column] }),
        }
    }
    Ok(tables)
}

/// Refuses a database in which anything has happened.
pub(super) async fn are_empty(db: &Db) -> Result<(), TransferError> {
    for table in all(db).await? {
        let query = built(format!("select 1 from \"{}\" limit 1", table.name));
        if db.fetch_optional(query).await?.is_some() {
            return Err(TransferError::NotEmpty("the database"));
        }
    }
    Ok(())
}

/// Reads all rows of a table, in no order that matters.
pub(super) async fn read(
    db: &Db,
    table: &Table,
    mut take: impl FnMut(Vec<Value>) -> Result<(), TransferError> + Send,
) -> Result<(), TransferError> {
    // One transaction sees one state, and a cursor of the driver's own would keep all rows at once.
    let place = match db.dialect() {
        Dialect::Sqlite => key(db, table).await?,
        Dialect::Postgres => vec!["ctid".to_owned()],
    };
    let order = if place == ["ctid"] { "ctid".to_owned() } else { quoted(&place) };
    let mut offset = 0_i64;
    loop {
        let query = built(format!(
            "select {} from \"{}\" order by {order} limit {} offset $1",
            table.list(),
            table.name,
            PAGE
        ));
        let rows = db.fetch_all(query.bind(offset)).await?;
        for row in &rows {
            take(values(row)?)?;
        }
        if rows.len() < PAGE {
            return Ok(());
        }
        offset += i64::try_from(rows.len()).unwrap_or(i64::MAX);
    }
}

/// The columns of the primary key on SQLite; all where there is none.
async fn key(db: &Db, table: &Table) -> Result<Vec<String>, TransferError> {
    let query = sql("select name from pragma_table_info($1) where pk > 0 order by pk");
    let rows = db.fetch_all(query.bind(table.name.clone())).await?;
    let key: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(if key.is_empty() { table.columns() } else { key })
}

fn values(row: &AnyRow) -> Result<Vec<Value>, sqlx::Error> {
    (0..row.columns().len())
        .map(|index| {
            let raw = row.try_get_raw(index)?;
            if raw.is_null() {
                return Ok(Value::Null);
            }
            Ok(match raw.type_info().kind() {
                AnyTypeInfoKind::Text => Value::from(row.try_get::<String, _>(index)?),
                AnyTypeInfoKind::Blob => {
                    let bytes: Vec<u8> = row.try_get(index)?;
                    serde_json::json!({ "base64": STANDARD.encode(bytes) })
                }
                AnyTypeInfoKind::Real | AnyTypeInfoKind::Double => {
                    Value::from(row.try_get::<f64, _>(index)?)
                }
                AnyTypeInfoKind::Null
                | AnyTypeInfoKind::Bool
                | AnyTypeInfoKind::SmallInt
                | AnyTypeInfoKind::Integer
                | AnyTypeInfoKind::BigInt => Value::from(row.try_get::<i64, _>(index)?),
            })
        })
        .collect()
}

/// A hash over rows that does not depend on their order: the sum of theirs.
#[derive(Default)]
pub(super) struct RowsHash {
    rows: u64,
    sum: u128,
}

impl RowsHash {
    pub(super) fn add(&mut self, row: &[Value]) {
        let text = serde_json::to_vec(row).unwrap_or_default();
        let hash: [u8; 16] = Sha256::digest(&text)[..16].try_into().unwrap_or_default();
        self.rows += 1;
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(hash));
    }

    pub(super) fn contents(&self) -> TableContents {
        TableContents { rows: self.rows, hash: format!("{:032x}", self.sum) }
    }
}

/// Inserts rows, many at a time.
pub(super) struct Insert<'a> {
    db: &'a Db,
    tables: Vec<Table>,
    table: Option<Table>,
    rows: Vec<String>,
    bytes: usize,
}

impl<'a> Insert<'a> {
    pub(super) async fn new(db: &'a Db) -> Result<Insert<'a>, TransferError> {
        Ok(Insert { db, tables: all(db).await?, table: None, rows: Vec::new(), bytes: 0 })
    }

    /// What follows belongs to this table.
    pub(super) async fn table(
        &mut self,
        name: &str,
        columns: &[String],
    ) -> Result<(), TransferError> {
        self.finish().await?;
        let known = self.tables.iter().find(|table| table.name == name);
        if known.is_none_or(|known| known.columns != columns) {
            return Err(TransferError::Form(format!(
                "the table {name} is not one of this version"
            )));
        }
        self.table = Some(Table { name: name.to_owned(), columns: columns.to_vec() });
        Ok(())
    }

    pub(super) async fn add(&mut self, row: &[Value]) -> Result<(), TransferError> {
        let row = literals(row, self.db.dialect());
        self.bytes += row.len();
        self.rows.push(row);
        let full = self.rows.len() == CHUNK || self.bytes > CHUNK_BYTES;
        if full { self.flush().await } else { Ok(()) }
    }

    /// Writes what is left.
    pub(super) async fn finish(&mut self) -> Result<(), TransferError> {
        self.flush().await?;
        let (Some(table), Dialect::Postgres) = (&self.table, self.db.dialect()) else {
            return Ok(());
        };
        // Numbers that the database gives go on behind those that were imported.
        let query = sql("select cast(column_name as text) from information_schema.columns
             where table_schema = current_schema() and table_name = $1
             and (is_identity = 'YES' or column_default like 'nextval(%')")
        .bind(table.name.clone());
        if let Some(row) = self.db.fetch_optional(query).await? {
            let column: String = row.get(0);
            let next = built(format!(
                "select setval(pg_get_serial_sequence('{0}', '{column}'),
                     (select coalesce(max(\"{column}\"), 0) + 1 from \"{0}\"), false)",
                table.name
            ));
            self.db.fetch_optional(next).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), TransferError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let Some(table) = self.table.as_ref().filter(|_| !rows.is_empty()) else { return Ok(()) };
        let own_numbers = match self.db.dialect() {
            Dialect::Sqlite => "",
            Dialect::Postgres => "overriding system value",
        };
        let text = format!(
            "insert into \"{}\" ({}) {own_numbers} values {}",
            table.name,
            table.list(),
            rows.join(", ")
        );
        let mut tx = self.db.begin().await?;
        tx.execute_script(&text).await?;
        Ok(tx.commit().await?)
    }
}

/// A row as text: a null to be bound has no type of its own on Postgres.
fn literals(row: &[Value], dialect: Dialect) -> String {
    let literal = |value: &Value| match value {
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Object(bytes) => {
            let bytes = bytes.get("base64").and_then(Value::as_str).unwrap_or_default();
            let hex = super::file::hex(&STANDARD.decode(bytes).unwrap_or_default());
            match dialect {
                Dialect::Sqlite => format!("x'{hex}'"),
                Dialect::Postgres => format!("'\\x{hex}'::bytea"),
            }
        }
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    };
    format!("({})", row.iter().map(literal).collect::<Vec<_>>().join(", "))
}

/// Leaves nothing in the hands of processes that are not here.
pub(super) async fn settle(db: &Db) -> Result<(), TransferError> {
    let mut tx = db.begin().await?;
    tx.execute(sql("update config_version set version = version + 1")).await?;
    tx.commit().await?;
    Ok(node::free_all(db).await?)
}
