//! One transaction on the state database, with what leaves it when it commits.

use schemas::Event;
use sqlx::any::{AnyQueryResult, AnyRow};
use sqlx::{Any, Transaction};

use crate::db::{Query, yields};
use crate::log::EVENT_BYTES_MAX;
use crate::outbox;
use crate::work::{self, NewWork};
use crate::{Clock, Db, Dialect};

/// A transaction. Events staged and work enqueued on it are written in bulk when it commits, and
/// the tasks that wait for them are woken after. Dropped without [`Tx::commit`], it never was.
pub struct Tx {
    transaction: Transaction<'static, Any>,
    db: Db,
    /// How many were run.
    statements: usize,
    savepoint: Savepoint,
    /// Whether there is a savepoint that the next one takes the place of.
    has_savepoint: bool,
    /// Whether another took away what it needs, or the database has taken it back in favour of another.
    yielded: bool,
    outbox: Vec<String>,
    work: Vec<NewWork>,
    wake: Vec<&'static str>,
    after: Vec<Box<dyn FnOnce() + Send>>,
}

/// An event that the log would refuse.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// Larger than [`EVENT_BYTES_MAX`].
    #[error("the event is {0} bytes, the limit is {EVENT_BYTES_MAX}")]
    TooLarge(usize),
    /// It breaks the rules of an event.
    #[error("the event is not valid")]
    Invalid(#[source] schemas::ParseError),
}

/// A savepoint is opened by the first statement that would need it: one that touches nothing
/// costs nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Savepoint {
    None,
    Armed(Gathered),
    Open(Gathered),
}

/// How much had been gathered for the commit when a savepoint was set.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Gathered {
    outbox: usize,
    work: usize,
    after: usize,
}

impl Tx {
    pub(crate) fn new(transaction: Transaction<'static, Any>, db: Db) -> Tx {
        Tx {
            transaction,
            db,
            statements: 0,
            savepoint: Savepoint::None,
            has_savepoint: false,
            yielded: false,
            outbox: Vec::new(),
            work: Vec::new(),
            wake: Vec::new(),
            after: Vec::new(),
        }
    }

