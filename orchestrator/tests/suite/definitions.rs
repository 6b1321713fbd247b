//! Definitions are read whole, and refused with every fault and its place.

use orchestrator::Definition;
use orchestrator::definition::{Action, OnUnknown, Part, Undo};
use serde_json::json;

use super::PLACE_ORDER;

fn faults(source: &str) -> Vec<String> {
    let faults = Definition::of_yaml(source).map(|_| ()).unwrap_err();
    faults.0.iter().map(ToString::to_string).collect()
}

fn told(source: &str, wanted: &[&str]) {
    let faults = faults(source);
    for wanted in wanted {
        assert!(faults.iter().any(|fault| fault.contains(wanted)), "{wanted}: {faults:#?}");
    }
    assert_eq!(faults.len(), wanted.len(), "{faults:#?}");
}

#[test]
fn the_order_of_the_guide_is_read() {
    let order = Definition::of_yaml(PLACE_ORDER).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(order.steps.len(), 5);
    assert!(matches!(&order.body[1], Part::Together { members, .. } if members.len() == 2));
    assert!(matches!(order.steps[0].action, Action::Http(_)));
    assert!(matches!(order.steps[0].on_unknown, OnUnknown::Compensate));
    assert!(matches!(order.steps[3].undo, Undo::Nothing));
    assert_eq!(order.steps[0].retry.attempts_max, 3);
    let again = Definition::of_json(&order.document().to_string()).unwrap();
    assert_eq!(again.document(), order.document());
}

#[test]
fn all_faults_are_told_at_once_with_line_and_path() {
    told(
        "saga: x\nsteps:\n  - step: a\n    psot: http://x\n  - step: a\n    post: http://x\n    undo: { post: http://x }\n  - step: b\n    post: http://x\n    timeout: soon\n  - step: c\n    post: 5\n    undo: { sleep: 1s }\nlost: 1\n",
        &[
            "/steps/0: line 3: says nothing to do",
            "/steps/1/step: line 5: the name `a` is there twice, first on line 3",
            "/steps/0/psot: line 4: `psot` is unknown here, did you mean `post`?",
            "/steps/2/timeout: line 10",
            "/steps/2: line 8: `undo` is missing",
            "/steps/3/post: line 12: must be a URL",
            "/steps/3/undo/sleep: line 13: `sleep` cannot stand here",
            "/lost: line 14: `lost` is unknown here, did you mean `lock`?",
        ],
    );
}

#[test]
fn references_to_what_may_not_have_run_are_refused() {
    let undo = "undo: { post: http://x }";
    told(
        &format!(
            "saga: x
steps:
  - {{ step: a, post: http://x, {undo}, body: \"{{{{ steps.b.output }}}}\" }}
  - {{ step: b, post: http://x, {undo}, body: \"{{{{ steps.nobody.output }}}}\", when: '{{{{ input.x }}}}' }}
  - {{ step: c, post: http://x, {undo}, body: \"{{{{ steps.b.output }}}}\" }}
  - together:
      - {{ step: d, post: http://x, {undo}, body: \"{{{{ steps.e.output }}}}\" }}
      - {{ step: e, post: http://x, {undo}, body: \"{{{{ inptu.e | uper }}}}\" }}
  - {{ step: f, post: http://x, {undo}, body: \"{{{{ steps['b'].output if input.x else 1 }}}}\" }}
  - {{ step: b, sleep: 1s }}
"
        ),
        &[
            "reads `b`, which runs later",
            "reads the step `nobody`",
            "reads `b`, which may not have run",
            "reads `e`, which runs beside it",
            "reads `inptu`",
            "no filter `uper`",
            "the name `b` is there twice, first on line 4",
        ],
    );
}

#[test]
fn what_cannot_be_undone_stands_behind_all_that_can_refuse() {
    let call = |name: &str, rest: &str| format!("{{ step: {name}, post: http://x, {rest} }}");
    let (no, undo) = ("no_undo: gone", "undo: { post: http://x }");
    let saga = |steps: &[String]| format!("saga: x\nsteps: [ {} ]\n", steps.join(", "));
    told(&saga(&[call("a", no), call("b", undo)]), &["`b`, which can still refuse"]);
    let beside = format!("{{ together: [ {}, {} ] }}", call("a", no), call("b", undo));
    told(&saga(&[beside]), &["stands beside `b`"]);
    let point = "no_undo: gone, point_of_no_return: true";
    assert!(Definition::of_yaml(&saga(&[call("a", point), call("b", no)])).is_ok());
    told(&saga(&[call("a", point), call("b", point)]), &["already: `a`"]);
    let each = "no_undo: gone, for_each: '{{ input.items }}'";
    told(&saga(&[call("a", each)]), &["one item can refuse"]);
    told(&saga(&[call("a", no), call("b", point)]), &["`b`, which can still refuse"]);
}

#[test]
fn json_is_read_like_yaml() {
    let source = json!({"saga": "x", "steps": [{"step": "a", "command": "stock", "as": "reserve",
        "undo": {"command": "stock", "as": "release"}}]});
    let definition = Definition::of_json(&source.to_string()).unwrap();
    let commands = definition.actions().filter(|(.., action)| matches!(action, Action::Command(_)));
    let paths: Vec<String> = commands.map(|(_, path, _)| path).collect();
    assert_eq!(paths, ["/steps/0", "/steps/0/undo"]);
    assert!(Definition::of_json("{").is_err());
    assert!(Definition::of_yaml(&format!("saga: x\nsteps: [{}]", "x".repeat(300_000))).is_err());
}
