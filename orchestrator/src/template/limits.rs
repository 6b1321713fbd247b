//! What an expression may make on its way: the filters of minijinja, each given and giving no more than
//! an expression may give.
//!
//! The fuel of minijinja counts instructions, of which one may make gigabytes. So what a filter is given is
//! measured before it runs, and what a filter makes that can grow (`replace`, `join`, …) is worked out
//! before; `operators` has the operands of operators measured by filters of their own.

use minijinja::value::{Rest, Value as Dynamic, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, filters, tests as conditions};

use super::VALUE_BYTES_MAX;

/// Lets numbers through.
pub(super) const NUMBER: &str = "_number";
/// What is wrong with anything else.
pub(super) const MULTIPLIES: &str = "`*` multiplies numbers, not texts or lists";
/// Lets through what is not too large.
pub(super) const WHOLE: &str = "_whole";
/// Bytes that all filters of one expression are given and make: `map` calls one for every item.
const WORKED_BYTES_MAX: usize = 64 * VALUE_BYTES_MAX;
/// How they are counted.
const WORKED: &str = "worked_bytes";
/// Longest a number is as text, before what its format asks for.
const NUMBER_BYTES: usize = 400;

/// Puts limits on all that expressions can call.
pub(super) fn set(environment: &mut Environment<'static>) {
    // It writes out all there is.
    environment.remove_global("debug");
    environment.add_filter(NUMBER, number);
    environment.add_filter(WHOLE, |value: Dynamic| measured(&value).map(|_| value));
    for (name, filter) in known_filters() {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            call(name, &filter, state, &args.into_values())
        });
    }
    for (name, test) in known_tests() {
        environment.add_test(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            call(name, &test, state, &args.into_values()).map(|answer| answer.is_true())
        });
    }
}

