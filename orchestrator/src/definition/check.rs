//! What is well written and still cannot work.

use schemas::Faults;

use super::members::{is_near, told};
use super::{Action, Definition, OnUnknown, Part, Step, Undo};
use crate::template::{References, Template};

/// Finds every such fault.
pub(super) fn check(definition: &Definition, faults: &mut Faults) {
    names(definition, faults);
    points(definition, faults);
    order(definition, faults);
    expressions(definition, faults);
    subjects(definition, faults);
}

/// A command's names are the tokens of a subject.
fn subjects(definition: &Definition, faults: &mut Faults) {
    for (step, path, action) in definition.actions() {
        let Action::Command(command) = action else { continue };
        let subject = command.subject(&step.name);
        if subject.split('.').any(str::is_empty) {
            let detail = format!("`{subject}` is no subject on NATS: it has an empty part");
            told(faults, &format!("{path}/command"), step.line, &detail);
        }
    }
}

fn names(definition: &Definition, faults: &mut Faults) {
    // Items of a `for_each` are called `<step>.<index>`.
    for step in definition.steps.iter().filter(|step| step.for_each.is_some()) {
        for other in &definition.steps {
            let rest = other.name.strip_prefix(step.name.as_str());
            let index = rest.and_then(|rest| rest.strip_prefix('.'));
            if index.is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit())) {
                let detail = format!("is the name of an item of the step `{}`", step.name);
                at(faults, other, "/step", &detail);
            }
        }
    }
}

fn points(definition: &Definition, faults: &mut Faults) {
    let mut points = definition.steps.iter().filter(|step| step.point_of_no_return);
    let Some(first) = points.next() else { return };
    for other in points {
        let detail = format!("there is a point of no return already: `{}`", first.name);
        at(faults, other, "/point_of_no_return", &detail);
    }
    if first.for_each.is_some() {
        at(faults, first, "/point_of_no_return", "a `for_each` would pass it several times");
    }
    if first.when.is_some() {
        at(faults, first, "/point_of_no_return", "with `when` it might never be passed");
    }
    if matches!(first.undo, Undo::Call { .. }) {
        at(faults, first, "/undo", "after the point of no return nothing is undone");
    }
}

/// Whether one step runs before, after or beside another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Before,
    Beside,
    After,
}

/// Where each step stands: a path of (index in its sequence, index of the member).
fn places(definition: &Definition) -> Vec<Vec<(usize, usize)>> {
    fn walk(parts: &[Part], at: &[(usize, usize)], places: &mut [Vec<(usize, usize)>]) {
        for (index, part) in parts.iter().enumerate() {
            match part {
                Part::Step(step) => {
                    let mut place = at.to_vec();
                    place.push((index, 0));
                    places[*step] = place;
                }
                Part::Together { members, .. } => {
                    for (member, parts) in members.iter().enumerate() {
                        let mut place = at.to_vec();
                        place.push((index, member));
                        walk(parts, &place, places);
                    }
                }
            }
        }
    }
    let mut places = vec![Vec::new(); definition.steps.len()];
    walk(&definition.body, &[], &mut places);
    places
}

fn relation(a: &[(usize, usize)], b: &[(usize, usize)]) -> Relation {
    for (x, y) in a.iter().zip(b) {
        match x.0.cmp(&y.0) {
            std::cmp::Ordering::Less => return Relation::Before,
            std::cmp::Ordering::Greater => return Relation::After,
            std::cmp::Ordering::Equal if x.1 != y.1 => return Relation::Beside,
            std::cmp::Ordering::Equal => {}
        }
    }
    Relation::Beside
}

/// Something that cannot be undone must not stand where something else can still refuse.
fn order(definition: &Definition, faults: &mut Faults) {
    let places = places(definition);
    let point = definition.point_of_no_return();
    let is_past = |step: usize| {
        point.is_some_and(|point| {
            point != step && relation(&places[point], &places[step]) == Relation::Before
        })
    };
    for (index, step) in definition.steps.iter().enumerate() {
        if step.point_of_no_return {
            beside_point(definition, index, &places, faults);
            continue;
        }
        if !matches!(step.undo, Undo::Never(_)) || is_past(index) {
            continue;
        }
        if step.for_each.is_some() && step.can_refuse() {
            let detail = "cannot be undone, and one item can refuse when another is done";
            at(faults, step, "/no_undo", detail);
        }
        for (other_index, other) in definition.steps.iter().enumerate() {
            let can = other.can_refuse() && other_index != index && !is_past(other_index);
            let place = match relation(&places[index], &places[other_index]) {
                Relation::Before if can => "before",
                Relation::Beside if can => "beside",
                _ => continue,
            };
            let detail = format!(
                "cannot be undone and stands {place} `{}`, which can still refuse; move it behind, \
                 or make it the point of no return",
                other.name
            );
            at(faults, step, "/no_undo", &detail);
            break;
        }
    }
}

