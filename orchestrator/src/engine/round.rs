//! One round: many sagas moved, one transaction, then the requests.

use std::collections::{BTreeMap, HashMap, HashSet};

use bus::{Tx, signals};

use super::driver::{Batch, Driver, HOT_MAX, Hot, Item, Reply};
use super::{Engine, InputError, Message, StartError, StartReply, events, is_same};
use crate::definition::Action;
use crate::lock;
use crate::planner::{self, Command, Input, Moment, Refusal};
use crate::request::{Answer, Call, Request, RequestId};
use crate::state::{Status, StepStatus};
use crate::store::{self, Frame, NEVER, SagaRow, UNDER_WAY};
use crate::transition::{Operation, Transition};

/// A saga that waits for a shorter time stays in memory.
const SHORT_US: i64 = 3_000_000;

/// What a round found and has to do after its commit.
#[derive(Default)]
struct Work {
    /// Transitions by saga.
    moved: BTreeMap<String, Vec<Transition>>,
    touched: HashSet<String>,
    /// Which were not there before.
    begun: HashSet<String>,
    replies: Vec<(Reply, Result<(), InputError>)>,
    requests: Vec<(String, Request)>,
    evicted: Vec<String>,
    /// Which have ended, or (false) are stuck.
    rested: Vec<(String, bool)>,
}

/// A round that did not commit.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("another node has taken over")]
    LostLease,
    #[error("an event cannot be staged: {0}")]
    Stage(#[from] bus::StageError),
}

