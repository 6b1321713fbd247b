//! What no lint can check: the arrows between rooms, and the shape of files.

use std::collections::BTreeSet;
use std::path::Path;

use skald_tests::tree;

/// Lines past which a file is more than one idea.
const LINES_MAX: usize = 600;

/// The name of a room in code, its folder, and the rooms that it may use. The binary and the tests
/// see everything, and nothing sees them.
const ROOMS: [(&str, &str, &[&str]); 6] = [
    ("schemas", "schemas", &[]),
    ("bus", "bus", &["schemas"]),
    ("egress", "egress", &[]),
    ("consumers", "consumers", &["schemas", "bus", "egress"]),
    ("orchestrator", "orchestrator", &["schemas", "bus", "egress"]),
    ("webhooks", "webhooks", &["schemas", "bus", "egress"]),
];

/// Rooms that nothing may use.
const ROOFS: [&str; 2] = ["skald", "skald_tests"];

fn room_names() -> impl Iterator<Item = &'static str> {
    ROOMS.iter().map(|(name, _, _)| *name).chain(ROOFS)
}

/// The rooms in the dependencies of a manifest, under whatever table they stand.
fn rooms_in_manifest(manifest: &toml::Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (table, value) in manifest {
        let Some(value) = value.as_table() else { continue };
        if !table.ends_with("dependencies") {
            found.extend(rooms_in_manifest(value));
            continue;
        }
        for (name, how) in value {
            let package = how.get("package").and_then(toml::Value::as_str).unwrap_or(name);
            let name = package.strip_prefix("skald-").unwrap_or(package).replace('-', "_");
            let name = if name == "tests" { "skald_tests".to_owned() } else { name };
            if room_names().any(|room| room == name) {
                found.insert(name);
            }
        }
    }
    found
}

/// The rooms that a source names in a path, such as `bus::Log` or `use schemas::{…}`.
fn rooms_in_source(text: &str) -> BTreeSet<&'static str> {
    let code = |line: &&str| !line.trim_start().starts_with("//");
    let lines: Vec<&str> = text.lines().filter(code).collect();
    let named = |room: &&str| lines.iter().any(|line| names(line, room));
    room_names().filter(named).collect()
}

fn names(line: &str, room: &str) -> bool {
    let path = format!("{room}::");
    line.match_indices(&path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        // `crate::egress::…` and `self::bus::…` are modules of the room itself, `a_bus::` another.
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// The modules that a room has itself: `egress::…` inside `egress` may be one of them.
fn own_modules(folder: &str) -> BTreeSet<String> {
    let inside = |path: &&std::path::PathBuf| path.starts_with(folder);
    let files = tree::rust_files();
    let stems = files.iter().filter(inside).filter_map(|path| path.file_stem());
    stems.map(|stem| stem.to_string_lossy().into_owned()).collect()
}

#[test]
fn rooms_use_only_the_rooms_below_them() {
    for (room, folder, allowed) in ROOMS {
        let Some(text) = tree::read(&Path::new(folder).join("Cargo.toml")) else { continue };
        let manifest: toml::Table = text.parse().unwrap();
        for used in rooms_in_manifest(&manifest) {
            assert!(allowed.contains(&used.as_str()), "{folder}/Cargo.toml: {room} uses {used}");
        }
    }
}

#[test]
fn sources_name_only_the_rooms_below_them() {
    for (room, folder, allowed) in ROOMS {
        let own = own_modules(folder);
        for path in tree::rust_files().iter().filter(|path| path.starts_with(folder)) {
            for used in rooms_in_source(&tree::read(path).unwrap()) {
                let fine = used == room || allowed.contains(&used) || own.contains(used);
                assert!(fine, "{}: {room} names {used}", path.display());
            }
        }
    }
}

#[test]
fn an_arrow_in_code_is_seen() {
    assert!(names("use bus::Log;", "bus") && names("    let x = bus::tail(y);", "bus"));
    assert!(!names("use crate::bus::Log;", "bus") && !names("omnibus::go()", "bus"));
    let found = rooms_in_source("//! bus::Log\nuse schemas::Event;\n");
    assert_eq!(found, BTreeSet::from(["schemas"]));
    let manifest = "[dependencies]\nbus = { workspace = true }\n[dev-dependencies.x]\npackage = \"skald-schemas\"";
    let found = rooms_in_manifest(&manifest.parse().unwrap());
    assert_eq!(found, BTreeSet::from(["bus".to_owned(), "schemas".to_owned()]));
}

#[test]
fn every_source_opens_with_its_purpose() {
    let files = tree::rust_files();
    assert!(files.len() > 50, "the sources are found: {}", files.len());
    for path in files {
        let text = tree::read(&path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let has_purpose = first.strip_prefix("//!").is_some_and(|words| !words.trim().is_empty());
        assert!(has_purpose, "{}:1 must begin with //! and a purpose", path.display());
    }
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
    ];
    for path in tree::files() {
        let Some(text) = tree::read(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let mark = marks.iter().find(|mark| line.contains(**mark));
            assert!(mark.is_none(), "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn no_source_is_longer_than_one_idea() {
    for path in tree::rust_files() {
        let lines = tree::read(&path).unwrap().lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines", path.display());
    }
}

#[test]
fn no_test_is_switched_off() {
    for path in tree::rust_files() {
        let mark = concat!("#[ign", "ore");
        // These run where there is a broker, with `--include-ignored`.
        let allowed = format!("{mark} = \"needs a broker: tests/run\"]");
        let text = tree::read(&path).unwrap().replace(&allowed, "");
        assert!(!text.contains(mark), "{} has a test that never runs", path.display());
    }
    let run = tree::read(&tree::root().join("tests/run")).unwrap();
    assert!(run.contains("--include-ignored"), "tests/run leaves tests out");
}
