//! Runs sagas: takes inputs, plans, commits many sagas' transitions together, then asks.
//!
//! Callers and participants put messages into one bounded inbox. The `driver`, one task per node,
//! takes all that wait (`recv_many`, without a timer), loads the sagas that are not in memory, lets
//! the planner move each, and commits everything in one transaction (`round`, `write`); only then
//! requests go out (`carry_out`) and callers are answered (`finish`). A saga that wants written what
//! cannot be is set aside (`set_aside`). A saga that waits for something outside is a row, not a task: it
//! leaves memory, and its `wake_at_us` or an input brings it back. `replies` takes the answers of
//! participants on NATS. `shards` says which sagas are this node's; what comes for another's is left to
//! its node, and no round writes of one (`shards::hold`).

mod carry_out;
mod driver;
mod events;
mod finish;
mod kept_answer;
mod locks;
mod replies;
mod retention;
mod round;
mod round_error;
mod set_aside;
mod shards;
mod waiters;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Db, NodeId, signals, sql};
use serde_json::Value;
use sqlx::Row;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::definitions::Definitions;
use crate::name::Name;
use crate::participants::Participants;
use crate::planner::{Input, Refusal};
use crate::request::RequestId;
use crate::state::{Start, State, Status};
use crate::store::{self, SagaRow};

use waiters::Waiters;

/// Messages that wait for the driver; past it callers wait.
const INBOX: usize = 8_192;
/// Longest wait without looking whether sagas have ended, on this node and elsewhere.
const LOOK_OURS: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(1);
/// And the shortest: many may end elsewhere at once.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long a command to a saga of another node may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// What the engine runs with.
pub struct Options {
    /// What `env` gives: only what the configuration lists.
    pub env: BTreeMap<String, String>,
    /// How long ended sagas are kept.
    pub retention: Duration,
}

/// A handle on the engine of this node.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) db: Db,
    pub(crate) definitions: Definitions,
    pub(crate) participants: Participants,
    pub(crate) env: Arc<BTreeMap<String, String>>,
    pub(crate) retention: Duration,
    pub(crate) inbox: mpsc::Sender<Message>,
    pub(crate) waiters: Waiters,
    /// The shards of this node and their fences.
    pub(crate) shards: watch::Sender<BTreeMap<i64, i64>>,
}

/// A saga to come.
#[derive(Clone, Debug, Default)]
pub struct NewSaga {
    /// Its definition.
    pub definition: String,
    /// Its id; a new one when absent.
    pub id: Option<String>,
    /// Its input.
    pub input: Value,
    /// Who starts it.
    pub by: String,
    /// The saga that runs it as a step, and which request it answers.
    pub parent: Option<(String, RequestId)>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// A saga was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no such definition.
    #[error("there is no definition `{0}`")]
    NoDefinition(String),
    /// The id is not one.
    #[error(transparent)]
    Id(#[from] crate::name::InvalidName),
    /// The input is too large or too deep.
    #[error("the input {0}")]
    Input(#[from] crate::template::InvalidValue),
    /// The id belongs to another saga.
    #[error("there is a saga `{0}` already, with another definition or input")]
    Conflict(String),
    /// The database, or the engine has stopped.
    #[error("starting the saga")]
    Database(#[from] sqlx::Error),
    /// The engine could not write it.
    #[error("the engine does not answer: {0}")]
    Unavailable(String),
}

/// An input was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// There is no such saga.
    #[error("there is no saga `{0}`")]
    NoSaga(String),
    /// It does not fit where the saga is.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database.
    #[error("reaching the saga")]
    Database(#[from] sqlx::Error),
    /// The engine could not write it.
    #[error("the engine does not answer: {0}")]
    Unavailable(String),
}

/// What a caller is answered: `Err` for a refusal in words, with whether the step is missing.
pub(crate) type InputReply = oneshot::Sender<Result<(), InputError>>;
pub(crate) type StartReply = oneshot::Sender<Result<(SagaRow, bool), StartError>>;

pub(crate) enum Message {
    Start(Box<SagaRow>, StartReply),
    Input {
        saga: String,
        input: Input,
        reply: Option<InputReply>,
        /// Of the answer to a request: the fence under which that was made.
        asked_under: Option<i64>,
    },
}

/// The engine's task, to be waited for at the end.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends when the engine has without being asked to: it panicked, most likely.
    pub async fn broken(&mut self) {
        let _ = (&mut self.task).await;
    }

    /// Asks it to end, between two commits, and waits.
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(Duration::from_secs(2), self.task).await.is_err() {
            tracing::warn!("the saga engine did not end in time; what it began is taken up again");
        }
    }
}

impl Engine {
    /// Starts the engine of `node`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn start_on(
        definitions: Definitions,
        node: NodeId,
        participants: Participants,
        options: Options,
    ) -> Result<(Engine, Running), sqlx::Error> {
        let db = definitions.db().clone();
        shards::prepare(&db).await?;
        let (inbox, messages) = mpsc::channel(INBOX);
        let shared = Arc::new(Shared {
            definitions,
            db,
            participants,
            env: Arc::new(options.env),
            retention: options.retention,
            inbox,
            waiters: Waiters::default(),
            shards: watch::Sender::default(),
        });
        let stop = CancellationToken::new();
        let engine = Engine(Arc::clone(&shared));
        let pruner = retention::prune(engine.clone(), node.clone(), stop.clone());
        let driver = driver::Driver::new(engine.clone(), node, messages, stop.clone()).await?;
        tokio::spawn(pruner);
        tokio::spawn(locks::mend(engine.clone(), stop.clone()));
        if let Some(nats) = shared.participants.nats() {
            tokio::spawn(replies::listen(engine.clone(), nats.clone(), stop.clone()));
        }
        Ok((engine, Running { stop, task: tokio::spawn(driver.run()) }))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// The definitions.
    #[must_use]
    pub fn definitions(&self) -> &Definitions {
        &self.0.definitions
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.0.db
    }

    /// What `env` gives.
    #[must_use]
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.0.env
    }