fn beside_point(
    definition: &Definition,
    point: usize,
    places: &[Vec<(usize, usize)>],
    faults: &mut Faults,
) {
    for (index, other) in definition.steps.iter().enumerate() {
        let beside = index != point && relation(&places[point], &places[index]) == Relation::Beside;
        if beside && other.can_refuse() {
            let detail = format!("stands beside `{}`, which can still refuse", other.name);
            at(faults, &definition.steps[point], "/point_of_no_return", &detail);
        }
    }
}

/// Which steps an expression may read.
struct Reader<'d> {
    definition: &'d Definition,
    places: Vec<Vec<(usize, usize)>>,
}

fn expressions(definition: &Definition, faults: &mut Faults) {
    let reader = Reader { definition, places: places(definition) };
    if let Some(start) = &definition.start {
        for (template, path) in [(&start.id, "/id"), (&start.input, "/input")] {
            if let Some(template) = template {
                reader.check(template, path, 0, &["event", "env"], &|_| None, faults);
            }
        }
    }
    for (index, lock) in definition.locks.iter().enumerate() {
        let path = format!("/lock/{index}");
        reader.check(lock, &path, 0, &["input", "env", "saga"], &|_| None, faults);
    }
    if let Some(output) = &definition.output {
        reader.check(
            output,
            "/output",
            0,
            &["input", "env", "saga", "steps"],
            &|of| reader.may_read(None, of),
            faults,
        );
    }
    for index in 0..definition.steps.len() {
        reader.step(index, faults);
    }
}

impl Reader<'_> {
    fn step(&self, index: usize, faults: &mut Faults) {
        let step = &self.definition.steps[index];
        let own = |name: &str| self.may_read(Some(index), name);
        let names: &[&str] = &["input", "env", "saga", "steps"];
        let each: &[&str] = &["input", "env", "saga", "steps", "item", "index"];
        for (template, part) in [
            (step.when.as_ref(), "/when"),
            (step.for_each.as_ref().map(|each| &each.items), "/for_each"),
        ] {
            if let Some(template) = template {
                let path = format!("{}{part}", step.path);
                self.check(template, &path, step.line, names, &own, faults);
            }
        }
        let names = if step.for_each.is_some() { each } else { names };
        for (path, template) in action_templates(&step.action, &step.path) {
            let names = if path.ends_with("/wait_for/of") { &["event", "env"][..] } else { names };
            self.check(template, &path, step.line, names, &own, faults);
        }
        if let OnUnknown::Probe(action) = &step.on_unknown {
            let path = format!("{}/on_unknown/probe", step.path);
            for (path, template) in action_templates(action, &path) {
                self.check(template, &path, step.line, names, &own, faults);
            }
        }
        if let Undo::Call { action, .. } = &step.undo {
            let own = |name: &str| if *step.name == *name { None } else { own(name) };
            for (path, template) in action_templates(action, &format!("{}/undo", step.path)) {
                self.check(template, &path, step.line, names, &own, faults);
            }
        }
    }

    /// Why the step `of` may not be read by the step at `from` (`None`: the output of the saga).
    fn may_read(&self, from: Option<usize>, of: &str) -> Option<String> {
        let other = self.definition.step(of).map(|at| (at, &self.definition.steps[at]))?;
        if let Some(from) = from {
            if from == other.0 {
                return Some(format!("reads its own step `{of}`, which has not run then"));
            }
            match relation(&self.places[other.0], &self.places[from]) {
                Relation::Before => {}
                Relation::Beside => {
                    return Some(format!(
                        "reads `{of}`, which runs beside it and may not have run"
                    ));
                }
                Relation::After => return Some(format!("reads `{of}`, which runs later")),
            }
        }
        let when = |step: &Step| step.when.as_ref().map(|template| format!("{template:?}"));
        let same = from.is_some_and(|from| when(&self.definition.steps[from]) == when(other.1));
        (other.1.when.is_some() && !same).then(|| {
            format!(
                "reads `{of}`, which may not have run: it has a `when`; write `… if … else …` or \
                 give both the same `when`"
            )
        })
    }

    fn check(
        &self,
        template: &Template,
        path: &str,
        line: usize,
        names: &[&str],
        may_read: &dyn Fn(&str) -> Option<String>,
        faults: &mut Faults,
    ) {
        for found in template.references() {
            let mut say = |detail: &str| {
                told(faults, path, line, &format!("`{{{{ {} }}}}` {detail}", found.source));
            };
            for name in &found.names {
                if !names.contains(&name.as_str()) {
                    let there = names.join(", ");
                    say(&format!("reads `{name}`, which is not there; there are {there}"));
                }
            }
            found.faults.iter().for_each(|fault| say(&format!(": {fault}")));
            if names.contains(&"steps") {
                for detail in self.step_faults(&found, may_read) {
                    say(&detail);
                }
            }
        }
    }

    fn step_faults(
        &self,
        found: &References,
        may_read: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<String> {
        let mut faults = Vec::new();
        for reference in &found.steps {
            if self.definition.step(&reference.step).is_none() {
                let near = self.definition.steps.iter().find(|s| is_near(&s.name, &reference.step));
                let hint =
                    near.map(|s| format!(", did you mean `{}`?", s.name)).unwrap_or_default();
                faults
                    .push(format!("reads the step `{}`, which there is not{hint}", reference.step));
            } else if let Some(detail) = may_read(&reference.step)
                && !(reference.guarded && detail.contains("`when`"))
            {
                faults.push(detail);
            }
        }
        faults
    }
}

