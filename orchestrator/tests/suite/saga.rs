//! A saga without a world: what it asks for is answered by the test.

use std::collections::BTreeMap;
use std::sync::Arc;

use orchestrator::planner::{self, Command, Input, Moment, Refusal};
use orchestrator::{Answer, Definition, Operation, RequestCall, Start, State, Status, StepStatus};
use orchestrator::{RequestId, Transition};
use serde_json::{Value, json};

/// It and its journal, on a clock that the test turns.
pub(crate) struct Saga {
    start: Start,
    pub(crate) state: State,
    journal: Vec<(i64, Transition)>,
    pub(crate) now_us: i64,
}

impl Saga {
    pub(crate) fn start(source: &str, env: &[(&str, &str)]) -> Saga {
        let definition = Definition::of_yaml(source).unwrap_or_else(|faults| panic!("{faults}"));
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let start = Start {
            id: "one".to_owned(),
            definition: Arc::new(definition),
            input: Arc::new(json!({})),
            env: Arc::new(env.collect()),
            created_us: 1,
        };
        let state = State::new(start.clone());
        let mut saga = Saga { start, state, journal: Vec::new(), now_us: 1 };
        saga.take(&Input::Start);
        saga
    }

    pub(crate) fn try_take(&mut self, input: &Input) -> Result<(), Refusal> {
        let moment = Moment { at_us: self.now_us, jitter: 0.5 };
        let plan = planner::take(&mut self.state, input, moment)?;
        self.journal.extend(plan.transitions.into_iter().map(|entry| (self.now_us, entry)));
        Ok(())
    }

    pub(crate) fn take(&mut self, input: &Input) {
        self.try_take(input).unwrap();
    }

    pub(crate) fn person(&mut self, command: Command) -> Result<(), Refusal> {
        self.try_take(&Input::Operator { command, by: "ann".to_owned() })
    }

    pub(crate) fn retry(&mut self) {
        self.person(Command::Retry { reason: None }).unwrap();
    }

    /// Answers the one request that it wants; those that cannot be filled in answer themselves.
    pub(crate) fn answer(&mut self, step: &str, operation: Operation, answer: Answer) {
        let wanted = self.state.requests(self.now_us);
        let ids: Vec<RequestId> = wanted.iter().map(orchestrator::Request::id).collect();
        let id = ids.iter().find(|id| id.step == step && id.operation == operation);
        let request = id.unwrap_or_else(|| panic!("{step} is not asked for: {ids:?}")).clone();
        self.take(&Input::Answer { request, answer });
    }

    pub(crate) fn done(&mut self, step: &str, output: Value) {
        self.answer(step, Operation::Action, Answer::Done(output));
    }

    /// The answer of an attempt before, when the next one is not yet due.
    pub(crate) fn late_done(&mut self, step: &str, output: Value) {
        let (step, operation) = (step.to_owned(), Operation::Action);
        let request = RequestId { step, operation, round: 1 };
        self.take(&Input::Answer { request, answer: Answer::Done(output) });
    }

    /// As the engine does it with what cannot be filled in.
    pub(crate) fn settle(&mut self) {
        for request in self.state.requests(self.now_us) {
            if let RequestCall::Unfilled(error) = request.call.as_ref() {
                let (request, answer) = (request.id(), Answer::Unfilled(error.clone()));
                self.take(&Input::Answer { request, answer });
            }
        }
    }

    /// Another process, with another environment, reads its journal.
    pub(crate) fn restart(&mut self, env: &[(&str, &str)]) {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.start.env = Arc::new(env.collect::<BTreeMap<_, _>>());
        let journal = self.journal.iter().map(|(at, entry)| (*at, entry));
        self.state = State::of_journal(self.start.clone(), journal).unwrap();
        self.take(&Input::Tick);
    }

    pub(crate) fn status(&self, step: &str) -> StepStatus {
        self.state.cells.get(step).map_or(StepStatus::Waiting, orchestrator::Cell::status)
    }

    /// Stuck, with nothing on its way.
    pub(crate) fn is_stuck(&mut self) -> bool {
        self.state.status == Status::Stuck && self.state.requests(self.now_us).is_empty()
    }
}
