//! After a commit: callers are told, requests go out, what rests leaves memory.

use std::collections::HashSet;

use super::carry_out::carry_out;
use super::driver::{Batch, Driver, Reply};
use super::round::Work;
use super::{StartError, is_same};
use crate::store::{self, SagaRow};

impl Driver {
    /// After the commit: who waits is told, requests go out, what rests leaves memory.
    pub(super) async fn finish(&mut self, work: Work, batch: Batch) {
        self.count(&work);
        for (saga, request) in work.requests {
            let Some(hot) = self.hot.get_mut(&saga) else { continue };
            if hot.in_flight.insert(request.id()) {
                carry_out(self.engine.clone(), hot.row.clone(), request);
            }
        }
        let mut begun: HashSet<&String> = work.begun.iter().collect();
        let mut answers = Vec::with_capacity(batch.starts.len());
        for (row, reply) in batch.starts {
            let now = self.hot.get(&row.id).map(|hot| hot.row.clone());
            let answer = if begun.remove(&row.id) {
                Ok((now.unwrap_or(*row), true))
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
        for (item, answer) in batch.items.into_iter().zip(work.answers) {
            if let Reply::Caller(reply) = item.reply {
                let _ = reply.send(answer);
            }
        }
    }

    fn count(&self, work: &Work) {
        for (saga, moved) in &work.moved {
            let Some(hot) = self.hot.get(saga) else { continue };
            moved.iter().for_each(|transition| crate::metrics::transition(&hot.row, transition));
        }
        for (saga, _) in work.rested.iter().filter(|(_, ended)| *ended) {
            let Some(hot) = self.hot.get(saga) else { continue };
            crate::metrics::ended(&hot.row, self.now_us());
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
