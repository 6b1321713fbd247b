//! Endpoints in the database.

use std::collections::{HashMap, HashSet};

use bus::work::QueueId;
use bus::{Db, Query, Seq, Tx, built, signals, sql, work};
use schemas::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::endpoint::{Endpoint, EndpointId, InvalidEndpointId};
use crate::secrets::PublishedKey;

/// The kind of work that deliveries are.
pub(crate) const WORK: &str = "webhook";

const COLUMNS: &str = "id, url, types, filter, description, tenant, headers, secrets, manner,
    metadata, disabled_reason, failing_since_us, from_seq, version, created_at_us, updated_at_us,
    failures, held_until_us, public_keys";

/// The version that all endpoints' configuration is at.
///
/// # Errors
/// Those of the database.
pub async fn version(tx: &mut Tx) -> Result<i64, sqlx::Error> {
    let query = sql("select version from config_version where kind = 'webhook'");
    Ok(tx.fetch_optional(query).await?.map_or(0, |row| row.get(0)))
}

/// The endpoints that have changed since that version, each with its queue.
pub(crate) async fn changed_since(
    tx: &mut Tx,
    version: i64,
) -> Result<Vec<(Endpoint, QueueId)>, sqlx::Error> {
    let queues = sql("select q.name, q.id from work_queue q join webhook_endpoint e
         on e.id = q.name and q.kind = $2 where e.changed > $1");
    let queues = tx.fetch_all(queues.bind(version).bind(WORK)).await?;
    let queues: HashMap<String, QueueId> =
        queues.iter().map(|row| (row.get(0), QueueId::from_number(row.get(1)))).collect();
    let query = built(format!("select {COLUMNS} from webhook_endpoint where changed > $1"));
    let mut changed = Vec::with_capacity(queues.len());
    for row in tx.fetch_all(query.bind(version)).await? {
        let endpoint = read(&row)?;
        if let Some(queue) = queues.get(endpoint.id.as_str()) {
            changed.push((endpoint, *queue));
        }
    }
    Ok(changed)
}

/// How many endpoints there are.
pub(crate) async fn count_all(tx: &mut Tx) -> Result<usize, sqlx::Error> {
    let count = tx.fetch_optional(sql("select count(*) from webhook_endpoint")).await?;
    Ok(usize::try_from(count.map_or(0, |row| row.get::<i64, _>(0))).unwrap_or(0))
}

/// The ids of all endpoints.
pub(crate) async fn all_ids(tx: &mut Tx) -> Result<HashSet<EndpointId>, sqlx::Error> {
    let rows = tx.fetch_all(sql("select id from webhook_endpoint")).await?;
    rows.iter()
        .map(|row| {
            row.get::<String, _>(0).parse().map_err(|error: InvalidEndpointId| decoding(error))
        })
        .collect()
}

/// One endpoint.
///
/// # Errors
/// Those of the database.
pub async fn find(db: &Db, id: &EndpointId) -> Result<Option<Endpoint>, sqlx::Error> {
    db.fetch_optional(by_id(id)).await?.as_ref().map(read).transpose()
}

/// One endpoint, inside a transaction.
///
/// # Errors
/// Those of the database.
pub async fn find_in(tx: &mut Tx, id: &EndpointId) -> Result<Option<Endpoint>, sqlx::Error> {
    tx.fetch_optional(by_id(id)).await?.as_ref().map(read).transpose()
}

fn by_id(id: &EndpointId) -> Query {
    let query = built(format!("select {COLUMNS} from webhook_endpoint where id = $1"));
    query.bind(id.as_str().to_owned())
}

/// The endpoints of these ids that there are.
pub(crate) async fn find_many(db: &Db, ids: &[String]) -> Result<Vec<Endpoint>, sqlx::Error> {
    let mut found = Vec::with_capacity(ids.len());
    for chunk in bus::bulk::chunks(ids) {
        let places = bus::bulk::list(1, chunk.len());
        let mut query =
            built(format!("select {COLUMNS} from webhook_endpoint where id in ({places})"));
        for id in chunk {
            query = query.bind(id.clone());
        }
        for row in db.fetch_all(query).await? {
            found.push(read(&row)?);
        }
    }
    Ok(found)
}

/// Which endpoints to list.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Of this tenant only.
    pub tenant: Option<String>,
    /// Enabled or disabled ones only.
    pub enabled: Option<bool>,
    /// Those made before this one.
    pub before: Option<EndpointId>,
    /// Most.
    pub limit: i64,
}

