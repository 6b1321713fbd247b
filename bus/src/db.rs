//! The state database: one SQL text on SQLite and Postgres.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyPool, ConnectOptions as _, Connection as _, Row as _};

use crate::checkpoint::Checkpoints;
use crate::log::PAGE_BYTES_MAX;
use crate::signals::{self, Signals};
use crate::{Clock, Tx};

/// Connections that read at once on SQLite.
const READERS: u32 = 8;
/// Connections to Postgres, unless the URL says how many.
const CONNECTIONS: u32 = 16;
/// How long a caller waits for a connection before the database counts as unreachable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Which database stands behind the handle; see `dialect` for what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A file, one writer.
    Sqlite,
    /// Postgres 14 or later.
    Postgres,
}

/// The first of what is there, and whether there is more.
#[derive(Debug)]
pub struct Found<T> {
    /// In the order that was asked for.
    pub items: Vec<T>,
    /// Whether something comes after those.
    pub more: bool,
}

/// The database could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// A parameter of the URL that is ours and cannot be read.
    #[error("the database URL: {0}")]
    Parameter(String),
    /// Neither `sqlite:` nor `postgres:`.
    #[error("the database URL must start with `sqlite:` or `postgres:`")]
    Url,
    /// No connection, or what is there is no database.
    #[error("connecting to the database {url}")]
    Connect {
        /// Which database, without its password.
        url: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A statement of the start failed.
    #[error("preparing the database")]
    Prepare(#[source] sqlx::Error),
    /// It was made by a newer version of this program.
    #[error("the database is at version {found}, this program knows version {known}; upgrade it")]
    Newer {
        /// The version found.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// A migration that was already applied reads differently now.
    #[error("migration {0} was applied in another form; the database belongs to another build")]
    Changed(i64),
}

/// A handle on the state database; clones share the connections.
#[derive(Clone)]
pub struct Db {
    dialect: Dialect,
    /// On SQLite one connection: writers queue for it here, in order, and not in busy loops.
    write: AnyPool,
    read: AnyPool,
    /// On SQLite.
    checkpoints: Option<Checkpoints>,
    /// Whether a pooler stands in between that gives each transaction another connection.
    pooled: bool,
    /// How a transaction begins on Postgres.
    begin: Arc<str>,
    /// What transactions of this handle are called there.
    transactions: Arc<str>,
    clock: Clock,
    signals: Arc<Signals>,
    configured: Arc<Mutex<HashMap<&'static str, Configured>>>,
}

/// What version a kind of configuration was at, when so many changes had been told of.
#[derive(Clone, Copy)]
struct Configured {
    changes: u64,
    version: i64,
}

impl Db {
    /// Opens `sqlite://PATH` (made if missing) or `postgres://…` and migrates it.
    ///
    /// A `postgres://` URL may say `pooler=transaction` when a pooler stands in between that gives
    /// each transaction another connection, and `connections_max=N` (16 unless said); the rest is
    /// the driver's.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn open(url: &str, clock: Clock) -> Result<Db, DbError> {
        sqlx::any::install_default_drivers();
        let dialect = match url.split(':').next() {
            Some("sqlite") => Dialect::Sqlite,
            Some("postgres" | "postgresql") => Dialect::Postgres,
            _ => return Err(DbError::Url),
        };
        let address = Address::read(url, dialect)?;
        let (write, read) = connect(&address, dialect)
            .await
            .map_err(|source| DbError::Connect { url: without_password(url), source })?;
        let pooled = address.pooled;
        let (signals, configured) = (Arc::default(), Arc::default());
        let checkpoints = (dialect == Dialect::Sqlite).then(|| Checkpoints::start(read.clone()));
        let transactions: Arc<str> = format!("skald-{}", uuid::Uuid::now_v7().simple()).into();
        let begin = format!("{BEGIN_POSTGRES}; set local application_name = '{transactions}'");
        let db = Db {
            dialect,
            write,
            read,
            checkpoints,
            pooled,
            begin: begin.into(),
            transactions,
            clock,
            signals,
            configured,
        };
        db.follow_clock().await.map_err(DbError::Prepare)?;
        crate::migrate::migrate(&db).await?;
        Ok(db)
    }

    /// Which database it is.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The clock that all times in the database come from.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Wake-ups between the tasks of this process.
    #[must_use]
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// The version that `kind` of configuration is at. What had changed before this was called is seen,
    /// if the transaction that changed it woke [`signals::CONFIG`].
    ///
    /// A file is changed by this process alone, which knows of each change before whoever made it: there
    /// it is read once for each.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn config_version(&self, kind: &'static str) -> Result<i64, sqlx::Error> {
        let changes = self.signals.count(signals::CONFIG);
        let known = {
            let configured = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
            configured.get(kind).copied()
        };
        if let (Dialect::Sqlite, Some(known)) = (self.dialect, known)
            && known.changes == changes
        {
            return Ok(known.version);
        }
        let query = sql("select version from config_version where kind = $1").bind(kind);
        let version = self.fetch_optional(query).await?.map_or(0, |row| sqlx::Row::get(&row, 0));
        let mut configured = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        configured.insert(kind, Configured { changes, version });
        Ok(version)
    }

    /// Begins a transaction that may write. On SQLite it takes the write lock at once: one that
    /// began reading and writes later fails when another has written in between.
    ///
    /// # Errors
    /// The database is unreachable or busy past the limits.
    pub async fn begin(&self) -> Result<Tx, sqlx::Error> {
        let transaction = match self.dialect {
            Dialect::Sqlite => match self.write.begin_with(BEGIN_SQLITE).await {
                // SQLite ended the last transaction by itself (a full disk, say), which sqlx does
                // not notice: only a new connection counts right again.
                Err(sqlx::Error::InvalidSavePointStatement) => {
                    self.write.acquire().await?.close().await?;
                    self.write.begin_with(BEGIN_SQLITE).await?
                }
                begun => begun?,
            },
            Dialect::Postgres => {
                self.write.begin_with(sqlx::AssertSqlSafe(Arc::clone(&self.begin))).await?
            }
        };
        Ok(Tx::new(transaction, self.clone()))
    }

    /// Reads all rows, outside any transaction.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn fetch_all(&self, query: Query) -> Result<Vec<AnyRow>, sqlx::Error> {
        let query = self.inner(query);
        if !self.pooled {
            return query.fetch_all(&self.read).await;
        }
        // Parsing and running a statement are two calls, which only a transaction keeps together.
        let mut transaction = self.read.begin().await?;
        let rows = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// Reads the first `count` rows of a statement, outside any transaction, or fewer where the texts in
    /// their `column` are about [`PAGE_BYTES_MAX`] together: large ones are not to fill the
    /// memory. `bind` fills its placeholders in; for a page that is full by its count it must ask for one
    /// row more.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn fetch_page(
        &self,
        text: &str,
        bind: impl FnOnce(Query) -> Query,
        count: usize,
        column: &'static str,
    ) -> Result<Found<AnyRow>, sqlx::Error> {
        let query = self.inner(bind(built(self.first_of(text, column))));
        if !self.pooled {
            return page_of(query.fetch(&self.read), count, column).await;
        }
        let mut transaction = self.read.begin().await?;
        let page = page_of(query.fetch(&mut *transaction), count, column).await?;
        transaction.commit().await?;
        Ok(page)
    }

    /// The statement, ending soon after its rows fill a page. On SQLite it runs only as far as its rows are
    /// read. Postgres sends all rows that a statement has, so this one has no more; the length of what is
    /// long it knows without reading it.
    fn first_of(&self, text: &str, column: &str) -> String {
        match self.dialect {
            Dialect::Sqlite => text.to_owned(),
            Dialect::Postgres => format!(
                "select * from (select q.*, sum(octet_length(q.{column})) over
                     (rows between unbounded preceding and 2 preceding) as before_last
                 from ({text}) q) p where coalesce(before_last, 0) < {PAGE_BYTES_MAX}"
            ),
        }
    }

    /// Reads at most one row, outside any transaction.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn fetch_optional(&self, query: Query) -> Result<Option<AnyRow>, sqlx::Error> {
        let query = self.inner(query);
        if !self.pooled {
            return query.fetch_optional(&self.read).await;
        }
        let mut transaction = self.read.begin().await?;
        let row = query.fetch_optional(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(row)
    }

    /// Notes that so many statements were committed.
    pub(crate) fn committed(&self, statements: usize) {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.committed(statements);
        }
    }

    /// The driver's own form of a statement. It is kept prepared, unless it would stay behind on a
    /// connection that is another's next.
    pub(crate) fn inner(
        &self,
        query: Query,
    ) -> sqlx::query::Query<'static, Any, sqlx::any::AnyArguments> {
        query.0.persistent(!self.pooled)
    }

    /// Follows the clock of a database that nodes share: what they write is compared with each other.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn follow_clock(&self) -> Result<(), sqlx::Error> {
        if self.dialect != Dialect::Postgres {
            return Ok(());
        }
        let asked = std::time::Instant::now();
        let now = sql("select cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)");
        let Some(row) = self.fetch_optional(now).await? else { return Ok(()) };
        let took = asked.elapsed();
        if took > CLOCK_DOUBT_MAX && self.clock.follows() {
            return Ok(()); // Nobody knows when in that time it looked at its clock.
        }
        let half_way = i64::try_from(took.as_micros() / 2).unwrap_or(0);
        let theirs: i64 = sqlx::Row::get(&row, 0);
        self.clock.follow(schemas::Timestamp::from_micros(theirs + half_way));
        Ok(())
    }

    /// What transactions of this handle are called at the server; none on SQLite, where no other
    /// process has any.
    pub(crate) fn transactions(&self) -> Option<&str> {
        (self.dialect == Dialect::Postgres).then_some(&self.transactions)
    }

    /// Ends the connections to Postgres that are in a transaction of this name, which is taken back.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn end_transactions(&self, name: &str) -> Result<(), sqlx::Error> {
        let query = sql("select count(pg_terminate_backend(pid)) from pg_stat_activity
             where application_name = $1 and datname = current_database() and usename = current_user");
        self.fetch_optional(query.bind(name.to_owned())).await.map(|_| ())
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), sqlx::Error> {
        self.fetch_optional(sql("select 1")).await.map(|_| ())
    }

    /// Closes the connections; on SQLite the write-ahead log is moved into the file.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// A statement with its arguments. [`sql`] starts one.
