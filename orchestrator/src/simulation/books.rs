//! Participants that keep books: what they were asked, what they answered, what is in effect.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::request::{Answer, Request};
use crate::transition::Operation;

/// The books of all participants, by step.
#[derive(Debug, Default)]
pub struct Books {
    /// What steps answer with, where it is not only their name.
    pub(super) outputs: BTreeMap<String, Value>,
    accounts: BTreeMap<String, Account>,
}

/// What one participant did for one step.
#[derive(Debug, Default)]
pub struct Account {
    effect: i64,
    /// The undo came before the action.
    blocked: bool,
    answers: HashMap<String, Answer>,
}

impl Books {
    /// How often a step is in effect: 0 or 1, where all is well.
    #[must_use]
    pub fn effect(&self, step: &str) -> i64 {
        self.accounts.get(step).map_or(0, |account| account.effect)
    }

    /// Does what is asked, once per key. With the barrier, an undo that comes before its action is
    /// done with nothing, and the action that comes after it is refused.
    pub(super) fn carry_out(&mut self, request: &Request, barrier: bool) -> Answer {
        let account = self.accounts.entry(request.step.clone()).or_default();
        let key = request.idempotency_key("walk");
        if let Some(known) = account.answers.get(&key) {
            return known.clone();
        }
        let step = request.step.split('.').next().unwrap_or_default();
        let output = self.outputs.get(step).cloned();
        let done = Answer::Done(output.unwrap_or_else(|| json!({ "id": request.step })));
        let answer = match request.operation {
            Operation::Action if barrier && account.blocked => {
                Answer::Refused("its undo came first".to_owned())
            }
            Operation::Action => {
                account.effect += 1;
                done
            }
            Operation::Compensation => {
                if account.effect > 0 {
                    account.effect -= 1;
                } else {
                    account.blocked = true;
                }
                done
            }
            Operation::Probe if account.effect > 0 => return done,
            Operation::Probe => {
                account.blocked = barrier;
                return Answer::Refused("it was never done".to_owned());
            }
        };
        account.answers.insert(key, answer.clone());
        answer
    }

    /// Refuses, unless the key has been answered already.
    pub(super) fn refuse(&mut self, request: &Request) -> Answer {
        let account = self.accounts.entry(request.step.clone()).or_default();
        let refused = Answer::Refused("refused".to_owned());
        if request.operation == Operation::Probe {
            return if account.effect > 0 { Answer::Done(json!({})) } else { refused };
        }
        account.answers.entry(request.idempotency_key("walk")).or_insert(refused).clone()
    }
}