/// A page of endpoints, the newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(db: &Db, which: &Listing) -> Result<Vec<Endpoint>, sqlx::Error> {
    let mut conditions = vec!["id < $1".to_owned()];
    let mut binds = vec![which.before.as_ref().map_or("ep_g", |id| id.as_str()).to_owned()];
    if let Some(tenant) = &which.tenant {
        binds.push(tenant.clone());
        conditions.push(format!("tenant = ${}", binds.len()));
    }
    if let Some(enabled) = which.enabled {
        binds.push(if enabled { "enabled" } else { "disabled" }.to_owned());
        conditions.push(format!("state = ${}", binds.len()));
    }
    let text = format!(
        "select {COLUMNS} from webhook_endpoint where {} order by id desc limit ${}",
        conditions.join(" and "),
        binds.len() + 1
    );
    let mut query = built(text);
    for bind in binds {
        query = query.bind(bind);
    }
    db.fetch_all(query.bind(which.limit)).await?.iter().map(read).collect()
}

/// The public keys in use at `now`: of one endpoint, or of all, at most `limit` endpoints, the newest
/// first.
///
/// # Errors
/// Those of the database.
pub async fn published_keys(
    db: &Db,
    of: Option<&EndpointId>,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<PublishedKey>, sqlx::Error> {
    let text = "select public_keys from webhook_endpoint where public_keys is not null";
    let query = match of {
        Some(id) => built(format!("{text} and id = $2 limit $1")).bind(limit).bind(id.to_string()),
        None => built(format!("{text} order by id desc limit $1")).bind(limit),
    };
    let mut keys: Vec<PublishedKey> = Vec::new();
    for row in db.fetch_all(query).await? {
        keys.extend(decode::<Vec<PublishedKey>>(&row.get::<String, _>(0))?);
    }
    keys.retain(|key| key.ends_at_us.is_none_or(|end| end > now.as_micros()));
    Ok(keys)
}

/// How many endpoints a tenant has, or no tenant.
///
/// # Errors
/// Those of the database.
pub async fn count(tx: &mut Tx, tenant: Option<&str>) -> Result<i64, sqlx::Error> {
    let query = match tenant {
        Some(tenant) => {
            sql("select count(*) from webhook_endpoint where tenant = $1").bind(tenant.to_owned())
        }
        None => sql("select count(*) from webhook_endpoint where tenant is null"),
    };
    Ok(tx.fetch_optional(query).await?.map_or(0, |row| row.get(0)))
}

/// Makes an endpoint with its queue.
///
/// # Errors
/// Those of the database.
pub async fn create(tx: &mut Tx, new: &Endpoint, by: &str) -> Result<(), sqlx::Error> {
    let query = sql("insert into webhook_endpoint (id, url, types, filter, description, tenant,
            headers, secrets, manner, metadata, state, disabled_reason, public_keys, from_seq, version,
            created_at_us, updated_at_us, updated_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 1, $15, $15, $16)");
    let query = bind(query.bind(new.id.as_str().to_owned()), new);
    let query = query.bind(new.from.get()).bind(new.created_at.as_micros()).bind(by.to_owned());
    tx.execute(query).await?;
    work::define(tx, WORK, new.id.as_str(), &new.manner.policy(), &[]).await?;
    touch(tx, Some(&new.id)).await
}

/// What becomes of what was counted against an endpoint when it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It counts on.
    Kept,
    /// It is as if it had never failed.
    Forgotten,
}

