//! The one task of a node that moves its sagas.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bus::{NODE_RENEW, NodeId, signals};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::round_error::RoundError;
use super::{Engine, InputError, InputReply, Message, StartReply, shards};
use crate::planner::Input;
use crate::request::{Answer, RequestId};
use crate::state::State;
use crate::store::{self, SagaRow};

/// Messages of one round.
const ROUND: usize = 1_024;
/// Sagas in memory; what is beyond stays a row until there is room.
pub(super) const HOT_MAX: usize = 20_000;
/// Longest time without looking for what other nodes and the log left.
const LOOK: Duration = Duration::from_secs(1);
/// How long a round that failed is left alone.
const PAUSE: Duration = Duration::from_millis(300);

/// A saga in memory.
pub(super) struct Hot {
    pub(super) row: SagaRow,
    pub(super) state: State,
    /// The number of the next row of its journal.
    pub(super) seq: i64,
    /// Requests that were made and have not been answered.
    pub(super) in_flight: HashSet<RequestId>,
    pub(super) timer: Option<i64>,
    /// Children that were asked to cancel.
    pub(super) cancelled: HashSet<String>,
}

/// Who is told what came of an input.
pub(super) enum Reply {
    Nobody,
    Caller(InputReply),
    /// It was kept in the database; whether somebody waits for the answer there.
    Kept(i64, bool),
}

/// An input of a round.
pub(super) struct Item {
    pub(super) saga: String,
    pub(super) input: Input,
    pub(super) reply: Reply,
}

/// What a round works on.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) starts: Vec<(Box<SagaRow>, StartReply)>,
    pub(super) items: Vec<Item>,
}

pub(super) struct Driver {
    pub(super) engine: Engine,
    node: NodeId,
    messages: mpsc::Receiver<Message>,
    stop: CancellationToken,
    pub(super) hot: HashMap<String, Hot>,
    pub(super) timers: BTreeSet<(i64, String)>,
    /// Shards taken over, and up to where what was under way there has been taken up.
    backlog: VecDeque<(i64, String)>,
    /// When the first row of these shards is due.
    pub(super) cold_us: Option<i64>,
    /// Requests of sagas that a failed round dropped from memory; they are still on their way.
    pub(super) carried: HashMap<String, HashSet<RequestId>>,
    /// What a failed round leaves to the next one, and the sagas that it is to look at.
    pub(super) again: Batch,
    pub(super) look_at: BTreeSet<String>,
    /// A shard is another node's now: which are ours must be looked up.
    pub(super) lost_lease: bool,
}

impl Batch {
    pub(super) fn append(&mut self, mut other: Batch) {
        self.starts.append(&mut other.starts);
        self.items.append(&mut other.items);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty() && self.items.is_empty()
    }

    /// The sagas that it is about.
    pub(super) fn sagas(&self) -> BTreeSet<String> {
        let starts = self.starts.iter().map(|(row, _)| row.id.clone());
        starts.chain(self.items.iter().map(|item| item.saga.clone())).collect()
    }

    /// Two batches of half the sagas each, all of one saga in one of them and in order.
    ///
    /// # Errors
    /// It is about one saga: itself.
    pub(super) fn halves(self) -> Result<[Batch; 2], Batch> {
        let sagas = self.sagas();
        let Some(middle) = sagas.iter().nth(sagas.len() / 2).filter(|_| sagas.len() > 1) else {
            return Err(self);
        };
        let (starts, more_starts) = self.starts.into_iter().partition(|(row, _)| row.id < *middle);
        let (items, more_items) = self.items.into_iter().partition(|item| item.saga < *middle);
        Ok([Batch { starts, items }, Batch { starts: more_starts, items: more_items }])
    }
}

