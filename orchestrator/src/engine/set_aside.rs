//! A saga that cannot be moved is set aside, so that it holds up nobody else: it is stuck until a person
//! retries it or gives it up.

use super::InputError;
use super::driver::{Batch, Driver};
use super::events;
use super::round::Work;
use super::round_error::RoundError;
use crate::planner::{self, Moment, Refusal};

impl Driver {
    /// Sets the one saga of a batch aside, whose inputs cannot be taken because of `error`.
    ///
    /// # Errors
    /// The batch, and why that cannot be written now either.
    pub(super) async fn set_aside(
        &mut self,
        batch: Batch,
        error: &RoundError,
    ) -> Result<(), (Batch, RoundError)> {
        let why = format!("it cannot be moved: {error}");
        let sagas = batch.sagas().into_iter().collect::<Vec<_>>().join(", ");
        let mut work = Work { sets_aside: true, ..Work::default() };
        if let Err(again) = self.try_to_set_aside(&batch, &why, &mut work).await {
            self.forget(&batch);
            if !again.is_of_a_saga() {
                return Err((batch, again));
            }
            // Not even that can be written, or what is there cannot be read: its inputs are left.
            tracing::error!(%error, %again, saga.id = sagas, "a saga can be neither moved nor set aside");
            work = Work::default();
            work.answers.extend(batch.items.iter().map(|_| refused(&why)));
        }
        self.finish(work, batch).await;
        Ok(())
    }

    async fn try_to_set_aside(
        &mut self,
        batch: &Batch,
        why: &str,
        work: &mut Work,
    ) -> Result<(), RoundError> {
        self.load(&batch.items).await?;
        let mut tx = self.engine.db().begin().await?;
        self.insert(&mut tx, &batch.starts, work).await?;
        let moment = Moment { at_us: self.now_us(), jitter: 0.0 };
        for saga in batch.sagas() {
            let Some(hot) = self.hot.get_mut(&saga) else { continue };
            work.touched.insert(saga.clone());
            let state = &mut hot.state;
            if state.set_aside || state.status.is_ended() {
                continue; // Only its input is refused.
            }
            let Ok(plan) = planner::set_aside(state, hot.seq > 1, why, moment) else { continue };
            for transition in &plan.transitions {
                // It may be its events that cannot be written.
                if let Err(error) = events::stage(&mut tx, &hot.row, &hot.state, transition) {
                    tracing::warn!(%error, saga.id = saga, "that a saga is stuck cannot be told");
                }
            }
            work.moved.entry(saga).or_default().extend(plan.transitions);
        }
        work.answers.extend(batch.items.iter().map(|_| refused(why)));
        self.write(&mut tx, &batch.items, work).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn refused(why: &str) -> Result<(), InputError> {
    Err(Refusal::Conflict(why.to_owned()).into())
}
