//! API keys: who may call, and what.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bus::{Db, sql};
use schemas::Timestamp;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use sqlx::Row;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

/// How long one look waits for the database.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often an answer that goes on looks whether its key still holds.
const LOOK: Duration = Duration::from_secs(2);

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Publish events.
    Publish,
    /// Read everything.
    Read,
    /// Lease and answer, register, pause, redrive, replay; and read.
    Operate,
    /// Everything.
    Admin,
}

const SCOPES: [(Scope, &str); 4] = [
    (Scope::Publish, "publish"),
    (Scope::Read, "read"),
    (Scope::Operate, "operate"),
    (Scope::Admin, "admin"),
];

/// One or more scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

/// No scopes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scopes are one or more of publish, read, operate and admin, separated by commas")]
pub struct InvalidScopes;

impl Scopes {
    /// Everything.
    #[must_use]
    pub fn admin() -> Scopes {
        Scopes(vec![Scope::Admin])
    }

    /// Whether they include `wanted`.
    #[must_use]
    pub fn allow(&self, wanted: Scope) -> bool {
        self.0.iter().any(|scope| {
            *scope == wanted
                || *scope == Scope::Admin
                || (*scope == Scope::Operate && wanted == Scope::Read)
        })
    }
}

impl FromStr for Scopes {
    type Err = InvalidScopes;

    fn from_str(text: &str) -> Result<Scopes, InvalidScopes> {
        let one = |word: &str| {
            SCOPES.iter().find(|(_, name)| *name == word.trim()).map(|(scope, _)| *scope)
        };
        let scopes: Option<Vec<Scope>> = text.split(',').map(one).collect();
        scopes.filter(|scopes| !scopes.is_empty()).map(Scopes).ok_or(InvalidScopes)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = SCOPES
            .iter()
            .filter(|(scope, _)| self.0.contains(scope))
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&names.join(","))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A key as it is listed; the key itself is kept nowhere.
#[derive(Clone, Debug, Serialize)]
pub struct Key {
    /// `key_…`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Whose events it is for; everyone's when `None`.
    pub tenant: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked; `None` while it holds.
    pub revoked_at: Option<Timestamp>,
}

/// A new key, shown once.
#[derive(Clone, Debug, Serialize)]
pub struct Created {
    /// `key_…`.
    pub id: String,
    /// `sk_…`: what clients send.
    pub key: String,
}

/// Makes a key.
///
/// # Errors
/// Those of the database.
pub async fn create(
    db: &Db,
    name: &str,
    scopes: Scopes,
    tenant: Option<&str>,
    by: &str,
) -> Result<Created, sqlx::Error> {
    let id = format!("key_{}", Uuid::now_v7().simple());
    let key = format!("sk_{}", hex(&rand::random::<[u8; 32]>()));
    let mut tx = db.begin().await?;
    let insert =
        sql("insert into api_key (id, name, hash, scopes, tenant, created_at_us, created_by)
         values ($1, $2, $3, $4, $5, $6, $7)")
        .bind(id.clone())
        .bind(name.to_owned())
        .bind(hash(&key))
        .bind(scopes.to_string())
        .bind(tenant.map(str::to_owned))
        .bind(db.clock().now().as_micros())
        .bind(by.to_owned());
    tx.execute(insert).await?;
    touch(&mut tx).await?;
    tx.commit().await?;
    Ok(Created { id, key })
}

/// All keys, revoked ones too, newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(db: &Db) -> Result<Vec<Key>, sqlx::Error> {
    let rows = db
        .fetch_all(sql("select id, name, scopes, tenant, created_at_us, revoked_at_us
             from api_key order by id desc"))
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Key {
                id: row.get(0),
                name: row.get(1),
                scopes: read_scopes(&row.get::<String, _>(2))?,
                tenant: row.get(3),
                created_at: Timestamp::from_micros(row.get(4)),
                revoked_at: row.get::<Option<i64>, _>(5).map(Timestamp::from_micros),
            })
        })
        .collect()
}

/// Ends a key at once, on every node; `false` when there is no such key that holds.
///
/// # Errors
/// Those of the database.
pub async fn revoke(db: &Db, id: &str, _by: &str) -> Result<bool, sqlx::Error> {
    let mut tx = db.begin().await?;
    let update = sql("update api_key set revoked_at_us = $2 where id = $1
         and revoked_at_us is null")
    .bind(id.to_owned())
    .bind(db.clock().now().as_micros());
    let revoked = tx.execute(update).await?.rows_affected() > 0;
    touch(&mut tx).await?;
    tx.commit().await?;
    Ok(revoked)
}

async fn touch(tx: &mut bus::Tx) -> Result<(), sqlx::Error> {
    tx.execute(sql("update config_version set version = version + 1 where kind = 'key'"))
        .await
        .map(|_| ())
}

/// Who is calling.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The name of the key; `local` without one.
    pub name: Arc<str>,
    /// What it may do.
    pub scopes: Scopes,
    /// Whose events it is for.
    pub tenant: Option<Arc<str>>,
    /// The key's, where it can be revoked.
    hash: Option<Arc<str>>,
}

