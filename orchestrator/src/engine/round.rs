//! One round: many sagas moved, one transaction, then the requests.
//!
//! A round that the database cannot write because of what one of its sagas wants written is cut in
//! halves until that saga stands alone; it is set aside (`set_aside`), and all others have moved.

use std::collections::{BTreeMap, HashSet};

use bus::{Tx, signals};

use super::driver::{Batch, Driver, HOT_MAX, Hot, Item, Reply};
use super::round_error::RoundError;
use super::{InputError, StartError, StartReply, events};
use crate::planner::{self, Input, Moment, Refusal};
use crate::request::{Request, RequestId};
use crate::store::{self, SagaRow, UNDER_WAY};
use crate::transition::{Operation, Transition};

/// What a round found and has to do after its commit.
#[derive(Default)]
pub(super) struct Work {
    /// Transitions by saga.
    pub(super) moved: BTreeMap<String, Vec<Transition>>,
    pub(super) touched: HashSet<String>,
    /// Which were not there before.
    pub(super) begun: HashSet<String>,
    /// What came of the inputs, in their order.
    pub(super) answers: Vec<Result<(), InputError>>,
    pub(super) requests: Vec<(String, Request)>,
    pub(super) evicted: Vec<String>,
    /// Which have ended, or (false) are stuck.
    pub(super) rested: Vec<(String, bool)>,
    /// Whether its inputs are not taken: their saga is set aside.
    pub(super) sets_aside: bool,
}

impl Driver {
    /// Runs one round; false when some of it failed and is tried again.
    pub(super) async fn round(&mut self, batch: Batch) -> bool {
        if batch.is_empty() {
            return true;
        }
        let mut parts = vec![batch];
        while let Some(batch) = parts.pop() {
            let Err((batch, error)) = self.move_all(batch).await else { continue };
            let failed = match error.is_of_a_saga() {
                true => match batch.halves() {
                    Ok([first, second]) => {
                        parts.extend([second, first]);
                        continue;
                    }
                    Err(alone) => self.set_aside(alone, &error).await.err(),
                },
                false => Some((batch, error)),
            };
            if let Some((batch, error)) = failed {
                tracing::warn!(%error, "sagas could not be moved; they are taken up again");
                self.lost_lease |= matches!(error, RoundError::LostLease);
                // What ails one part ails the others.
                for batch in parts.into_iter().chain([batch]) {
                    self.try_again(batch, &error);
                }
                return false;
            }
        }
        true
    }

    /// Moves the sagas of a batch in one transaction.
    async fn move_all(&mut self, batch: Batch) -> Result<(), (Batch, RoundError)> {
        let started = std::time::Instant::now();
        let mut work = Work::default();
        match self.try_round(&batch, &mut work).await {
            Ok(()) => {
                crate::metrics::round(work.moved.len(), started.elapsed());
                self.finish(work, batch).await;
                Ok(())
            }
            Err(error) => {
                self.forget(&batch);
                Err((batch, error))
            }
        }
    }

    /// Outcome unknown, memory ahead of the journal: everything is read again.
    pub(super) fn forget(&mut self, batch: &Batch) {
        for id in batch.sagas() {
            if let Some(hot) = self.hot.remove(&id) {
                self.carried.entry(id).or_default().extend(hot.in_flight);
            }
        }
    }

    /// Who waits is told to come again, and answers of participants are taken in the next round. It looks
    /// at all these sagas: if the transaction was committed after all, nothing else would go on with them.
    /// A round of which some was another node's has surely not been, and is taken as it is.
    fn try_again(&mut self, mut batch: Batch, error: &RoundError) {
        if matches!(error, RoundError::LostLease) {
            // What is kept in the database is found there.
            batch.items.retain(|item| !matches!(item.reply, Reply::Kept(..)));
            self.again.append(batch);
            return;
        }
        for (row, reply) in batch.starts {
            let _ = reply.send(Err(StartError::Unavailable(error.to_string())));
            self.look_at.insert(row.id);
        }
        for Item { saga, input, reply } in batch.items {
            let comes_again = match reply {
                Reply::Caller(reply) => {
                    let _ = reply.send(Err(InputError::Unavailable(error.to_string())));
                    matches!(input, Input::Answer { .. })
                }
                Reply::Kept(..) => false, // It is still in the database, or was taken.
                Reply::Nobody => !matches!(input, Input::Tick),
            };
            match comes_again {
                true => self.again.items.push(Item { saga, input, reply: Reply::Nobody }),
                false => drop(self.look_at.insert(saga)),
            }
        }
    }

    async fn try_round(&mut self, batch: &Batch, work: &mut Work) -> Result<(), RoundError> {
        self.load(&batch.items).await?;
        let mut tx = self.engine.db().begin().await?;
        for id in self.insert(&mut tx, &batch.starts, work).await? {
            self.plan(&mut tx, &id, &Input::Start, work)?.ok();
        }
        for item in &batch.items {
            let answer = self.take_item(&mut tx, item, work)?;
            work.answers.push(answer);
        }
        self.write(&mut tx, &batch.items, work).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Loads the sagas that are not in memory.
    pub(super) async fn load(&mut self, items: &[Item]) -> Result<(), RoundError> {
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

    /// Writes new sagas; those that are in memory now and have not begun.
    pub(super) async fn insert(
        &mut self,
        tx: &mut Tx,
        starts: &[(Box<SagaRow>, StartReply)],
        work: &mut Work,
    ) -> Result<Vec<String>, RoundError> {
        let mut begins = Vec::new();
        if starts.is_empty() {
            return Ok(begins);
        }
        let mut seen = HashSet::new();
        let rows = starts.iter().map(|(row, _)| row.as_ref());
        let mut first: Vec<SagaRow> =
            rows.filter(|row| seen.insert(row.id.clone())).cloned().collect();
        let full = self.hot.len() + first.len() > HOT_MAX;
        // Whoever has them finds them when it looks.
        let later = |id: &str| full || !self.engine.is_ours(id);
        for row in first.iter_mut().filter(|row| later(&row.id)) {
            row.wake_us = row.created_us.max(1);
        }
        let inserted: HashSet<String> = store::insert(tx, &first).await?.into_iter().collect();
        for row in first.into_iter().filter(|row| inserted.contains(&row.id)) {
            if row.wake_us != UNDER_WAY {
                tx.wake(signals::SAGA);
                continue;
            }
            let id = row.id.clone();
            let state = self.engine.restore(&row, &[]).await?;
            let in_flight = HashSet::new();
            let hot = Hot { row, state, seq: 1, in_flight, timer: None, cancelled: HashSet::new() };
            self.hot.insert(id.clone(), hot);
            begins.push(id);
        }
        work.touched.extend(begins.iter().cloned());
        work.begun = inserted;
        Ok(begins)
    }

    fn take_item(
        &mut self,
        tx: &mut Tx,
        item: &Item,
        work: &mut Work,
    ) -> Result<Result<(), InputError>, RoundError> {
        let Some(hot) = self.hot.get_mut(&item.saga) else {
            return Ok(Err(InputError::NoSaga(item.saga.clone())));
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
        Ok(answer.map_err(InputError::from))
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
        }
        work.moved.entry(saga.to_owned()).or_default().extend(plan.transitions);
        Ok(Ok(()))
    }
}
