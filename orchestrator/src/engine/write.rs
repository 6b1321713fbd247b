//! Writes what a round has moved: journals, statuses, what sagas wait for, inputs for others.

use std::collections::{BTreeMap, HashMap};

use bus::{Tx, signals};

use super::carry_out::{answer_of, child_id};
use super::driver::{Driver, Hot, Item, Reply};
use super::round::Work;
use super::round_error::RoundError;
use super::{kept_answer, shards};
use crate::definition::Action;
use crate::lock;
use crate::planner::{Command, Input};
use crate::request::{Request, RequestId};
use crate::state::{Status, StepStatus};
use crate::store::{self, Frame, NEVER, UNDER_WAY};
use crate::transition::Operation;

/// A saga that waits for a shorter time stays in memory.
const SHORT_US: i64 = 3_000_000;

/// What a round writes beside journals.
#[derive(Default)]
struct Rows {
    /// Sagas that share a status, a time of waking, and whether they have ended.
    marks: HashMap<(Status, i64, bool), Vec<String>>,
    /// Inputs for other sagas.
    kept: Vec<Kept>,
    /// Sagas whose waits for events are said anew, and those.
    waiting: Vec<String>,
    waits: Vec<store::EventWait>,
    /// Sagas that have ended and had locks.
    lets_go: Vec<String>,
    /// Sagas that are not stuck any more.
    goes_on: Vec<String>,
}

impl Driver {
    /// Writes everything that moved.
    pub(super) async fn write(
        &mut self,
        tx: &mut Tx,
        items: &[Item],
        work: &mut Work,
    ) -> Result<(), RoundError> {
        self.hold(tx, items, work).await?;
        let now = self.now_us();
        let mut frames = Vec::with_capacity(work.moved.len());
        for (saga, transitions) in work.moved.iter().filter(|(_, moved)| !moved.is_empty()) {
            let Some(hot) = self.hot.get_mut(saga) else { continue };
            let entries = serde_json::to_string(transitions).unwrap_or_default();
            frames.push(Frame { saga: saga.clone(), seq: hot.seq, entries });
            hot.seq += 1;
        }
        store::append(tx, &frames, now).await?;
        let mut rows = Rows::default();
        let mut touched: Vec<String> = work.touched.iter().cloned().collect();
        touched.sort_unstable();
        for saga in touched {
            self.settle(saga, now, work, &mut rows);
        }
        for ((status, wake_us, ended), ids) in rows.marks {
            store::mark(tx, &ids, status, wake_us, ended.then_some(now)).await?;
        }
        lock::release(tx, &rows.lets_go).await?;
        store::wait_for_events(tx, &rows.waiting, &rows.waits).await?;
        if !work.rested.is_empty() {
            tx.wake(signals::SAGA_ENDED);
        }
        if !rows.kept.is_empty() {
            store::keep(tx, &rows.kept).await?;
        }
        store::take_up_inputs(tx, &rows.goes_on).await?;
        self.settle_kept(tx, items, work).await
    }

    /// Holds the shards of all that the round is about until it has committed.
    async fn hold(&self, tx: &mut Tx, items: &[Item], work: &Work) -> Result<(), RoundError> {
        let sagas = work.touched.iter().chain(items.iter().map(|item| &item.saga));
        let fence = |saga: &String| Some((store::shard_of(saga), self.engine.fence(saga)?));
        let fences: Option<BTreeMap<i64, i64>> = sagas.map(fence).collect();
        match fences {
            Some(fences) if shards::hold(tx, &fences).await? => Ok(()),
            _ => Err(RoundError::LostLease),
        }
    }

    /// What is to be written of one saga beside its journal, and what it asks for.
    fn settle(&mut self, saga: String, now: i64, work: &mut Work, rows: &mut Rows) {
        let moved = work.moved.get(&saga).is_some_and(|moved| !moved.is_empty());
        let Some(hot) = self.hot.get_mut(&saga) else { return };
        let requests: Vec<Request> = hot.state.requests(now);
        let fresh = requests.into_iter().filter(|r| !hot.in_flight.contains(&r.id()));
        work.requests.extend(fresh.map(|request| (saga.clone(), request)));
        let asks = work.requests.last().is_some_and(|(of, _)| *of == saga);
        let (status, before) = (hot.state.status, hot.row.status);
        let wake = hot.state.wake_us(now);
        let wake_us = match (status.is_ended(), asks || !hot.in_flight.is_empty(), wake) {
            (true, ..) => NEVER,
            (false, true, _) => UNDER_WAY,
            (false, false, wake) => wake.map_or(NEVER, |wake| wake.max(1)),
        };
        if (status, wake_us) != (before, hot.row.wake_us) {
            let ended = status.is_ended();
            rows.marks.entry((status, wake_us, ended)).or_default().push(saga.clone());
            if (ended || status == Status::Stuck) && status != before {
                work.rested.push((saga.clone(), ended));
            }
            if ended && !before.is_ended() {
                rows.kept.extend(answer_to_parent(hot));
                rows.lets_go.extend(hot.state.uses_locks().then(|| saga.clone()));
            }
            if before == Status::Stuck && status != before {
                rows.goes_on.push(saga.clone());
            }
            (hot.row.status, hot.row.wake_us) = (status, wake_us);
        }
        if moved && hot.state.start.definition.waits_for_events() {
            let (known, all) = waits_of(hot);
            // Where a key cannot be filled in any more, the row that has it stays.
            rows.waiting.extend(all.then(|| saga.clone()));
            rows.waits.extend(known);
        }
        cancel_children(hot, &mut rows.kept);
        let rests = wake_us != UNDER_WAY && wake_us > now.saturating_add(SHORT_US);
        if rests || wake_us == NEVER {
            work.evicted.push(saga);
            let cold = self.cold_us.unwrap_or(NEVER).min(wake_us);
            self.cold_us = Some(cold).filter(|cold| *cold != NEVER);
        } else {
            let timer = wake.map(|wake| wake.max(now + 1));
            if let Some(old) = std::mem::replace(&mut hot.timer, timer) {
                self.timers.remove(&(old, saga.clone()));
            }
            self.timers.extend(timer.map(|timer| (timer, saga)));
        }
    }

    /// Inputs that came over the database are gone with what followed from them.
    async fn settle_kept(
        &self,
        tx: &mut Tx,
        items: &[Item],
        work: &Work,
    ) -> Result<(), RoundError> {
        let mut taken = Vec::new();
        for (item, answer) in items.iter().zip(&work.answers) {
            if let Reply::Kept(id, asked) = &item.reply {
                // One that is set aside with its saga has an answer, and comes again with a retry.
                let stays = *asked || work.sets_aside;
                taken.push((*id, stays.then(|| kept_answer::write(answer))));
                if *asked {
                    tx.wake(signals::SAGA_ENDED);
                }
            }
        }
        Ok(store::taken(tx, &taken).await?)
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