pub struct Query(sqlx::query::Query<'static, Any, sqlx::any::AnyArguments>);

/// A statement whose text is fixed, to which arguments are bound in the order `$1`, `$2`, ….
#[must_use]
pub fn sql(text: &'static str) -> Query {
    Query(sqlx::query(text))
}

/// A statement whose text was put together from fixed parts: only the number of its placeholders
/// varies, never a value.
#[must_use]
pub fn built(text: String) -> Query {
    Query(sqlx::query(sqlx::AssertSqlSafe(text)))
}

impl Query {
    /// Binds the next argument.
    #[must_use]
    pub fn bind<'t, T>(self, value: T) -> Query
    where
        T: sqlx::Encode<'t, Any> + sqlx::Type<Any> + 't,
    {
        Query(self.0.bind(value))
    }
}

/// Whether the database took a transaction back in favour of another: they waited for each other, or the
/// other kept a lock for too long. Begun anew it goes on.
#[must_use]
pub fn yields(error: &sqlx::Error) -> bool {
    const DEADLOCK: &str = "40P01";
    const LOCK_TIMEOUT: &str = "55P03";
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| [DEADLOCK, LOCK_TIMEOUT].contains(&&*code))
}

/// How long an answer that tells the time may take and still be believed.
const CLOCK_DOUBT_MAX: Duration = Duration::from_millis(100);
const BEGIN_SQLITE: &str = "begin immediate";
/// A process that is paused inside a transaction keeps its locks. The server takes a transaction back
/// that has been idle for as long as a node's lease, should no other node do so, and nobody waits for a
/// lock for long. It stands in the transaction, as a pooler gives the next one to another connection.
const BEGIN_POSTGRES: &str = "begin; set local idle_in_transaction_session_timeout = '8s';
    set local lock_timeout = '4s'";
