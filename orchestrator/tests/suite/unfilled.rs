//! Expressions that give nothing: when a step begins, when it is asked for again, and at the end.

use orchestrator::planner::{Command, Input};
use orchestrator::{Answer, Operation, Status, StepStatus};
use serde_json::{Value, json};

use super::saga::Saga;

const PAST_THE_POINT: &str = "
saga: s
steps:
  - { step: p, post: http://x/p, no_undo: x, point_of_no_return: true }
  - { step: z, post: http://x/z, no_undo: y, body: \"{{ steps.p.output.nope }}\" }
";

#[test]
fn a_retry_of_what_still_cannot_be_filled_in_is_stuck_again() {
    let mut saga = Saga::start(PAST_THE_POINT, &[]);
    saga.done("p", json!({}));
    assert!(saga.is_stuck());
    for _ in 0..2 {
        saga.retry();
        assert!(saga.is_stuck());
        assert_eq!(saga.status("z"), StepStatus::Refused, "nobody was asked");
        saga.restart(&[]);
        assert!(saga.is_stuck());
    }
    let undo = "
saga: s
steps:
  - { step: a, post: http://x/a, undo: { post: http://x/u, body: '{{ input.nope }}' } }
  - { step: b, post: http://x/b, undo: { post: http://x/u } }
";
    let mut saga = Saga::start(undo, &[]);
    saga.done("a", json!({}));
    saga.answer("b", Operation::Action, Answer::Refused("no".to_owned()));
    assert!(saga.is_stuck());
    saga.retry();
    assert!(saga.is_stuck());
    saga.restart(&[]);
    assert!(saga.is_stuck());
}

const ENVIRONMENT: &str = "
saga: s
steps:
  - { step: a, post: '{{ env.PAY }}/a', undo: { post: '{{ env.PAY }}/u' } }
  - { step: b, post: http://x/b, undo: { post: http://x/u } }
";

#[test]
fn a_variable_that_is_gone_after_a_restart_needs_a_person_and_undoes_nothing() {
    let pay = [("PAY", "http://x")];
    let mut saga = Saga::start(ENVIRONMENT, &pay);
    saga.answer("a", Operation::Action, Answer::unclear("500"));
    saga.restart(&[]);
    saga.now_us += 1_000_000; // The back-off is over.
    saga.settle();
    assert!(saga.is_stuck());
    assert!(saga.state.error.as_ref().unwrap().contains("env.PAY"), "{:?}", saga.state.error);
    saga.retry();
    assert!(saga.is_stuck(), "it is still not there");
    saga.restart(&pay);
    saga.retry();
    saga.done("a", json!({}));
    saga.answer("b", Operation::Action, Answer::Refused("no".to_owned()));
    assert_eq!(saga.status("a"), StepStatus::Undoing);
    saga.restart(&[]);
    saga.settle();
    assert!(saga.is_stuck());
    saga.restart(&pay);
    saga.retry();
    saga.answer("a", Operation::Compensation, Answer::Done(Value::Null));
    assert_eq!(saga.state.status, Status::Compensated);
}

#[test]
fn while_it_compensates_what_cannot_be_asked_again_counts_as_unknown() {
    let mut saga = Saga::start(ENVIRONMENT, &[("PAY", "http://x")]);
    saga.person(Command::Cancel { reason: None }).unwrap();
    saga.restart(&[]);
    saga.settle();
    assert!(saga.is_stuck(), "its undo cannot be filled in either");
    saga.person(Command::Skip { step: "a".to_owned(), output: None, reason: "x".to_owned() })
        .unwrap();
    assert_eq!(saga.state.status, Status::Cancelled);
}

#[test]
fn what_is_asked_of_nobody_outside_follows_a_retry_too() {
    let source = "
saga: s
steps:
  - { step: p, post: http://x/p, no_undo: x, point_of_no_return: true }
  - { step: w, wait_for: { signal: go, timeout: 1s } }
  - { step: say, publish: com.acme.said, body: '{{ env.WORD }}', no_undo: said }
";
    let mut saga = Saga::start(source, &[]);
    saga.done("p", json!({}));
    saga.now_us += 2_000_000;
    saga.take(&Input::Tick);
    assert!(saga.is_stuck(), "past the point a wait that is over needs a person");
    saga.retry();
    assert!(saga.state.requests(saga.now_us).is_empty(), "it waits again");
    saga.take(&Input::Signal { name: "go".to_owned(), body: json!({}) });
    assert!(saga.is_stuck(), "there is no word");
    saga.restart(&[("WORD", "hello")]);
    saga.retry();
    assert_eq!(saga.state.status, Status::Completed);
}

#[test]
fn an_output_that_cannot_be_filled_in_undoes_only_what_can_all_be_undone() {
    let source = |last: &str| {
        let first = "{ step: a, post: http://x/a, undo: { post: http://x/u } }";
        format!("saga: s\nsteps:\n  - {first}\n{last}output: '{{{{ steps.a.output.id }}}}'\n")
    };
    let said = "  - { step: b, publish: com.acme.said, no_undo: said }\n";
    let paid = "  - { step: b, post: http://x/b, no_undo: paid, point_of_no_return: true }\n";
    let maybe = "  - { step: b, publish: com.acme.said, no_undo: said, when: false }\n";
    for (last, status) in [
        ("", Status::Compensating),
        (maybe, Status::Compensating),
        (said, Status::Completed),
        (paid, Status::Completed),
    ] {
        let mut saga = Saga::start(&source(last), &[]);
        saga.done("a", json!({}));
        if last == paid {
            saga.done("b", json!({}));
        }
        assert_eq!(saga.state.status, status, "{last}");
        let told = saga.state.error.clone().unwrap();
        assert!(told.contains("output: ") && told.contains("steps.a.output.id"), "{told}");
        saga.restart(&[]);
        assert_eq!(saga.state.error, Some(told), "it stands on the journal");
    }
}

#[test]
fn locks_that_it_has_are_not_read_again() {
    let source = "
saga: s
lock: ['{{ env.WHO }}']
steps:
  - { step: p, post: http://x/p, no_undo: x, point_of_no_return: true }
  - { step: z, post: http://x/z, no_undo: y }
";
    let mut saga = Saga::start(source, &[("WHO", "ann")]);
    saga.take(&Input::Locked { lock: "ann".to_owned() });
    saga.done("p", json!({}));
    saga.restart(&[]);
    saga.done("z", json!({}));
    assert_eq!(saga.state.status, Status::Completed);
}

#[test]
fn what_no_database_and_no_log_takes_is_not_begun() {
    let saga = |step: &str, env: &str| {
        let first = "{ step: a, post: http://x/a, undo: { post: http://x/u } }";
        let source = format!("saga: s\nsteps:\n  - {first}\n  - {{ step: b, {step} }}\n");
        let mut saga = Saga::start(&source, &[("K", env)]);
        saga.done("a", json!({}));
        saga
    };
    let publish = "publish: com.acme.x, subject: '{{ env.K }}', no_undo: said";
    let wait = "wait_for: { event: com.acme.x, key: '{{ env.K }}' }";
    let long = "k".repeat(1_025);
    for (step, env, told) in [
        (publish, "a\nb", "must not contain U+000A"),
        (wait, "a\0b", "at most 1024 bytes long and without NUL"),
        (wait, &long, "at most 1024 bytes long and without NUL"),
    ] {
        let saga = saga(step, env);
        assert_eq!(saga.status("b"), StepStatus::Refused, "{step}");
        assert_eq!(saga.status("a"), StepStatus::Undoing, "{step}");
        assert!(saga.state.error.as_ref().unwrap().contains(told), "{:?}", saga.state.error);
    }
    assert_eq!(saga(wait, &long[1..]).status("b"), StepStatus::Acting);
    let lock = "saga: s\nlock: ['{{ env.K }}']\nsteps:\n  - { step: n, sleep: 1h }\n";
    for env in ["a\0b", &long] {
        let saga = Saga::start(lock, &[("K", env)]);
        assert_eq!(saga.state.status, Status::Compensated);
        assert!(saga.state.error.as_ref().unwrap().contains("lock: "), "{:?}", saga.state.error);
    }
}

#[test]
fn an_undo_whose_event_cannot_be_made_needs_a_person() {
    let source = "
saga: s
steps:
  - { step: a, post: http://x/a, undo: { publish: com.acme.no, subject: '{{ env.K }}' } }
  - { step: b, post: http://x/b, undo: { post: http://x/u } }
";
    let mut saga = Saga::start(source, &[("K", "a\nb")]);
    saga.done("a", json!({}));
    saga.answer("b", Operation::Action, Answer::Refused("no".to_owned()));
    assert!(saga.is_stuck());
    saga.restart(&[("K", "a")]);
    saga.retry();
    assert_eq!(saga.state.status, Status::Compensated);
}