    /// Runs a statement.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn execute(&mut self, query: Query) -> Result<AnyQueryResult, sqlx::Error> {
        self.open_savepoint().await?;
        self.statements += 1;
        let done = self.db.inner(query).execute(&mut *self.transaction).await;
        self.noted(done)
    }

    /// Runs one statement after the other; the next is put together while the database runs one.
    ///
    /// # Errors
    /// Those of the first that fails; those after it are not run.
    pub async fn execute_each(
        &mut self,
        mut statements: impl Iterator<Item = Query>,
    ) -> Result<(), sqlx::Error> {
        let mut next = statements.next();
        while let Some(statement) = next {
            let (done, following) =
                tokio::join!(self.execute(statement), async { statements.next() });
            done?;
            next = following;
        }
        Ok(())
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn fetch_all(&mut self, query: Query) -> Result<Vec<AnyRow>, sqlx::Error> {
        self.open_savepoint().await?;
        self.statements += 1;
        let rows = self.db.inner(query).fetch_all(&mut *self.transaction).await;
        self.noted(rows)
    }

    /// Runs a statement and returns its first row.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn fetch_optional(&mut self, query: Query) -> Result<Option<AnyRow>, sqlx::Error> {
        self.open_savepoint().await?;
        self.statements += 1;
        let row = self.db.inner(query).fetch_optional(&mut *self.transaction).await;
        self.noted(row)
    }

    /// Notes when a statement failed because of another transaction, for [`Tx::check`].
    fn noted<T>(&mut self, done: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.yielded |= done.as_ref().is_err_and(yields);
        done
    }

    /// Notes that another transaction has taken away what this one needs.
    pub(crate) fn yield_to_another(&mut self) {
        self.yielded = true;
    }

    /// Whether this transaction can still commit: it cannot once it has yielded to another, which is
    /// nobody's failure.
    ///
    /// # Errors
    /// It has yielded.
    pub(crate) fn check(&self) -> Result<(), sqlx::Error> {
        if self.yielded {
            return Err(sqlx::Error::Protocol("the transaction has yielded to another".into()));
        }
        Ok(())
    }

    /// The connection, for statements written with sqlx itself.
    ///
    /// # Errors
    /// The savepoint that guards them cannot be opened.
    pub async fn connection(&mut self) -> Result<&mut sqlx::AnyConnection, sqlx::Error> {
        self.open_savepoint().await?;
        Ok(&mut self.transaction)
    }

    /// Stages an event: it is published if, and only if, this transaction commits. It is checked
    /// here, since the relay could tell nobody.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn stage(&mut self, event: &Event) -> Result<(), StageError> {
        let json = event.to_json();
        if json.len() > EVENT_BYTES_MAX {
            return Err(StageError::TooLarge(json.len()));
        }
        Event::from_json(&json).map_err(StageError::Invalid)?;
        self.outbox.push(String::from_utf8_lossy(&json).into_owned());
        Ok(())
    }

    /// Enqueues work: it is there if, and only if, this transaction commits.
    pub fn enqueue(&mut self, work: NewWork) {
        self.work.push(work);
    }

    /// The database it runs on.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.db.dialect()
    }

    /// The clock that all times in the database come from.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        self.db.clock()
    }

    /// Commits: staged events, enqueued work and all statements, or nothing.
    ///
    /// # Errors
    /// Those of the database; after a lost connection the outcome is unknown.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.keep();
        self.flush().await?;
        self.transaction.commit().await?;
        self.db.committed(self.statements);
        for topic in self.wake {
            self.db.signals().notify(topic);
        }
        for action in self.after {
            action();
        }
        Ok(())
    }

    /// Writes what was staged so far, so that later statements of this transaction see it. In a handler
    /// that is what the handler has staged itself: what was staged before stays when this is undone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn flush(&mut self) -> Result<(), sqlx::Error> {
        let before = match self.savepoint {
            Savepoint::None => Gathered::default(),
            Savepoint::Armed(before) | Savepoint::Open(before) => before,
        };
        let rows = self.work.split_off(before.work);
        if !rows.is_empty() {
            work::insert(self, rows).await?;
            self.wake(crate::signals::WORK);
        }
        let events = self.outbox.split_off(before.outbox);
        if !events.is_empty() {
            outbox::insert(self, &events).await?;
            self.wake(crate::signals::OUTBOX);
        }
        Ok(())
    }

    /// Calls `action` once this has committed; it is dropped when that does not happen, or is not
    /// known to have happened.
    pub(crate) fn after_commit(&mut self, action: impl FnOnce() + Send + 'static) {
        self.after.push(Box::new(action));
    }

    /// Wakes those who wait for `topic` once this has committed.
    pub fn wake(&mut self, topic: &'static str) {
        if !self.wake.contains(&topic) {
            self.wake.push(topic);
        }
    }

    /// Guards what follows: [`Tx::undo`] takes it back, [`Tx::keep`] keeps it.
    pub(crate) fn guard(&mut self) {
        let (outbox, work, after) = (self.outbox.len(), self.work.len(), self.after.len());
        self.savepoint = Savepoint::Armed(Gathered { outbox, work, after });
    }

    /// The savepoint stays where it is until the next one takes its place, in one statement.
    pub(crate) fn keep(&mut self) {
        self.savepoint = Savepoint::None;
    }

    pub(crate) async fn undo(&mut self) -> Result<(), sqlx::Error> {
        match std::mem::replace(&mut self.savepoint, Savepoint::None) {
            Savepoint::None => {}
            Savepoint::Armed(kept) => self.truncate(kept),
            Savepoint::Open(kept) => {
                self.truncate(kept);
                self.execute_script("rollback to savepoint guard").await?;
            }
        }
        Ok(())
    }

    /// Runs statements without arguments, in one exchange with the database.
    pub(crate) async fn execute_script(&mut self, script: &str) -> Result<(), sqlx::Error> {
        let script = sqlx::raw_sql(sqlx::AssertSqlSafe(script.to_owned()));
        script.execute(&mut *self.transaction).await.map(|_| ())
    }

    fn truncate(&mut self, kept: Gathered) {
        self.outbox.truncate(kept.outbox);
        self.work.truncate(kept.work);
        self.after.truncate(kept.after);
    }

    async fn open_savepoint(&mut self) -> Result<(), sqlx::Error> {
        if let Savepoint::Armed(kept) = self.savepoint {
            let script = match self.has_savepoint {
                true => "release savepoint guard; savepoint guard",
                false => "savepoint guard",
            };
            self.execute_script(script).await?;
            self.savepoint = Savepoint::Open(kept);
            self.has_savepoint = true;
        }
        Ok(())
    }
}
