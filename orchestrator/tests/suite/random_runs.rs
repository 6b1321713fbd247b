//! Random sagas in a world of random faults, from a seed that replays them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use orchestrator::planner::Command;
use orchestrator::simulation::{Fate, Fault, Point, Simulation};
use orchestrator::{Definition, Status, Transition};
use serde_json::json;

/// Seeds of one run of the tests; `SKALD_SEEDS` asks for more, `SKALD_SEED` for a single one.
const SEEDS: u64 = 10_000;

/// SplitMix64: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

struct RandomFate {
    dice: Dice,
    trouble: u64,
    meddles: bool,
}

impl Fate for RandomFate {
    fn fault(&mut self, _: &Point<'_>) -> Fault {
        if !self.dice.percent(self.trouble) {
            return Fault::None;
        }
        match self.dice.below(6) {
            0 => Fault::Refuse,
            1 => Fault::Lost,
            2 => Fault::Unanswered,
            3 => Fault::Twice,
            4 => Fault::Late,
            _ => Fault::Crash,
        }
    }

    fn dies(&mut self, _: bool) -> bool {
        let chance = self.trouble / 8;
        self.dice.percent(chance)
    }

    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    fn jitter(&mut self) -> f64 {
        self.dice.below(1_000) as f64 / 1_000.0
    }

    fn command(&mut self) -> Option<Command> {
        if !self.meddles || !self.dice.percent(10) {
            return None;
        }
        let reason = "it seemed right".to_owned();
        Some(match self.dice.below(3) {
            0 => Command::Cancel { reason: None },
            1 => Command::Retry { reason: Some(reason) },
            _ => Command::Compensate { reason },
        })
    }

    /// Now and then an hour: past every timeout and deadline.
    fn jump_us(&mut self) -> i64 {
        if self.dice.percent(self.trouble / 20) { 3_600_000_000 } else { 0 }
    }
}

/// A saga of random shape.
fn random_saga(dice: &mut Dice) -> String {
    let mut text = "saga: random\n".to_owned();
    if dice.percent(20) {
        text.push_str("lock: [b, a]\n");
    }
    if dice.percent(20) {
        text.push_str("deadline: 40s\n");
    }
    text.push_str("steps:\n");
    let mut count = 0;
    for _ in 0..=dice.below(4) {
        part(dice, &mut text, 1, &mut count);
    }
    if dice.percent(30) {
        let _ = writeln!(
            text,
            "  - {{ step: point, post: http://x, no_undo: gone, point_of_no_return: true }}"
        );
        let _ = writeln!(text, "  - {{ step: after, post: http://x, no_undo: gone }}");
    }
    if dice.percent(30) {
        let _ = writeln!(text, "  - {{ step: told, publish: com.acme.done, no_undo: said }}");
    }
    text
}

fn part(dice: &mut Dice, text: &mut String, depth: usize, count: &mut usize) {
    let indent = "  ".repeat(depth);
    if depth < 4 && dice.percent(30) {
        let _ = writeln!(text, "{indent}- together:");
        for _ in 0..2 + dice.below(2) {
            if dice.percent(40) {
                let _ = writeln!(text, "{indent}  -");
                for _ in 0..=dice.below(2) {
                    part(dice, text, depth + 2, count);
                }
            } else {
                step(dice, text, depth + 1, count);
            }
        }
        if dice.percent(30) {
            let _ = writeln!(text, "{indent}  max_concurrent: {}", 1 + dice.below(2));
        }
    } else {
        step(dice, text, depth, count);
    }
}

fn step(dice: &mut Dice, text: &mut String, depth: usize, count: &mut usize) {
    let indent = "  ".repeat(depth);
    *count += 1;
    let retry = format!("retry: {{ attempts_max: {} }}, timeout: 2s", 1 + dice.below(3));
    let undo = "undo: { post: http://x/undo, attempts_max: 3 }";
    let more = match dice.below(12) {
        0 => format!("sleep: {}s", 1 + dice.below(30)),
        1 => "wait_for: { signal: go, timeout: 20s }".to_owned(),
        2 => format!("post: http://x, {undo}, {retry}, when: '{{{{ input.no }}}}'"),
        3 => format!(
            "post: http://x, {undo}, {retry}, for_each: '{{{{ input.items }}}}', max_concurrent: {}",
            1 + dice.below(3)
        ),
        4 => {
            format!("post: http://x, {undo}, {retry}, on_unknown: {{ probe: {{ get: http://x }} }}")
        }
        5 => format!("post: http://x, {undo}, {retry}, on_unknown: stuck"),
        _ => format!("post: http://x, {undo}, {retry}"),
    };
    let _ = writeln!(text, "{indent}- {{ step: s{count}, {more} }}");
}

/// Runs one saga; how it ended, and whether a person was needed.
fn run(seed: u64) -> (Status, bool) {
    let mut dice = Dice(seed);
    let source = random_saga(&mut dice);
    let definition = Definition::of_yaml(&source)
        .unwrap_or_else(|faults| panic!("SKALD_SEED={seed}\n{source}\n{faults}"));
    let barrier = dice.percent(70);
    let trouble = [0, 10, 30, 50][usize::try_from(dice.below(4)).unwrap_or(0)];
    let meddles = dice.percent(20);
    let mut fate = RandomFate { dice, trouble, meddles };
    let input = json!({"no": false, "items": [1, 2, 3]});
    let mut simulation = Simulation::new(Arc::new(definition), input, barrier, &mut fate);
    let status =
        simulation.run().unwrap_or_else(|broken| panic!("SKALD_SEED={seed}\n{source}\n{broken}"));
    let stuck = simulation.journal().iter().any(|(_, t)| matches!(t, Transition::Stuck { .. }));
    (status, stuck)
}

#[test]
fn whatever_strikes_a_saga_ends_and_its_books_balance() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("SKALD_SEED") {
        run(seed);
        return;
    }
    let mut endings: HashMap<(Status, bool), u64> = HashMap::new();
    let seeds = number("SKALD_SEEDS").unwrap_or(SEEDS);
    for seed in 0..seeds {
        *endings.entry(run(seed)).or_default() += 1;
    }
    for status in [Status::Completed, Status::Compensated, Status::Cancelled] {
        for stuck in [false, true] {
            let seen = endings.get(&(status, stuck)).copied().unwrap_or(0);
            assert!(seen >= seeds / 1_000, "{status:?}, stuck {stuck}: {endings:?}");
        }
    }
}