    fn is_ours(&self, saga: &str) -> bool {
        self.has_shard(store::shard_of(saga))
    }

    fn has_shard(&self, shard: i64) -> bool {
        self.0.shards.borrow().contains_key(&shard)
    }

    /// The fence of a saga's shard, if that is this node's.
    fn fence(&self, saga: &str) -> Option<i64> {
        self.0.shards.borrow().get(&store::shard_of(saga)).copied()
    }

    /// Starts a saga; false when it was there already, with the same definition and input.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(&self, new: NewSaga) -> Result<(SagaRow, bool), StartError> {
        let id = match new.id {
            Some(id) => id.parse::<Name>()?.to_string(),
            None => bus::work::WorkId::new().prefixed("saga"),
        };
        crate::template::check_value(&new.input)?;
        let newest = self.0.definitions.newest().await?;
        let known = newest.get(&new.definition);
        let known = known.ok_or_else(|| StartError::NoDefinition(new.definition.clone()))?;
        let request = |request: &RequestId| serde_json::to_string(request).unwrap_or_default();
        let row = SagaRow {
            id,
            definition: new.definition,
            version: known.version,
            status: Status::Running,
            input: new.input.to_string(),
            created_us: self.0.db.clock().now().as_micros(),
            created_by: new.by,
            ended_us: None,
            parent: new.parent.map(|(parent, of)| (parent, request(&of))),
            cause: None,
            traceparent: new.traceparent,
            wake_us: store::UNDER_WAY,
        };
        if self.is_ours(&row.id) {
            let (reply, answer) = oneshot::channel();
            let message = Message::Start(Box::new(row), reply);
            let gone = |_| StartError::Unavailable("it has stopped".to_owned());
            self.0
                .inbox
                .send(message)
                .await
                .map_err(|_| StartError::Unavailable("it has stopped".to_owned()))?;
            return answer.await.map_err(gone)?;
        }
        // Another node's: it finds the row when it looks.
        let row = SagaRow { wake_us: row.created_us.max(1), ..row };
        let mut tx = self.0.db.begin().await?;
        let inserted = store::insert(&mut tx, std::slice::from_ref(&row)).await?;
        tx.wake(signals::SAGA);
        tx.commit().await?;
        if inserted.is_empty() { self.existing(&row).await } else { Ok((row, true)) }
    }

    async fn existing(&self, wanted: &SagaRow) -> Result<(SagaRow, bool), StartError> {
        let known = store::rows(&self.0.db, std::slice::from_ref(&wanted.id)).await?;
        match known.into_iter().next() {
            Some(known) if is_same(&known, wanted) => Ok((known, false)),
            Some(known) => Err(StartError::Conflict(known.id)),
            None => Err(StartError::Unavailable("the saga is gone again".to_owned())),
        }
    }

    /// Gives a saga an input, on whichever node it is; it is on the journal, or was refused, when
    /// this returns.
    ///
    /// # Errors
    /// [`InputError`].
    pub async fn input(&self, saga: &str, input: Input) -> Result<(), InputError> {
        if self.is_ours(saga) {
            let (reply, answer) = oneshot::channel();
            let saga = saga.to_owned();
            let gone = |what: &str| InputError::Unavailable(what.to_owned());
            let message = Message::Input { saga, input, reply: Some(reply), asked_under: None };
            self.0.inbox.send(message).await.map_err(|_| gone("it has stopped"))?;
            return answer.await.map_err(|_| gone("it has stopped"))?;
        }
        self.ask_elsewhere(saga, &input).await
    }

    /// Leaves the input in the database and waits for the answer of the node that has the saga.
    async fn ask_elsewhere(&self, saga: &str, input: &Input) -> Result<(), InputError> {
        let db = &self.0.db;
        if store::rows(db, &[saga.to_owned()]).await?.is_empty() {
            return Err(InputError::NoSaga(saga.to_owned()));
        }
        let asked = format!("{:032x}", rand::random::<u128>());
        let text = serde_json::to_string(input).unwrap_or_default();
        let mut answered = db.signals().subscribe(signals::SAGA_ENDED);
        let mut tx = db.begin().await?;
        store::keep(&mut tx, &[(saga.to_owned(), text, Some(asked.clone()))]).await?;
        tx.commit().await?;
        let end = tokio::time::Instant::now() + ASK_TIMEOUT;
        loop {
            let look = tokio::time::sleep(Duration::from_millis(250));
            tokio::select! {
                () = look => {}
                _ = answered.changed() => {}
            }
            let query = sql("select answer from saga_input where asked = $1");
            let row = db.fetch_optional(query.bind(asked.clone())).await?;
            let answer = row.and_then(|row| row.get::<Option<String>, _>(0));
            if let Some(answer) = answer {
                let mut tx = db.begin().await?;
                let query = sql("delete from saga_input where asked = $1");
                tx.execute(query.bind(asked)).await?;
                tx.commit().await?;
                return kept_answer::read(&answer);
            }
            if tokio::time::Instant::now() > end {
                return Err(InputError::Unavailable("its node is away".to_owned()));
            }
        }
    }

    /// A saga and all that is on its journal.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn read(&self, id: &str) -> Result<Option<Told>, sqlx::Error> {
        let ids = [id.to_owned()];
        let Some(row) = store::rows(&self.0.db, &ids).await?.pop() else { return Ok(None) };
        let journal = store::journals(&self.0.db, &ids).await?.remove(id).unwrap_or_default();
        let state = self.restore(&row, &journal).await?;
        Ok(Some(Told { row, journal, state, read_us: self.0.db.clock().now().as_micros() }))
    }

    pub(crate) async fn restore(
        &self,
        row: &SagaRow,
        journal: &[store::ReadFrame],
    ) -> Result<State, sqlx::Error> {
        let broken = |what: String| sqlx::Error::Decode(what.into());
        let definition = self.0.definitions.version(&row.definition, row.version).await?;
        let definition = definition
            .ok_or_else(|| broken(format!("{} v{} is gone", row.definition, row.version)))?;
        let start = Start {
            id: row.id.clone(),
            definition,
            input: Arc::new(serde_json::from_str(&row.input).map_err(|e| broken(e.to_string()))?),
            env: Arc::clone(&self.0.env),
            created_us: row.created_us,
        };
        let entries = journal.iter().flat_map(|(_, at, entries)| entries.iter().map(|t| (*at, t)));
        State::of_journal(start, entries).map_err(|error| broken(error.to_string()))
    }

    /// Waits until each of these has ended or is stuck, or `timeout` has passed; those that have not
    /// ended. One that is not there has not either: an event may still start it. So one that ended
    /// before the retention counts as one that is still to come.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn wait(
        &self,
        ids: &[String],
        timeout: Duration,
    ) -> Result<Vec<String>, sqlx::Error> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut elsewhere = self.0.db.signals().subscribe(signals::SAGA_ENDED);
        let mut shards = self.0.shards.subscribe();
        loop {
            let ended = self.0.waiters.register(ids);
            elsewhere.borrow_and_update();
            shards.borrow_and_update();
            let known = store::statuses(&self.0.db, ids).await?;
            let is_open = |id: &&String| known.get(*id).is_none_or(|status| !status.is_ended());
            let is_stuck = |id: &String| known.get(id) == Some(&Status::Stuck);
            let open = ids.iter().filter(is_open).cloned();
            let (stuck, pending): (Vec<_>, Vec<_>) = open.partition(is_stuck);
            if pending.is_empty() {
                return Ok(stuck);
            }
            let ours = pending.iter().all(|id| self.is_ours(id));
            tokio::select! {
                more = ended.all(&pending) => return Ok([stuck, more].concat()),
                _ = elsewhere.changed(), if !ours => tokio::time::sleep(LOOK_AGAIN).await,
                // A signal may be lost on its way, and an end be written without anybody knowing.
                () = tokio::time::sleep(if ours { LOOK_OURS } else { LOOK }) => {}
                _ = shards.changed() => {} // They may end on another node now.
                () = tokio::time::sleep_until(deadline) => return Ok([stuck, pending].concat()),
            }
        }
    }
}

pub(crate) fn is_same(known: &SagaRow, wanted: &SagaRow) -> bool {
    known.definition == wanted.definition && known.input == wanted.input
}

/// A saga as it is shown.
#[derive(Debug)]
pub struct Told {
    /// Its row.
    pub row: SagaRow,
    /// Its journal: number, time and transitions of every commit.
    pub journal: Vec<store::ReadFrame>,
    /// Where it is.
    pub state: State,
    /// When it was read, in microseconds since the epoch.
    pub read_us: i64,
}