fn known_filters() -> [(&'static str, Dynamic); 47] {
    [
        ("e", Dynamic::from_function(filters::escape)),
        ("escape", Dynamic::from_function(filters::escape)),
        ("lower", Dynamic::from_function(filters::lower)),
        ("upper", Dynamic::from_function(filters::upper)),
        ("title", Dynamic::from_function(filters::title)),
        ("capitalize", Dynamic::from_function(filters::capitalize)),
        ("replace", Dynamic::from_function(filters::replace)),
        ("length", Dynamic::from_function(filters::length)),
        ("count", Dynamic::from_function(filters::length)),
        ("dictsort", Dynamic::from_function(filters::dictsort)),
        ("items", Dynamic::from_function(filters::items)),
        ("reverse", Dynamic::from_function(filters::reverse)),
        ("trim", Dynamic::from_function(filters::trim)),
        ("join", Dynamic::from_function(filters::join)),
        ("split", Dynamic::from_function(filters::split)),
        ("lines", Dynamic::from_function(filters::lines)),
        ("default", Dynamic::from_function(filters::default)),
        ("d", Dynamic::from_function(filters::default)),
        ("round", Dynamic::from_function(filters::round)),
        ("abs", Dynamic::from_function(filters::abs)),
        ("int", Dynamic::from_function(filters::int)),
        ("float", Dynamic::from_function(filters::float)),
        ("attr", Dynamic::from_function(filters::attr)),
        ("first", Dynamic::from_function(filters::first)),
        ("last", Dynamic::from_function(filters::last)),
        ("min", Dynamic::from_function(filters::min)),
        ("max", Dynamic::from_function(filters::max)),
        ("sort", Dynamic::from_function(filters::sort)),
        ("list", Dynamic::from_function(filters::list)),
        ("string", Dynamic::from_function(filters::string)),
        ("bool", Dynamic::from_function(filters::bool)),
        ("batch", Dynamic::from_function(filters::batch)),
        ("slice", Dynamic::from_function(filters::slice)),
        ("sum", Dynamic::from_function(filters::sum)),
        ("indent", Dynamic::from_function(filters::indent)),
        ("select", Dynamic::from_function(filters::select)),
        ("reject", Dynamic::from_function(filters::reject)),
        ("selectattr", Dynamic::from_function(filters::selectattr)),
        ("rejectattr", Dynamic::from_function(filters::rejectattr)),
        ("map", Dynamic::from_function(filters::map)),
        ("groupby", Dynamic::from_function(filters::groupby)),
        ("unique", Dynamic::from_function(filters::unique)),
        ("chain", Dynamic::from_function(filters::chain)),
        ("zip", Dynamic::from_function(filters::zip)),
        ("pprint", Dynamic::from_function(filters::pprint)),
        ("format", Dynamic::from_function(filters::format)),
        ("urlencode", Dynamic::from_function(filters::urlencode)),
    ]
}

/// Those that write out what they are given.
fn known_tests() -> [(&'static str, Dynamic); 3] {
    [
        ("in", Dynamic::from_function(conditions::is_in)),
        ("startingwith", Dynamic::from_function(conditions::is_startingwith)),
        ("endingwith", Dynamic::from_function(conditions::is_endingwith)),
    ]
}

fn call(name: &str, of: &Dynamic, state: &mut State, args: &[Dynamic]) -> Result<Dynamic, Error> {
    let sizes = args.iter().map(measured).collect::<Result<Vec<_>, _>>()?;
    let grown = grown(name, args, &sizes)?;
    if grown > VALUE_BYTES_MAX {
        return Err(too_large(&format!("what `{name}` gives"), VALUE_BYTES_MAX));
    }
    let before = state.get_temp(WORKED).and_then(|before| before.as_usize()).unwrap_or(0);
    let all = before.saturating_add(grown).saturating_add(sizes.iter().sum());
    if all > WORKED_BYTES_MAX {
        return Err(too_large("what its filters are given and give", WORKED_BYTES_MAX));
    }
    state.set_temp(WORKED, all.into());
    of.call(state, args)
}

/// How much a filter gives at most, where that can be more than it is given.
fn grown(name: &str, args: &[Dynamic], sizes: &[usize]) -> Result<usize, Error> {
    let Some((value, more)) = args.split_first() else { return Ok(0) };
    let text = || value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let times = |count: usize, bytes: usize| sizes[0].saturating_add(count.saturating_mul(bytes));
    Ok(match (name, more) {
        ("replace", [from, to, ..]) => {
            let from = from.as_str().map_or_else(|| from.to_string(), str::to_owned);
            times(text().matches(from.as_str()).count(), size_as_text(to, sizes[2]))
        }
        ("join", _) => {
            let items = value.try_iter().map_or(0, Iterator::count);
            times(items, sizes[1..].iter().sum())
        }
        ("indent", _) => times(text().matches('\n').count() + 1, largest(more)),
        // Items of a list, which are shared.
        ("batch" | "slice", _) => times(largest(more), 8),
        ("format", _) => formatted(&text(), &sizes[1..])?,
        ("sum", _) if starts_with_text(more) => return Err(invalid("`sum` adds numbers")),
        _ => 0,
    })
}

/// Whether what is summed up begins with a text, each step of which would be a copy of all before it.
fn starts_with_text(args: &[Dynamic]) -> bool {
    let named = args.last().filter(|last| last.is_kwargs());
    let named = named.and_then(|named| named.get_attr("start").ok());
    let start = named.filter(|start| !start.is_undefined());
    let start = start.or_else(|| args.get(1).filter(|arg| !arg.is_kwargs()).cloned());
    start.is_some_and(|start| !start.is_number())
}

/// The largest number among arguments, given by name or not.
fn largest(args: &[Dynamic]) -> usize {
    let named = args.iter().filter(|arg| arg.is_kwargs());
    let named = named.flat_map(|named| {
        let names = named.try_iter().into_iter().flatten();
        names.filter_map(|name| named.get_item(&name).ok()).collect::<Vec<_>>()
    });
    let numbers = args.iter().cloned().chain(named).filter(Dynamic::is_integer);
    numbers.filter_map(|number| number.as_usize()).max().unwrap_or(0)
}

/// What a format of `printf` gives at most: each of its places the largest argument, and as many more
/// as it has digits for.
fn formatted(format: &str, sizes: &[usize]) -> Result<usize, Error> {
    if format.contains('*') {
        return Err(invalid("`format` takes no width from its arguments (`*`)"));
    }
    let places = format.matches('%').count();
    let runs = format.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    let digits = runs.map(|run| run.parse::<usize>().unwrap_or(usize::MAX));
    let digits = digits.fold(0_usize, usize::saturating_add);
    let largest = sizes.iter().copied().max().unwrap_or(0).max(NUMBER_BYTES);
    Ok(format.len().saturating_add(digits).saturating_add(places.saturating_mul(largest)))
}

fn size_as_text(value: &Dynamic, size: usize) -> usize {
    if value.is_number() { NUMBER_BYTES } else { size }
}

fn number(value: Dynamic) -> Result<Dynamic, Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Bytes | ValueKind::Seq | ValueKind::Iterable => {
            Err(invalid(MULTIPLIES))
        }
        _ => Ok(value),
    }
}

/// The size of a value as JSON.
fn measured(value: &Dynamic) -> Result<usize, Error> {
    let mut left = VALUE_BYTES_MAX;
    match spend(value, &mut left) {
        true => Ok(VALUE_BYTES_MAX - left),
        false => Err(too_large("what it works with", VALUE_BYTES_MAX)),
    }
}

/// Takes the size of a value, as `size_of` counts it, off what is left; false when that is not enough.
/// It stops there: a list may name one text a million times.
fn spend(value: &Dynamic, left: &mut usize) -> bool {
    if !take(left, own_size(value)) {
        return false;
    }
    let is_map = value.kind() == ValueKind::Map;
    if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return true;
    }
    let Ok(mut items) = value.try_iter() else { return true };
    items.all(|item| match is_map {
        true => {
            let member = value.get_item(&item).unwrap_or_default();
            spend(&item, left) && take(left, 2) && spend(&member, left)
        }
        false => spend(&item, left),
    })
}