/// The writer itself makes a checkpoint where the log is past 64 MiB, which starts it anew: then little
/// is left to move.
const SQLITE_WRITER: &str = "pragma journal_mode = wal; pragma synchronous = full;
    pragma busy_timeout = 10000; pragma wal_autocheckpoint = 16384; pragma cache_size = -16000;
    pragma temp_store = memory;";
const SQLITE_READER: &str =
    "pragma busy_timeout = 10000; pragma query_only = on; pragma cache_size = -2000;";

/// A URL without the parameters that are ours.
struct Address {
    url: String,
    connections: u32,
    pooled: bool,
}

impl Address {
    fn read(url: &str, dialect: Dialect) -> Result<Address, DbError> {
        let plain = Address { url: url.to_owned(), connections: CONNECTIONS, pooled: false };
        let Some((base, parameters)) = url.split_once('?').filter(|_| dialect == Dialect::Postgres)
        else {
            return Ok(plain);
        };
        let mut address = Address { url: String::new(), ..plain };
        let mut others = Vec::new();
        for parameter in parameters.split('&') {
            match parameter.split_once('=') {
                Some(("pooler", "transaction")) => {
                    address.pooled = true;
                }
                Some(("pooler", other)) => {
                    let why = format!("pooler may be `transaction`, not `{other}`");
                    return Err(DbError::Parameter(why));
                }
                Some(("connections_max", number)) => {
                    let number = number.parse().ok().filter(|number| (2..=1_000).contains(number));
                    let why = "connections_max must be a number from 2 to 1000";
                    let number = number.ok_or_else(|| DbError::Parameter(why.to_owned()))?;
                    address.connections = number;
                }
                _ => others.push(parameter),
            }
        }
        address.url = format!("{base}?{}", others.join("&"));
        Ok(address)
    }
}