/// Writes a changed endpoint, whose `version` is that before the change; the answer is whether that
/// was still so; if not, `tx` is to be rolled back.
///
/// # Errors
/// Those of the database.
pub async fn update(
    tx: &mut Tx,
    to: &Endpoint,
    counted: Counted,
    by: &str,
) -> Result<bool, sqlx::Error> {
    // The queue first, the endpoint last, as settlements lock them: so no two wait for each other.
    let queue = work::define(tx, WORK, to.id.as_str(), &to.manner.policy(), &[]).await?;
    work::set_paused(tx, queue, to.disabled_reason.is_some()).await?;
    if counted == Counted::Forgotten {
        work::widen(tx, WORK, to.id.as_str()).await?;
    }
    let query = sql("update webhook_endpoint set url = $2, types = $3, filter = $4,
            description = $5, tenant = $6, headers = $7, secrets = $8, manner = $9, metadata = $10,
            state = $11, disabled_reason = $12, public_keys = $13, version = version + 1,
            updated_at_us = $15, updated_by = $16,
            failing_since_us = case when $17 = 1 then null else failing_since_us end,
            warned_percent = case when $17 = 1 then 0 else warned_percent end,
            failures = case when $17 = 1 then 0 else failures end,
            held_until_us = case when $17 = 1 then null else held_until_us end
         where id = $1 and version = $14");
    let query = bind(query.bind(to.id.as_str().to_owned()), to);
    let now_us = tx.clock().now().as_micros();
    let query = query
        .bind(to.version)
        .bind(now_us)
        .bind(by.to_owned())
        .bind(i64::from(counted == Counted::Forgotten));
    if tx.execute(query).await?.rows_affected() == 0 {
        return Ok(false);
    }
    touch(tx, Some(&to.id)).await?;
    Ok(true)
}

/// Deletes an endpoint with all its deliveries and attempts.
///
/// # Errors
/// Those of the database.
pub async fn delete(tx: &mut Tx, id: &EndpointId) -> Result<(), sqlx::Error> {
    work::delete_queue(tx, WORK, id.as_str()).await?;
    for text in [
        "delete from webhook_attempt where delivery in
             (select id from webhook_delivery where endpoint = $1)",
        "delete from webhook_delivery where endpoint = $1",
        "delete from webhook_minute where endpoint = $1",
        "delete from webhook_endpoint where id = $1",
    ] {
        tx.execute(sql(text).bind(id.as_str().to_owned())).await?;
    }
    touch(tx, None).await
}

/// Tells every cache, on every node, to look anew, and which endpoint it is that has changed.
async fn touch(tx: &mut Tx, changed: Option<&EndpointId>) -> Result<(), sqlx::Error> {
    tx.execute(sql("update config_version set version = version + 1 where kind = 'webhook'"))
        .await?;
    if let Some(id) = changed {
        let query = sql("update webhook_endpoint set changed =
             (select version from config_version where kind = 'webhook') where id = $1");
        tx.execute(query.bind(id.as_str().to_owned())).await?;
    }
    tx.wake(signals::CONFIG);
    Ok(())
}

fn bind(query: Query, of: &Endpoint) -> Query {
    query
        .bind(of.url.clone())
        .bind(json(&of.types))
        .bind(of.filter.as_ref().map(json))
        .bind(of.description.clone())
        .bind(of.tenant.clone())
        .bind(of.headers.clone())
        .bind(of.secrets.clone())
        .bind(json(&of.manner))
        .bind(of.metadata.as_ref().map(json))
        .bind(if of.disabled_reason.is_none() { "enabled" } else { "disabled" })
        .bind(of.disabled_reason.clone())
        .bind((!of.public_keys.is_empty()).then(|| json(&of.public_keys)))
}

fn read(row: &AnyRow) -> Result<Endpoint, sqlx::Error> {
    let id: String = row.get(0);
    Ok(Endpoint {
        id: id.parse().map_err(|error: InvalidEndpointId| decoding(error))?,
        url: row.get(1),
        types: decode(&row.get::<String, _>(2))?,
        filter: row.get::<Option<String>, _>(3).map(|text| decode(&text)).transpose()?,
        description: row.get(4),
        tenant: row.get(5),
        headers: row.get(6),
        secrets: row.get(7),
        manner: decode(&row.get::<String, _>(8))?,
        metadata: row.get::<Option<String>, _>(9).map(|text| decode(&text)).transpose()?,
        disabled_reason: row.get(10),
        failing_since: row.get::<Option<i64>, _>(11).map(Timestamp::from_micros),
        from: Seq::new(row.get(12)),
        version: row.get(13),
        created_at: Timestamp::from_micros(row.get(14)),
        updated_at: Timestamp::from_micros(row.get(15)),
        failures: row.get(16),
        held_until: row.get::<Option<i64>, _>(17).map(Timestamp::from_micros),
        public_keys: row
            .get::<Option<String>, _>(18)
            .map(|text| decode(&text))
            .transpose()?
            .unwrap_or_default(),
    })
}

fn decode<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(decoding)
}

fn decoding(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
