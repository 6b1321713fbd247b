//! The definitions that there are, by name and version.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bus::{Db, Query, signals, sql};
use schemas::{Faults, Timestamp};
use serde_json::Value;
use sqlx::Row;

use crate::definition::{Action, Child, Definition, told};
use crate::document::Node;
use crate::name::Name;

/// A version of a definition.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Its number, from 1.
    pub version: i64,
    /// What it says.
    pub definition: Arc<Definition>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
}

/// The definitions, with those in use kept in memory.
#[derive(Clone)]
pub struct Definitions {
    db: Db,
    cache: Arc<RwLock<Cache>>,
}

#[derive(Default)]
struct Cache {
    /// The configuration's version that `newest` was read at.
    version: i64,
    newest: Arc<HashMap<String, Registered>>,
    /// Versions never change.
    versions: HashMap<(String, i64), Arc<Definition>>,
}

/// A definition was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// What is wrong with it.
    #[error("the definition has faults: {0}")]
    Faults(Faults),
    /// The database.
    #[error("writing the definition")]
    Database(#[from] sqlx::Error),
}

impl Definitions {
    /// Those in `db`.
    #[must_use]
    pub fn new(db: Db) -> Definitions {
        Definitions { db, cache: Arc::default() }
    }

    /// The database that they are in.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Registers a definition: a new version, unless it equals the newest. True when it is new.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub async fn put(
        &self,
        definition: Definition,
        by: &str,
    ) -> Result<(Registered, bool), RegisterError> {
        self.put_if(definition, by, |_| Ok(())).await
    }

    /// The same, unless `may` refuses. It is given the newest version, which nobody else can replace
    /// meanwhile.
    ///
    /// # Errors
    /// [`RegisterError`], or what `may` says.
    pub async fn put_if<E: From<RegisterError> + From<sqlx::Error>>(
        &self,
        definition: Definition,
        by: &str,
        may: impl FnOnce(Option<&Registered>) -> Result<(), E>,
    ) -> Result<(Registered, bool), E> {
        let newest = self.newest().await?;
        let mut faults = Faults::default();
        check_children(&definition, &newest, &mut faults);
        faults.or(()).map_err(RegisterError::Faults)?;
        let name = definition.name.to_string();
        let mut tx = self.db.begin().await?;
        // Held until the end: of two that register at once, one waits for the other.
        let touch = sql("update config_version set version = version + 1 where kind = 'saga'");
        tx.execute(touch).await?;
        let query = sql("select version, document, created_at_us, created_by from saga_definition
             where name = $1 order by version desc limit 1");
        let known = tx.fetch_optional(query.bind(name.clone())).await?;
        let known = known.as_ref().map(read).transpose()?;
        may(known.as_ref())?;
        if let Some(known) = &known
            && known.definition.document() == definition.document()
        {
            return Ok((known.clone(), false));
        }
        let version = known.map_or(1, |known| known.version + 1);
        let now = tx.clock().now();
        let query = sql("insert into saga_definition (name, version, document, created_at_us,
                created_by) values ($1, $2, $3, $4, $5)")
        .bind(name)
        .bind(version)
        .bind(definition.document().to_string())
        .bind(now.as_micros())
        .bind(by.to_owned());
        tx.execute(query).await?;
        tx.wake(signals::CONFIG);
        tx.commit().await?;
        let definition = Arc::new(definition);
        let created_by = by.to_owned();
        Ok((Registered { version, definition, created_at: now, created_by }, true))
    }

    /// The newest version of every definition.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn newest(&self) -> Result<Arc<HashMap<String, Registered>>, sqlx::Error> {
        let version = self.db.config_version("saga").await?;
        {
            let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
            if cache.version == version {
                return Ok(Arc::clone(&cache.newest));
            }
        }
        let query = sql("select d.version, d.document, d.created_at_us, d.created_by
             from saga_definition d where d.version =
             (select max(o.version) from saga_definition o where o.name = d.name)");
        let mut newest = HashMap::new();
        for row in self.db.fetch_all(query).await? {
            let registered = read(&row)?;
            newest.insert(registered.definition.name.to_string(), registered);
        }
        let newest = Arc::new(newest);
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        (cache.version, cache.newest) = (version, Arc::clone(&newest));
        Ok(newest)
    }

    /// The newest version of every definition; first the one whose first version is the youngest, an
    /// order that new versions do not change.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list(&self) -> Result<Vec<Registered>, sqlx::Error> {
        let query = sql("select name from saga_definition where version = 1
             order by created_at_us desc, name");
        let names = self.db.fetch_all(query).await?;
        let newest = self.newest().await?;
        let known = |row: &sqlx::any::AnyRow| newest.get(&row.get::<String, _>(0)).cloned();
        Ok(names.iter().filter_map(known).collect())
    }

    /// One version.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn version(
        &self,
        name: &str,
        version: i64,
    ) -> Result<Option<Arc<Definition>>, sqlx::Error> {
        let key = (name.to_owned(), version);
        {
            let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = cache.versions.get(&key) {
                return Ok(Some(Arc::clone(known)));
            }
        }
        let found = self.find(name, Some(version)).await?.map(|found| found.definition);
        if let Some(found) = &found {
            let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
            cache.versions.insert(key, Arc::clone(found));
        }
        Ok(found)
    }

    /// One version, the newest when `None`, as it was registered.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find(
        &self,
        name: &str,
        version: Option<i64>,
    ) -> Result<Option<Registered>, sqlx::Error> {
        let columns: Query = match version {
            Some(version) => sql("select version, document, created_at_us, created_by
                 from saga_definition where name = $1 and version = $2")
            .bind(name.to_owned())
            .bind(version),
            None => sql("select version, document, created_at_us, created_by
                 from saga_definition where name = $1 order by version desc limit 1")
            .bind(name.to_owned()),
        };
        self.db.fetch_optional(columns).await?.as_ref().map(read).transpose()
    }
}

/// A child must be there, and must not run its own parent.
pub fn check_children(
    definition: &Definition,
    newest: &HashMap<String, Registered>,
    faults: &mut Faults,
) {
    for (step, path, action) in definition.actions() {
        let Action::Child(Child { definition: child, .. }) = action else { continue };
        let detail = if *child != definition.name && !newest.contains_key(child.as_str()) {
            format!("there is no definition `{child}`")
        } else if reaches(child, &definition.name, newest, 0) {
            format!("`{child}` runs `{}` in turn", definition.name)
        } else {
            continue;
        };
        told(faults, &format!("{path}/saga"), step.line, &detail);
    }
}

/// Whether `from` runs `to`, directly or through others.
fn reaches(from: &Name, to: &Name, newest: &HashMap<String, Registered>, depth: usize) -> bool {
    if from == to {
        return true;
    }
    let Some(known) = newest.get(from.as_str()).filter(|_| depth < 100) else { return false };
    known.definition.actions().any(|(.., action)| {
        matches!(action, Action::Child(child) if reaches(&child.definition, to, newest, depth + 1))
    })
}

fn read(row: &sqlx::any::AnyRow) -> Result<Registered, sqlx::Error> {
    let document: Value = serde_json::from_str(&row.get::<String, _>(1))
        .map_err(|error| sqlx::Error::Decode(error.into()))?;
    let definition = Definition::of_node(&Node::of_value(&document))
        .map_err(|faults| sqlx::Error::Decode(faults.to_string().into()))?;
    Ok(Registered {
        version: row.get(0),
        definition: Arc::new(definition),
        created_at: Timestamp::from_micros(row.get(2)),
        created_by: row.get(3),
    })
}