impl Principal {
    /// The person at this machine.
    #[must_use]
    pub fn local() -> Principal {
        static LOCAL: LazyLock<Principal> = LazyLock::new(|| Principal {
            name: "local".into(),
            scopes: Scopes::admin(),
            tenant: None,
            hash: None,
        });
        LOCAL.clone()
    }
}

/// The keys that hold, as of the last look at the database.
///
/// A revocation counts at once, on every node: each call looks whether the keys have changed. Calls
/// that come while one is looking share the next look, so the cost does not grow with the load. They
/// share its failure too: none waits for a database that is away behind all those before it.
pub struct KeyRing {
    db: Db,
    admin_hash: Option<String>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    version: Option<i64>,
    keys: Arc<HashMap<String, Principal>>,
    /// When the last look began.
    looked: Option<Instant>,
    /// Whether it found no database.
    failed: bool,
}

impl KeyRing {
    /// The keys in `db`, and `admin_key`, which always holds.
    #[must_use]
    pub fn new(db: Db, admin_key: Option<&str>) -> KeyRing {
        KeyRing { db, admin_hash: admin_key.map(hash), known: Mutex::default() }
    }

    /// Whether there is any key that holds.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_empty(&self) -> Result<bool, sqlx::Error> {
        Ok(self.admin_hash.is_none() && self.current().await?.is_empty())
    }

    /// Who holds `key`; `None` when nobody does.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find(&self, key: &str) -> Result<Option<Principal>, sqlx::Error> {
        // Compared by hash: the time it takes tells nothing of the keys themselves.
        let hash = hash(key);
        if self.admin_hash.as_ref() == Some(&hash) {
            return Ok(Some(Principal { name: "admin_key".into(), ..Principal::local() }));
        }
        Ok(self.current().await?.get(&hash).cloned())
    }

    /// Ends soon after the key of `principal` has been revoked: for answers that go on.
    pub async fn revoked(&self, principal: &Principal) {
        let Some(hash) = &principal.hash else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LOOK).await;
            // While nobody can look, it holds as it did.
            if self.current().await.is_ok_and(|keys| !keys.contains_key(&**hash)) {
                return;
            }
        }
    }

    async fn current(&self) -> Result<Arc<HashMap<String, Principal>>, sqlx::Error> {
        let asked = Instant::now();
        let mut known = self.known.lock().await;
        if known.looked.is_some_and(|looked| looked >= asked) {
            return if known.failed { Err(away()) } else { Ok(Arc::clone(&known.keys)) };
        }
        known.looked = Some(Instant::now());
        known.failed = true; // Until it has an answer: the call may be given up.
        let looked = tokio::time::timeout(PATIENCE, self.look(known.version)).await;
        if let Some((version, keys)) = looked.map_err(|_| away())?? {
            (known.version, known.keys) = (Some(version), Arc::new(keys));
        }
        known.failed = false;
        Ok(Arc::clone(&known.keys))
    }

    /// The keys and their version, where that is another one than `known`.
    async fn look(
        &self,
        known: Option<i64>,
    ) -> Result<Option<(i64, HashMap<String, Principal>)>, sqlx::Error> {
        let version = sql("select version from config_version where kind = 'key'");
        let row = self.db.fetch_optional(version).await?;
        let version: i64 = row.map_or(0, |row| row.get(0));
        if known == Some(version) {
            return Ok(None);
        }
        Ok(Some((version, self.load().await?)))
    }

    async fn load(&self) -> Result<HashMap<String, Principal>, sqlx::Error> {
        let rows = self
            .db
            .fetch_all(sql("select hash, name, scopes, tenant from api_key
                 where revoked_at_us is null"))
            .await?;
        rows.iter()
            .map(|row| {
                let hash: String = row.get(0);
                let principal = Principal {
                    name: row.get::<String, _>(1).into(),
                    scopes: read_scopes(&row.get::<String, _>(2))?,
                    tenant: row.get::<Option<String>, _>(3).map(Into::into),
                    hash: Some(hash.as_str().into()),
                };
                Ok((hash, principal))
            })
            .collect()
    }
}

/// What a connection that is waited for in vain ends with.
fn away() -> sqlx::Error {
    sqlx::Error::PoolTimedOut
}

fn read_scopes(text: &str) -> Result<Scopes, sqlx::Error> {
    text.parse().map_err(|error: InvalidScopes| sqlx::Error::Decode(error.into()))
}

fn hash(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operate_includes_read_and_admin_everything() {
        let scopes = |text: &str| text.parse::<Scopes>().unwrap();
        assert!(scopes("operate").allow(Scope::Read));
        assert!(!scopes("operate").allow(Scope::Publish));
        assert!(scopes("admin").allow(Scope::Publish));
        assert!(!scopes("publish").allow(Scope::Read));
        assert_eq!(scopes("read,publish").to_string(), "publish,read");
        assert!("".parse::<Scopes>().is_err() && "root".parse::<Scopes>().is_err());
    }
}
