//! What a person may settle, and how often something was tried.

use std::time::Duration;

use orchestrator::planner::{Command, Refusal};
use orchestrator::{Answer, Operation, Status};
use serde_json::json;

use super::saga::Saga;

const TWO: &str = "
saga: s
steps:
  - { step: a, post: http://x/a, undo: { post: http://x/u } }
  - { step: b, post: http://x/b, undo: { post: http://x/u } }
";

fn skip(step: &str) -> Command {
    let (output, reason) = (Some(json!({"x": 1})), "by phone".to_owned());
    Command::Skip { step: step.to_owned(), output, reason }
}

#[test]
fn a_refused_step_cannot_be_skipped_while_the_saga_compensates() {
    let mut saga = Saga::start(TWO, &[]);
    saga.done("a", json!({}));
    saga.answer("b", Operation::Action, Answer::Refused("no".to_owned()));
    assert!(matches!(saga.person(skip("b")), Err(Refusal::Conflict(_))), "it compensates");
    saga.answer("a", Operation::Compensation, Answer::Refused("no".to_owned()));
    assert!(saga.is_stuck());
    assert!(matches!(saga.person(skip("b")), Err(Refusal::Conflict(_))), "it is stuck at that");
    saga.retry();
    saga.answer("a", Operation::Compensation, Answer::Done(json!(null)));
    assert_eq!(saga.state.status, Status::Compensated);
}

#[test]
fn an_attempt_counts_once_it_is_made() {
    let minute = Duration::from_secs(60);
    let unclear = || Answer::Unclear { error: "500".to_owned(), retry_after: Some(minute) };
    let attempts = |saga: &Saga| saga.state.cells["a"].half().attempts_at(saga.now_us);
    let mut saga = Saga::start(TWO, &[]);
    assert_eq!(attempts(&saga), 1, "under way");
    saga.answer("a", Operation::Action, unclear());
    assert_eq!(attempts(&saga), 1, "it waits for the second");
    saga.now_us += 61_000_000;
    assert_eq!(attempts(&saga), 2);
    saga.answer("a", Operation::Action, unclear());
    saga.retry();
    assert_eq!(attempts(&saga), 3, "a person had it made at once");
    saga.answer("a", Operation::Action, unclear());
    saga.late_done("a", json!({}));
    saga.now_us += 61_000_000;
    assert_eq!(attempts(&saga), 3, "the fourth was never made");
    saga.restart(&[]);
    assert_eq!(attempts(&saga), 3);
}
