//! Every fault at every step, on sagas of every shape.

use std::collections::BTreeMap;
use std::sync::Arc;

use orchestrator::simulation::{Ending, Fault, walk};
use orchestrator::{Definition, Operation, Status};
use serde_json::{Value, json};

use super::PLACE_ORDER;

fn walked(source: &str, input: &Value) -> Vec<Ending> {
    let definition = Definition::of_yaml(source).unwrap_or_else(|faults| panic!("{faults}"));
    let endings = walk(&Arc::new(definition), input, &BTreeMap::new());
    for ending in &endings {
        if let Err(broken) = &ending.ended {
            let Ending { step, operation, fault, always, .. } = ending;
            panic!("{fault:?} at {step:?} {operation:?} (always: {always}): {broken}");
        }
    }
    endings
}

fn count(endings: &[Ending]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for ending in endings {
        let status = ending.ended.as_ref().unwrap().as_str().to_owned();
        *counts.entry(status).or_default() += 1;
    }
    counts
}

#[test]
fn every_fault_of_an_order_ends_it_with_balanced_books() {
    let endings =
        walked(PLACE_ORDER, &json!({"order_id": "o", "total": 5, "items": [], "ship": true}));
    let counts = count(&endings);
    assert!(counts["completed"] > 10 && counts["compensated"] > 20, "{counts:?}");
    let refused = endings
        .iter()
        .filter(|ending| ending.fault == Fault::Refuse && ending.operation == Operation::Action);
    assert!(refused.count() >= 4);
    assert!(endings.iter().any(|ending| ending.was_stuck), "an undo that keeps failing sticks");
}

#[test]
fn shapes_of_every_kind_survive_the_walk() {
    let step = |name: &str, more: &str| {
        format!("step: {name}, post: http://x/{name}, undo: {{ post: http://x/undo-{name} }}{more}")
    };
    let nested = format!(
        "saga: nested\nlock: [a, b]\nsteps:\n  - {{ {} }}\n  - together:\n    - [ {{ {} }}, {{ {} }} ]\n    - {{ {} }}\n    max_concurrent: 1\n  - {{ {} }}\n",
        step("one", ""),
        step("two", ""),
        step("three", ""),
        step("four", ""),
        step("five", ""),
    );
    walked(&nested, &json!({}));
    let each = format!(
        "saga: each\nsteps:\n  - {{ {} }}\n  - {{ {} }}\n",
        step("each", ", for_each: '{{ input.items }}', max_concurrent: 2, body: '{{ item }}'"),
        step("last", ""),
    );
    walked(&each, &json!({"items": [1, 2, 3]}));
    let point = format!(
        "saga: point\nsteps:\n  - {{ {} }}\n  - {{ step: pay, post: http://x/pay, no_undo: paid, point_of_no_return: true }}\n  - {{ step: ship, post: http://x/ship, no_undo: gone }}\n",
        step("hold", ""),
    );
    let endings = walked(&point, &json!({}));
    let stuck = endings.iter().filter(|ending| ending.was_stuck).count();
    assert!(stuck > 2, "refusals after the point and its own unknown outcome need a person");
    let probe = format!(
        "saga: probe\nsteps:\n  - {{ {} }}\n  - {{ {} }}\n",
        step("asked", ", on_unknown: { probe: { get: http://x/state } }"),
        step("last", ", on_unknown: stuck"),
    );
    walked(&probe, &json!({}));
    let mixed = format!(
        "saga: mixed\nsteps:\n  - {{ {} }}\n  - {{ step: nap, sleep: 1h }}\n  - {{ step: child, saga: other, undo: {{ post: http://x/u }} }}\n  - {{ step: paid, wait_for: {{ event: com.acme.paid, key: '{{{{ input.k }}}}', timeout: 1h }} }}\n",
        step("hold", ""),
    );
    walked(&mixed, &json!({"k": "1"}));
}

#[test]
fn expressions_that_give_nothing_end_in_the_hands_of_a_person() {
    let late = "saga: late\nsteps:\n  - { step: pay, post: http://x, no_undo: paid, point_of_no_return: true }\n  - { step: ship, post: http://x, no_undo: gone, body: '{{ steps.pay.output.nope }}' }\n";
    let endings = walked(late, &json!({}));
    let completed = |ending: &&Ending| matches!(ending.ended, Ok(Status::Completed));
    assert!(endings.iter().filter(completed).count() > 0);
    assert!(endings.iter().filter(completed).all(|ending| ending.was_stuck));
    let undo = "saga: undo\nsteps:\n  - { step: a, post: http://x, undo: { post: http://x, body: '{{ input.nope }}' } }\n  - { step: b, post: http://x, undo: { post: http://x } }\n";
    assert!(walked(undo, &json!({})).iter().any(|ending| ending.was_stuck));
}