impl Driver {
    /// Runs one round; false when it failed and everything is tried again.
    pub(super) async fn round(&mut self, batch: Batch) -> bool {
        let Batch { starts, mut items } = batch;
        let started = std::time::Instant::now();
        let mut work = Work::default();
        let ids: Vec<String> = items.iter().map(|item| item.saga.clone()).collect();
        let (rows, replies): (Vec<SagaRow>, Vec<StartReply>) =
            starts.into_iter().map(|(row, reply)| (*row, reply)).unzip();
        match self.try_round(&rows, &mut items, &mut work).await {
            Ok(()) => {
                crate::metrics::round(work.moved.len(), started.elapsed());
                let known: Vec<_> = replies.into_iter().zip(rows).collect();
                self.finish(work, known).await;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "sagas could not be moved; they are taken up again");
                self.lost_lease |= matches!(error, RoundError::LostLease);
                for reply in replies {
                    let _ = reply.send(Err(StartError::Unavailable(error.to_string())));
                }
                // Outcome unknown, memory ahead of the journal: everything is read again.
                for id in ids.iter().chain(work.touched.iter()).chain(work.moved.keys()) {
                    if let Some(hot) = self.hot.remove(id) {
                        let carried = self.carried.entry(id.clone()).or_default();
                        carried.extend(hot.in_flight);
                    }
                }
                let again = items.into_iter().filter_map(|item| match item.reply {
                    Reply::Caller(reply) => {
                        let _ = reply.send(Err(InputError::Unavailable(error.to_string())));
                        Some(Item { input: Input::Tick, reply: Reply::Nobody, ..item })
                    }
                    Reply::Kept(..) => None, // It is still in the database.
                    Reply::Nobody => Some(item),
                });
                self.again.extend(again);
                false
            }
        }
    }

    async fn try_round(
        &mut self,
        rows: &[SagaRow],
        items: &mut [Item],
        work: &mut Work,
    ) -> Result<(), RoundError> {
        self.load(items).await?;
        let mut tx = self.engine.db().begin().await?;
        self.take_starts(&mut tx, rows, work).await?;
        for item in items.iter_mut() {
            self.take_item(&mut tx, item, work)?;
        }
        self.write(&mut tx, work).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Loads the sagas that are not in memory.
    async fn load(&mut self, items: &[Item]) -> Result<(), RoundError> {
        let mut cold: Vec<String> = items
            .iter()
            .filter(|item| !self.hot.contains_key(&item.saga))
            .map(|item| item.saga.clone())
            .collect();
        cold.sort_unstable();
        cold.dedup();
        if cold.is_empty() {
            return Ok(());
        }
        let db = self.engine.db().clone();
        let rows = store::rows(&db, &cold).await?;
        let mut journals = store::journals(&db, &cold).await?;
        for row in rows {
            let journal = journals.remove(&row.id).unwrap_or_default();
            let state = match self.engine.restore(&row, &journal).await {
                Ok(state) => state,
                Err(error @ sqlx::Error::Decode(_)) => {
                    tracing::error!(%error, saga.id = row.id, "a saga cannot be read");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let seq = journal.last().map_or(1, |(seq, ..)| seq + 1);
            let in_flight = self.carried.remove(&row.id).unwrap_or_default();
            let id = row.id.clone();
            let hot = Hot { row, state, seq, in_flight, timer: None, cancelled: HashSet::new() };
            self.hot.insert(id, hot);
        }
        Ok(())
    }

    /// Writes new sagas and begins them.
    async fn take_starts(
        &mut self,
        tx: &mut Tx,
        rows: &[SagaRow],
        work: &mut Work,
    ) -> Result<(), RoundError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut seen = HashSet::new();
        let mut first: Vec<SagaRow> =
            rows.iter().filter(|row| seen.insert(row.id.clone())).cloned().collect();
        let full = self.hot.len() + first.len() > HOT_MAX;
        if full {
            first.iter_mut().for_each(|row| row.wake_us = row.created_us);
        }
        let inserted: HashSet<String> = store::insert(tx, &first).await?.into_iter().collect();
        for row in first.into_iter().filter(|row| inserted.contains(&row.id)) {
            crate::metrics::started(&row.definition);
            if full {
                tx.wake(signals::SAGA);
                continue;
            }
            let id = row.id.clone();
            let state = self.engine.restore(&row, &[]).await?;
            let in_flight = HashSet::new();
            let hot = Hot { row, state, seq: 1, in_flight, timer: None, cancelled: HashSet::new() };
            self.hot.insert(id.clone(), hot);
            self.plan(tx, &id, &Input::Start, work)?.ok();
        }
        work.touched.extend(inserted.iter().cloned());
        work.begun = inserted;
        Ok(())
    }

    fn take_item(
        &mut self,
        tx: &mut Tx,
        item: &mut Item,
        work: &mut Work,
    ) -> Result<(), RoundError> {
        let reply = std::mem::replace(&mut item.reply, Reply::Nobody);
        let Some(hot) = self.hot.get_mut(&item.saga) else {
            work.replies.push((reply, Err(InputError::NoSaga(item.saga.clone()))));
            return Ok(());
        };
        if let Input::Answer { request, .. } = &item.input {
            hot.in_flight.remove(request);
        }
        if let Input::Locked { lock } = &item.input {
            let operation = Operation::Action;
            hot.in_flight.remove(&RequestId { step: format!("lock:{lock}"), operation, round: 1 });
        }
        if hot.seq == 1 && !work.moved.contains_key(&item.saga) {
            let id = item.saga.clone();
            self.plan(tx, &id, &Input::Start, work)?.ok();
        }
        let answer = self.plan(tx, &item.saga, &item.input, work)?;
        work.replies.push((reply, answer.map_err(InputError::from)));
        Ok(())
    }

    /// Lets the planner move one saga.
    fn plan(
        &mut self,
        tx: &mut Tx,
        saga: &str,
        input: &Input,
        work: &mut Work,
    ) -> Result<Result<(), Refusal>, RoundError> {
        let moment = Moment { at_us: self.now_us(), jitter: rand::random() };
        let Some(hot) = self.hot.get_mut(saga) else { return Ok(Ok(())) };
        work.touched.insert(saga.to_owned());
        let plan = match planner::take(&mut hot.state, input, moment) {
            Ok(plan) => plan,
            Err(error) => {
                if let Refusal::Illegal(illegal) = &error {
                    tracing::error!(%illegal, saga.id = saga, "a saga cannot be moved");
                    self.hot.remove(saga);
                    work.moved.remove(saga);
                }
                return Ok(Err(error));
            }
        };
        for (request, call) in &plan.published {
            events::stage_publication(tx, &hot.row, request, call)?;
        }
        for transition in &plan.transitions {
            events::stage(tx, &hot.row, &hot.state, transition)?;
            crate::metrics::transition(&hot.row, &hot.state, transition);
        }
        work.moved.entry(saga.to_owned()).or_default().extend(plan.transitions);
        Ok(Ok(()))
    }

    /// Writes everything that moved.
    async fn write(&mut self, tx: &mut Tx, work: &mut Work) -> Result<(), RoundError> {
        let now = self.now_us();
        let mut frames = Vec::with_capacity(work.moved.len());
        for (saga, transitions) in work.moved.iter().filter(|(_, moved)| !moved.is_empty()) {
            let fence = self.fence(saga).ok_or(RoundError::LostLease)?;
            let Some(hot) = self.hot.get_mut(saga) else { continue };
            let entries = serde_json::to_string(transitions).unwrap_or_default();
            let shard = store::shard_of(saga);
            frames.push(Frame { saga: saga.clone(), seq: hot.seq, entries, shard, fence });
            hot.seq += 1;
        }
        if !store::append(tx, &frames, now).await? {
            return Err(RoundError::LostLease);
        }
        let mut marks: HashMap<(Status, i64, bool), Vec<String>> = HashMap::new();
        let mut kept = Vec::new();
        let (mut waiting, mut waits) = (Vec::new(), Vec::new());
        let mut touched: Vec<String> = work.touched.iter().cloned().collect();
        touched.sort_unstable();
        for saga in &touched {
            let moved = work.moved.get(saga).is_some_and(|moved| !moved.is_empty());
            let Some(hot) = self.hot.get_mut(saga) else { continue };
            let requests: Vec<Request> = hot.state.requests(now);
            let fresh = requests.into_iter().filter(|r| !hot.in_flight.contains(&r.id()));
            work.requests.extend(fresh.map(|request| (saga.clone(), request)));
            let asks = work.requests.last().is_some_and(|(of, _)| of == saga);
            let status = hot.state.status;
            let wake = hot.state.wake_us(now);
            let wake_us = match (status.is_ended(), asks || !hot.in_flight.is_empty(), wake) {
                (true, ..) => NEVER,
                (false, true, _) => UNDER_WAY,
                (false, false, wake) => wake.map_or(NEVER, |wake| wake.max(1)),
            };
            if (status, wake_us) != (hot.row.status, hot.row.wake_us) {
                let ended = status.is_ended();
                marks.entry((status, wake_us, ended)).or_default().push(saga.clone());
                if (ended || status == Status::Stuck) && status != hot.row.status {
                    work.rested.push((saga.clone(), ended));
                }
                if ended && !hot.row.status.is_ended() {
                    crate::metrics::ended(&hot.row, status, now);
                    kept.extend(answer_to_parent(hot));
                    if hot.state.uses_locks() {
                        lock::release(tx, saga).await?;
                    }
                }
                (hot.row.status, hot.row.wake_us) = (status, wake_us);
            }
            if moved && hot.state.start.definition.waits_for_events() {
                let (known, all) = waits_of(hot);
                // Where a key cannot be filled in any more, the row that has it stays.
                waiting.extend(all.then(|| saga.clone()));
                waits.extend(known);
            }
            cancel_children(hot, &mut kept);
            let rests = wake_us != UNDER_WAY && wake_us > now.saturating_add(SHORT_US);
            if rests || wake_us == NEVER {
                work.evicted.push(saga.clone());
                let cold = self.cold_us.unwrap_or(NEVER).min(wake_us);
                self.cold_us = Some(cold).filter(|cold| *cold != NEVER);
            } else {
                let timer = wake.map(|wake| wake.max(now + 1));
                if let Some(old) = std::mem::replace(&mut hot.timer, timer) {
                    self.timers.remove(&(old, saga.clone()));
                }
                self.timers.extend(timer.map(|timer| (timer, saga.clone())));
            }
        }
        for ((status, wake_us, ended), ids) in marks {
            store::mark(tx, &ids, status, wake_us, ended.then_some(now)).await?;
        }
        store::wait_for_events(tx, &waiting, &waits).await?;
        if !work.rested.is_empty() {
            tx.wake(signals::SAGA_ENDED);
        }
        if !kept.is_empty() {
            store::keep(tx, &kept).await?;
        }
        self.settle_kept(tx, work).await
    }

    /// Inputs that came over the database are gone with what followed from them.
    async fn settle_kept(&self, tx: &mut Tx, work: &Work) -> Result<(), RoundError> {
        let mut taken = Vec::new();
        for (reply, answer) in &work.replies {
            if let Reply::Kept(id, asked) = reply {
                taken.push((*id, asked.then(|| write_answer(answer))));
                if *asked {
                    tx.wake(signals::SAGA_ENDED);
                }
            }
        }
        Ok(store::taken(tx, &taken).await?)
    }

    /// After the commit: who waits is told, requests go out, what rests leaves memory.
    async fn finish(&mut self, work: Work, starts: Vec<(StartReply, SagaRow)>) {
        for (saga, request) in work.requests {
            let Some(hot) = self.hot.get_mut(&saga) else { continue };
            if hot.in_flight.insert(request.id()) {
                carry_out(self.engine.clone(), hot.row.clone(), request);
            }
        }
        let mut begun: HashSet<&String> = work.begun.iter().collect();
        let mut answers = Vec::with_capacity(starts.len());
        for (reply, row) in starts {
            let now = self.hot.get(&row.id).map(|hot| hot.row.clone());
            let answer = if begun.remove(&row.id) {
                Ok((now.unwrap_or(row), true))
            } else {
                self.existing(&row).await
            };
            answers.push((reply, answer));
        }
        for saga in work.evicted {
            if let Some(hot) = self.hot.remove(&saga)
                && let Some(timer) = hot.timer
            {
                self.timers.remove(&(timer, saga));
            }
        }
        for saga in work.rested {
            self.engine.shared().waiters.tell(&saga.0, saga.1);
        }
        for (reply, answer) in answers {
            let _ = reply.send(answer); // The caller may have gone.
        }
        for (reply, answer) in work.replies {
            if let Reply::Caller(reply) = reply {
                let _ = reply.send(answer);
            }
        }
    }

    async fn existing(&self, wanted: &SagaRow) -> Result<(SagaRow, bool), StartError> {
        let known = match self.hot.get(&wanted.id) {
            Some(hot) => Some(hot.row.clone()),
            None => store::rows(self.engine.db(), std::slice::from_ref(&wanted.id)).await?.pop(),
        };
        match known {
            Some(known) if is_same(&known, wanted) => Ok((known, false)),
            Some(known) => Err(StartError::Conflict(known.id)),
            None => Err(StartError::Unavailable("the saga is gone again".to_owned())),
        }
    }
}

/// Carries out one request in a task of its own; the answer comes back as an input.
fn carry_out(engine: Engine, row: SagaRow, request: Request) {
    tokio::spawn(async move {
        let id = request.id();
        let shared = engine.shared();
        let now_s = shared.db.clock().now().as_micros() / 1_000_000;
        let input = match request.call.as_ref() {
            Call::Lock(name) => match lock::take(&shared.db, name, &row.id).await {
                Ok(true) => Input::Locked { lock: name.clone() },
                // It stands in the queue; whoever lets go leaves an input.
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, lock = name, "taking a lock");
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    // Asked for again, since nothing has answered it.
                    Input::Answer { request: id, answer: Answer::unclear(error.to_string()) }
                }
            },
            Call::Unfilled(error) => {
                Input::Answer { request: id, answer: Answer::Unfilled(error.clone()) }
            }
            Call::Child { definition, input } => {
                let answer = run_child(&engine, &row, &request, definition, input).await;
                Input::Answer { request: id, answer }
            }
            _ => {
                let started = std::time::Instant::now();
                let answer = shared.participants.carry_out(&row, &request, now_s).await;
                crate::metrics::step(&row.definition, &request, started.elapsed());
                let Some(answer) = answer else { return };
                Input::Answer { request: id, answer }
            }
        };
        let message = Message::Input { saga: row.id, input, reply: None };
        let _ = shared.inbox.send(message).await; // The engine may have stopped.
    });
}