async fn connect(address: &Address, dialect: Dialect) -> Result<(AnyPool, AnyPool), sqlx::Error> {
    let url = &address.url;
    match dialect {
        Dialect::Sqlite => {
            let options = AnyConnectOptions::from_str(&format!("{url}?mode=rwc"))?;
            let write = pool(options.clone(), 1, SQLITE_WRITER).await?;
            Ok((write, pool(options, READERS, SQLITE_READER).await?))
        }
        Dialect::Postgres => {
            let pool = pool(AnyConnectOptions::from_str(url)?, address.connections, "").await?;
            Ok((pool.clone(), pool))
        }
    }
}

async fn pool(
    options: AnyConnectOptions,
    connections: u32,
    prepare: &'static str,
) -> Result<AnyPool, sqlx::Error> {
    let options = options.disable_statement_logging();
    // A pool tries until its time is over and then tells nothing of why; one connection tells.
    let mut first = options.connect().await?;
    if !prepare.is_empty() {
        sqlx::raw_sql(prepare).execute(&mut first).await?;
    }
    first.close().await?;
    AnyPoolOptions::new()
        .max_connections(connections)
        // A file does not go away between two statements, as a server may.
        .test_before_acquire(prepare.is_empty())
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if !prepare.is_empty() {
                    sqlx::raw_sql(prepare).execute(connection).await?;
                }
                Ok(())
            })
        })
        .connect_with(options)
        .await
}

/// `postgres://user:***@host/name`, without parameters: one may be a password too. Of a URL whose parts
/// cannot be told from each other nothing is said.
fn without_password(url: &str) -> String {
    let (before, parameters) = url.split_once('?').unwrap_or((url, ""));
    let Some((scheme, rest)) = before.split_once("://") else { return before.to_owned() };
    match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{scheme}://{name}:***@{host}"),
            None => before.to_owned(),
        },
        None if parameters.contains('@') => format!("{scheme}://***"),
        None => before.to_owned(),
    }
}

async fn page_of(
    mut rows: BoxStream<'_, Result<AnyRow, sqlx::Error>>,
    count: usize,
    column: &str,
) -> Result<Found<AnyRow>, sqlx::Error> {
    let (mut items, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        if items.len() == count || bytes >= PAGE_BYTES_MAX {
            return Ok(Found { items, more: true });
        }
        bytes += row.get::<Option<&str>, _>(column).map_or(0, str::len);
        items.push(row);
    }
    Ok(Found { items, more: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_told() {
        let told = without_password("postgres://u:p:w@db.example:5432/skald");
        assert!(!told.contains("p:w") && told.ends_with("@db.example:5432/skald"), "{told}");
        for url in [
            "postgres://u:TOP:SECRET@h/d",
            "postgres://u:SECRET?SECRET@h/d",
            "postgres://h/d?user=u&password=SECRET",
            "postgres://h:5432/d?user=u&password=SECRET@SECRET",
        ] {
            assert!(!without_password(url).contains("SECRET"), "{url}");
        }
        assert_eq!(without_password("sqlite:///a/b@c"), "sqlite:///a/b@c");
    }

    #[test]
    fn parameters_that_are_ours_are_taken_out_of_the_url() {
        let read = |url: &str| Address::read(url, Dialect::Postgres);
        let url = "postgres://u@h/d?sslmode=require&pooler=transaction&connections_max=30";
        let address = read(url).ok().unwrap();
        assert_eq!(address.url, "postgres://u@h/d?sslmode=require");
        assert!(address.pooled && address.connections == 30);
        assert!(read("postgres://h/d?pooler=session").is_err());
        assert!(read("postgres://h/d?connections_max=1").is_err());
    }
}