impl Driver {
    pub(super) async fn new(
        engine: Engine,
        node: NodeId,
        messages: mpsc::Receiver<Message>,
        stop: CancellationToken,
    ) -> Result<Driver, sqlx::Error> {
        let mut driver = Driver {
            engine,
            node,
            messages,
            stop,
            hot: HashMap::new(),
            timers: BTreeSet::new(),
            backlog: VecDeque::new(),
            cold_us: None,
            carried: HashMap::new(),
            again: Batch::default(),
            look_at: BTreeSet::new(),
            lost_lease: false,
        };
        driver.refresh().await?;
        Ok(driver)
    }

    pub(super) async fn run(mut self) {
        let db = self.engine.db().clone();
        let mut saga = db.signals().subscribe(signals::SAGA);
        let mut config = db.signals().subscribe(signals::CONFIG);
        let (mut refreshed, mut looked) = (Instant::now(), None::<Instant>);
        let mut batch = Batch::default();
        let mut inbox = Vec::with_capacity(ROUND);
        while !self.stop.is_cancelled() {
            let mut failed = false;
            if refreshed.elapsed() >= NODE_RENEW / 2
                || self.lost_lease
                || config.has_changed().unwrap_or(false)
            {
                config.borrow_and_update();
                refreshed = Instant::now();
                if let Err(error) = self.refresh().await {
                    tracing::warn!(%error, "looking for sagas to run");
                    failed = true;
                }
                looked = None;
            }
            let cold_due = self.cold_us.is_some_and(|at| at <= self.now_us());
            let stale = looked.is_none_or(|at| at.elapsed() >= LOOK);
            if stale || cold_due || saga.has_changed().unwrap_or(false) || !self.backlog.is_empty()
            {
                saga.borrow_and_update();
                looked = Some(Instant::now());
                if let Err(error) = self.look(&mut batch).await {
                    tracing::warn!(%error, "looking for sagas that are due");
                    failed = true;
                }
            }
            self.ring(&mut batch);
            batch.append(std::mem::take(&mut self.again));
            for saga in std::mem::take(&mut self.look_at) {
                batch.items.push(Item { saga, input: Input::Tick, reply: Reply::Nobody });
            }
            if batch.is_empty() {
                let wait = if failed { PAUSE } else { self.until_timer() };
                tokio::select! {
                    () = self.stop.cancelled() => break,
                    count = self.messages.recv_many(&mut inbox, ROUND) => if count == 0 { break },
                    // The loop looks whether they have changed.
                    _ = saga.changed() => { saga.mark_changed(); continue }
                    _ = config.changed() => { config.mark_changed(); continue }
                    () = tokio::time::sleep(wait) => continue,
                }
            } else {
                while inbox.len() < ROUND
                    && let Ok(message) = self.messages.try_recv()
                {
                    inbox.push(message);
                }
            }
            for message in inbox.drain(..) {
                match message {
                    Message::Start(row, reply) => batch.starts.push((row, reply)),
                    Message::Input { saga, input, reply, asked_under } => {
                        let has_left =
                            asked_under.is_some() && asked_under != self.engine.fence(&saga);
                        if has_left && is_unclear(&input) {
                            continue; // All of it was asked again: this is the end of another attempt.
                        }
                        let reply = reply.map_or(Reply::Nobody, Reply::Caller);
                        batch.items.push(Item { saga, input, reply });
                    }
                }
            }
            let ours = self.only_ours(std::mem::take(&mut batch));
            if !self.round(ours).await {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    pub(super) fn now_us(&self) -> i64 {
        self.engine.db().clock().now().as_micros()
    }

    fn shards(&self) -> Vec<i64> {
        self.engine.shared().shards.borrow().keys().copied().collect()
    }

    /// Without what came for sagas that are another node's now. It has asked again what was under way.
    fn only_ours(&self, batch: Batch) -> Batch {
        let (items, others): (Vec<_>, Vec<_>) =
            batch.items.into_iter().partition(|item| self.engine.is_ours(&item.saga));
        for item in others {
            if let Reply::Caller(reply) = item.reply {
                let error = RoundError::LostLease.to_string();
                let _ = reply.send(Err(InputError::Unavailable(error)));
            }
        }
        Batch { items, ..batch }
    }

    async fn refresh(&mut self) -> Result<(), sqlx::Error> {
        let now = shards::refresh(self.engine.db(), &self.node).await?;
        self.lost_lease = false;
        let shards = &self.engine.shared().shards;
        let before = shards.borrow().clone();
        shards.send_if_modified(|shards| {
            let changes = *shards != now;
            shards.clone_from(&now);
            changes
        });
        for (shard, fence) in &now {
            if before.get(shard) != Some(fence) {
                self.backlog.push_back((*shard, String::new()));
                crate::metrics::shard_taken();
            }
        }
        let is_lost = |saga: &str| {
            let shard = store::shard_of(saga);
            now.get(&shard) != before.get(&shard)
        };
        self.hot.retain(|saga, _| !is_lost(saga));
        self.timers.retain(|(_, saga)| !is_lost(saga));
        self.carried.retain(|saga, _| !is_lost(saga));
        Ok(())
    }

    /// Takes up what other tasks, other nodes and a process before this one left.
    async fn look(&mut self, batch: &mut Batch) -> Result<(), sqlx::Error> {
        let (db, shards) = (self.engine.db().clone(), self.shards());
        let limit = i64::try_from(ROUND).unwrap_or(1);
        for kept in store::inputs(&db, &shards, limit).await? {
            match serde_json::from_str(&kept.input) {
                Ok(input) => {
                    let reply = Reply::Kept(kept.id, kept.asked);
                    batch.items.push(Item { saga: kept.saga, input, reply });
                }
                Err(error) => {
                    tracing::error!(%error, saga = kept.saga, "an input of another version");
                }
            }
        }
        let room = HOT_MAX.saturating_sub(self.hot.len()).min(ROUND);
        let limit = i64::try_from(room).unwrap_or(0);
        let now = self.now_us();
        let due = store::due(&db, &shards, 1, now, limit).await?;
        let more = due.len() == room;
        for (_, saga) in due {
            if !self.hot.contains_key(&saga) {
                batch.items.push(Item { saga, input: Input::Tick, reply: Reply::Nobody });
            }
        }
        self.cold_us =
            if more && room > 0 { Some(now) } else { store::next_due(&db, &shards, now).await? };
        self.take_up(room, batch).await
    }

    /// Takes up to `room` sagas up that were under way in shards taken over.
    async fn take_up(&mut self, mut room: usize, batch: &mut Batch) -> Result<(), sqlx::Error> {
        while room > 0
            && let Some((shard, after)) = self.backlog.front_mut()
        {
            let limit = i64::try_from(room).unwrap_or(i64::MAX);
            let found = store::under_way(self.engine.db(), *shard, after, limit).await?;
            match found.last() {
                Some(last) if found.len() == room => after.clone_from(last),
                _ => drop(self.backlog.pop_front()),
            }
            room -= found.len();
            for saga in found.into_iter().filter(|saga| !self.hot.contains_key(saga)) {
                batch.items.push(Item { saga, input: Input::Tick, reply: Reply::Nobody });
            }
        }
        Ok(())
    }

    /// Timers of sagas in memory that are over.
    fn ring(&mut self, batch: &mut Batch) {
        let now = self.now_us();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, saga)) = self.timers.pop_first() else { break };
            if let Some(hot) = self.hot.get_mut(&saga) {
                hot.timer = None;
                batch.items.push(Item { saga, input: Input::Tick, reply: Reply::Nobody });
            }
        }
    }

    fn until_timer(&self) -> Duration {
        let first = self.timers.first().map(|(at, _)| *at).into_iter().chain(self.cold_us).min();
        let left = first.map_or(i64::MAX, |at| at - self.now_us());
        Duration::from_micros(u64::try_from(left).unwrap_or(0)).min(LOOK)
    }
}

fn is_unclear(input: &Input) -> bool {
    matches!(input, Input::Answer { answer: Answer::Unclear { .. }, .. })
}