/// Starts a child, once; its end comes as an input of its parent.
async fn run_child(
    engine: &Engine,
    row: &SagaRow,
    request: &Request,
    definition: &str,
    input: &serde_json::Value,
) -> Answer {
    let new = super::NewSaga {
        definition: definition.to_owned(),
        id: Some(child_id(&row.id, &request.id())),
        input: input.clone(),
        by: format!("saga:{}", row.id),
        parent: Some((row.id.clone(), request.id())),
        traceparent: row.traceparent.clone(),
    };
    match engine.start(new).await {
        Ok((child, false)) if child.status.is_ended() => match engine.read(&child.id).await {
            Ok(Some(told)) => answer_of(&told.state),
            Ok(None) => Answer::unclear("the child is gone"),
            Err(error) => Answer::unclear(error.to_string()),
        },
        Ok(_) => Answer::Later,
        Err(error) => Answer::unclear(error.to_string()),
    }
}

/// The id of a child: the parent's, the step and what else tells the request from others.
fn child_id(parent: &str, request: &RequestId) -> String {
    let step = &request.step;
    let id = match (request.operation, request.round) {
        (Operation::Action, 1) => format!("{parent}:{step}"),
        (operation, round) => format!("{parent}:{step}:{}:{round}", operation.as_str()),
    };
    if id.len() <= crate::name::NAME_BYTES_MAX {
        return id;
    }
    let hash = |salt: u64| {
        id.bytes().fold(0xcbf2_9ce4_8422_2325_u64 ^ salt, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    format!("child:{:016x}{:016x}", hash(0), hash(1))
}

fn answer_of(state: &crate::state::State) -> Answer {
    let error = || state.error.clone().unwrap_or_else(|| state.status.as_str().to_owned());
    match state.status {
        Status::Completed => {
            Answer::Done(state.output.as_ref().map_or(serde_json::Value::Null, |o| (**o).clone()))
        }
        Status::Compensated | Status::Cancelled => Answer::Refused(error()),
        Status::Abandoned | Status::Running | Status::Compensating | Status::Stuck => {
            Answer::unclear(format!("the child is {}", state.status.as_str()))
        }
    }
}

type Kept = (String, String, Option<String>);

fn answer_to_parent(hot: &Hot) -> Option<Kept> {
    let (parent, request) = hot.row.parent.as_ref()?;
    let request: RequestId = serde_json::from_str(request).ok()?;
    let input = Input::Answer { request, answer: answer_of(&hot.state) };
    Some((parent.clone(), serde_json::to_string(&input).unwrap_or_default(), None))
}

/// A saga that compensates has its children cancelled, each once.
fn cancel_children(hot: &mut Hot, kept: &mut Vec<Kept>) {
    if hot.state.status != Status::Compensating {
        return;
    }
    for (name, cell) in &hot.state.cells {
        let Some((at, _)) = hot.state.find(name) else { continue };
        let child = matches!(hot.state.start.definition.steps[at].action, Action::Child(_));
        let runs = cell.status() == StepStatus::Acting && cell.half().waits;
        if child && runs && hot.cancelled.insert(name.clone()) {
            let request = RequestId {
                step: name.clone(),
                operation: Operation::Action,
                round: cell.half().round,
            };
            let by = format!("saga:{}", hot.row.id);
            let input = Input::Operator { command: Command::Cancel { reason: None }, by };
            let input = serde_json::to_string(&input).unwrap_or_default();
            kept.push((child_id(&hot.row.id, &request), input, None));
        }
    }
}

/// Which events a saga waits for, and whether these are all.
fn waits_of(hot: &Hot) -> (Vec<store::EventWait>, bool) {
    if hot.state.status != Status::Running {
        return (Vec::new(), true);
    }
    let wait = |(step, key): (String, Option<String>)| {
        Some(store::EventWait {
            definition: hot.row.definition.clone(),
            version: hot.row.version,
            step,
            key: key?,
            saga: hot.row.id.clone(),
        })
    };
    let waits = hot.state.event_waits();
    let of = waits.len();
    let known: Vec<_> = waits.into_iter().filter_map(wait).collect();
    let all = known.len() == of;
    (known, all)
}

/// An answer on its way over the database.
fn write_answer(answer: &Result<(), InputError>) -> String {
    let (kind, detail) = match answer {
        Ok(()) => ("ok", String::new()),
        Err(InputError::NoSaga(saga)) => ("no_saga", saga.clone()),
        Err(InputError::Refused(Refusal::NoStep(step))) => ("no_step", step.clone()),
        Err(InputError::Refused(error)) => ("conflict", error.to_string()),
        Err(error) => ("unavailable", error.to_string()),
    };
    serde_json::json!([kind, detail]).to_string()
}

pub(super) fn read_answer(text: &str) -> Result<(), InputError> {
    let (kind, detail): (String, String) = serde_json::from_str(text).unwrap_or_default();
    match kind.as_str() {
        "ok" => Ok(()),
        "no_saga" => Err(InputError::NoSaga(detail)),
        "no_step" => Err(Refusal::NoStep(detail).into()),
        "conflict" => Err(Refusal::Conflict(detail).into()),
        _ => Err(InputError::Unavailable(detail)),
    }
}
