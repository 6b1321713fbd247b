//! Sources and types as small numbers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use schemas::Event;

/// Names remembered per table; past it the memory is emptied and filled anew from the file, so
/// that a source per device does not grow the process.
const REMEMBERED_MAX: usize = 16_384;

/// The name that the source of `event` is stored under: with the tenant whose it is, if it has one, so
/// that what is unique is so among that tenant's events.
pub(super) fn stored_source(event: &Event) -> Cow<'_, str> {
    match event.tenant() {
        None => Cow::Borrowed(event.source.as_str()),
        Some(tenant) => Cow::Owned(format!("{}\n{tenant}", event.source)),
    }
}

/// The source in a name that it is stored under.
pub(super) fn source_of(stored: Arc<str>) -> Arc<str> {
    match stored.split_once('\n') {
        None => stored,
        Some((source, _)) => source.into(),
    }
}

/// One table of names (`source` or `type`), looked up in both directions.
pub(super) struct Names {
    table: &'static str,
    ids: HashMap<Arc<str>, i64>,
    names: HashMap<i64, Arc<str>>,
}

impl Names {
    pub(super) fn new(table: &'static str) -> Names {
        Names { table, ids: HashMap::new(), names: HashMap::new() }
    }

    /// The number of `name`, given to it now if it is new. To be undone by [`Names::forget`] when
    /// the transaction is rolled back.
    pub(super) fn id(&mut self, db: &Connection, name: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let table = self.table;
        let known = db
            .prepare_cached(&format!("select id from {table} where name = ?1"))?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let id = match known {
            Some(id) => id,
            None => {
                db.prepare_cached(&format!("insert into {table} (name) values (?1)"))?
                    .execute(params![name])?;
                db.last_insert_rowid()
            }
        };
        self.remember(id, name.into());
        Ok(id)
    }

    /// The name with the number `id`.
    pub(super) fn name(&mut self, db: &Connection, id: i64) -> rusqlite::Result<Arc<str>> {
        if let Some(name) = self.names.get(&id) {
            return Ok(Arc::clone(name));
        }
        let name: String = db
            .prepare_cached(&format!("select name from {} where id = ?1", self.table))?
            .query_row([id], |row| row.get(0))?;
        let name: Arc<str> = name.into();
        self.remember(id, Arc::clone(&name));
        Ok(name)
    }

    /// Forgets everything; the file knows.
    pub(super) fn forget(&mut self) {
        self.ids.clear();
        self.names.clear();
    }

    fn remember(&mut self, id: i64, name: Arc<str>) {
        if self.names.len() >= REMEMBERED_MAX {
            self.forget();
        }
        self.ids.insert(Arc::clone(&name), id);
        self.names.insert(id, name);
    }
}