/// The size of a value without what is in it.
pub(super) fn own_size(value: &Dynamic) -> usize {
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len) + 2,
        ValueKind::Bytes => value.as_bytes().map_or(0, <[u8]>::len),
        ValueKind::Seq | ValueKind::Iterable => 2 + value.len().unwrap_or(0),
        ValueKind::Map => 2,
        ValueKind::Bool | ValueKind::None | ValueKind::Undefined => 5,
        _ => 8,
    }
}

/// Takes `bytes` off what is left; false when that is not enough.
pub(super) fn take(left: &mut usize, bytes: usize) -> bool {
    let rest = left.checked_sub(bytes);
    *left = rest.unwrap_or(0);
    rest.is_some()
}

fn too_large(what: &str, most: usize) -> Error {
    invalid(&format!("{what} is more than {most} bytes"))
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Scope, Template};
    use super::*;

    fn render(text: &str) -> Result<Value, String> {
        let long = "x".repeat(VALUE_BYTES_MAX - 100);
        let scope = Scope::new(&json!({"a": "ab", "long": long, "n": 3, "items": [1, 2, 3]}));
        Template::of_text(text)?.render(&scope).map_err(|error| error.to_string())
    }

    #[test]
    fn what_would_be_gigabytes_is_an_error() {
        let many = |item: &str, around: (&str, &str)| {
            format!("{{{{ {}[{}]{} }}}}", around.0, vec![item; 5_000].join(","), around.1)
        };
        for text in [
            "{{ ('a') * 50000000 }}",
            "{{ 3 * input.a }}",
            "{{ 2 * input.a * 50000000 }}",
            "{{ input.items * 50000000 }}",
            "{{ input.long | replace('', input.long) }}",
            "{{ range(100000) | join(input.long) }}",
            "{{ range(100000) | join(d=input.long) }}",
            "{{ 'a' | indent(1000000000, true) }}",
            "{{ 'a' | indent(width=1000000000, first=true) }}",
            "{{ '%1000000000d' | format(1) }}",
            "{{ '%*d' | format(1000000000, 1) }}",
            "{{ [1] | batch(1000000000, 0) | length }}",
            "{{ [1] | slice(1000000000) | length }}",
            "{{ [input.long, 'a'] | sum(start='') }}",
            "{{ range(100000) | map('replace', '1', input.long) | length }}",
            "{{ range(100000) | map('indent', 1000, true) | length }}",
            "{{ range(100000) | map('default', range(100000)) | length }}",
            "{{ debug() }}",
            &many("input.long", ("", " ~ ''")),
            &many("input.long", ("", " in 'x'")),
            &many("input.long", ("", " | string")),
            &many("input.long", ("", " is startingwith 'x'")),
            &many("range(100000)", ("", " | map('list') | length")),
            &many("input.long", ("", "")),
            &many("range(100000)", ("", "")),
        ] {
            let error = render(text).unwrap_err();
            let end = error.split("}}`: ").last().unwrap();
            let told =
                ["bytes", "numbers", "no width", "debug"].iter().any(|told| end.contains(told));
            assert!(told && !error.contains("no expression"), "{text:.80}: {end:.200}");
        }
    }

    #[test]
    fn what_is_small_is_as_it_was() {
        for (text, expected) in [
            ("{{ input.n * 1.5 }}", json!(4.5)),
            ("{{ -input.n * -2 + 1 }}", json!(7)),
            ("{{ input.n ** 2 }}", json!(9)),
            ("{{ input.a ~ '-' ~ input.n }}", json!("ab-3")),
            ("{{ input.a + 'c' }}", json!("abc")),
            ("{{ (input.items + [4]) | length * 2 }}", json!(8)),
            ("{{ 2 in input.items and 'z' not in input.a }}", json!(true)),
            ("{{ input.a | replace('b', 'cc') | upper }}", json!("ACC")),
            ("{{ input.items | join('-') }}", json!("1-2-3")),
            ("{{ input.items | map('string') | join(d=',') }}", json!("1,2,3")),
            ("{{ input.items | sum(start=1) }}", json!(7)),
            ("{{ input.items | batch(2, 0) | list }}", json!([[1, 2], [3, 0]])),
            ("{{ '%05.1f|%s' | format(input.n, input.a) }}", json!("003.0|ab")),
            ("{{ input.nope | default('x') }}", json!("x")),
            ("{{ input.items | select('in', [1, 3]) | list }}", json!([1, 3])),
            ("{{ input.a | indent(2, first=true) }}", json!("  ab")),
            ("{{ 'a b' | urlencode }}", json!("a%20b")),
            ("{{ input.long | length }}", json!(VALUE_BYTES_MAX - 100)),
        ] {
            assert_eq!(render(text), Ok(expected), "{text}");
        }
    }
}