/// Every template of a definition and where it stands: path and line.
pub(super) fn templates(definition: &Definition) -> Vec<(String, usize, &Template)> {
    let mut found = Vec::new();
    if let Some(start) = &definition.start {
        found.extend(start.id.iter().map(|template| ("/id".to_owned(), 0, template)));
        found.extend(start.input.iter().map(|template| ("/input".to_owned(), 0, template)));
    }
    let locks = definition.locks.iter().enumerate();
    found.extend(locks.map(|(at, template)| (format!("/lock/{at}"), 0, template)));
    found.extend(definition.output.iter().map(|template| ("/output".to_owned(), 0, template)));
    for step in &definition.steps {
        let path = |part: &str| format!("{}/{part}", step.path);
        found.extend(step.when.iter().map(|template| (path("when"), step.line, template)));
        found.extend(step.for_each.iter().map(|each| (path("for_each"), step.line, &each.items)));
        for (path, action) in step.actions() {
            let templates = action_templates(action, &path).into_iter();
            found.extend(templates.map(|(path, template)| (path, step.line, template)));
        }
    }
    found
}

fn action_templates<'a>(action: &'a Action, path: &str) -> Vec<(String, &'a Template)> {
    let mut found: Vec<(String, &Template)> = Vec::new();
    let mut add = |part: &str, template: Option<&'a Template>| {
        found.extend(template.map(|template| (format!("{path}/{part}"), template)));
    };
    match action {
        Action::Http(call) => {
            add(&call.method.as_str().to_ascii_lowercase(), Some(&call.url));
            add("body", call.body.as_ref());
            for (name, value) in &call.headers {
                add(&format!("headers/{name}"), Some(value));
            }
        }
        Action::Command(command) => add("body", command.body.as_ref()),
        Action::Publish(publish) => {
            add("subject", publish.subject.as_ref());
            add("body", publish.body.as_ref());
        }
        Action::Event(wait) => {
            add("wait_for/key", Some(&wait.key));
            add("wait_for/of", wait.of.as_ref());
        }
        Action::Sleep(template) => add("sleep", Some(template)),
        Action::Child(child) => add("input", child.input.as_ref()),
        Action::Signal { .. } | Action::Method => {}
    }
    found
}

fn at(faults: &mut Faults, step: &Step, part: &str, detail: &str) {
    told(faults, &format!("{}{part}", step.path), step.line, detail);
}
