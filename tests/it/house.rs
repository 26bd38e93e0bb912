//! The rooms of `src/`: each imports from those below it alone, and no file is too long to be understood at once.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `ARCHITECTURE.md`, from the ground up.
const ROOMS: [&str; 24] = [
    "deps",
    "closed_set",
    "contract",
    "logging",
    "locked_file",
    "storage",
    "event",
    "outcome",
    "verify",
    "dead_letter",
    "store",
    "sql",
    "sqlite",
    "redis",
    "postgres",
    "telemetry",
    "inbox",
    "receiver",
    "middleware",
    "axum",
    "actix",
    "destination",
    "state",
    "reputation",
];

/// They look at all the others.
const ABOVE: [&str; 2] = ["testing", "lib"];

/// Where a file asks to be two, in lines of code: without comments, blank lines and tests.
const LONGEST: usize = 300;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.extension().and_then(|extension| extension.to_str()) {
            None => sources(&path),
            Some("rs") => vec![path],
            Some(_) => Vec::new(),
        })
        .collect()
}

/// The code of a file, without comments and what follows `#[cfg(test)]`.
fn code(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).collect()
}

/// The rooms that a file names. A name that `lib.rs` exports is none, and hides which room is meant.
fn named_rooms(text: &str) -> Vec<String> {
    let code = code(text).join(" ");
    let paths = code.split("crate::").skip(1);
    let braces = |path: &str| path.strip_prefix('{').map(|list| list.split('}').next().unwrap().to_owned());
    paths
        .flat_map(|path| match braces(path) {
            Some(list) => list.split(',').map(|name| name.trim().to_owned()).collect(),
            None => vec![path.to_owned()],
        })
        .map(|path| path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

/// What a room must not import, of the rooms that it names.
fn upward(room: &str, named: Vec<String>) -> Vec<String> {
    let Some(floor) = ROOMS.iter().position(|one| *one == room) else {
        assert!(ABOVE.contains(&room), "{room} is in no list: say in ARCHITECTURE.md and here where it belongs");
        return Vec::new();
    };
    let is_below = |name: &String| ROOMS.iter().position(|one| one == name).is_some_and(|other| other <= floor);
    named.into_iter().filter(|name| !is_below(name)).collect()
}

#[test]
fn every_room_imports_from_below() {
    for path in sources(&src()) {
        let within = path.strip_prefix(src()).unwrap();
        let room = within.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let up = upward(room, named_rooms(&fs::read_to_string(&path).unwrap()));
        assert!(up.is_empty(), "{} imports from above: {up:?}", within.display());
    }
}

#[test]
fn an_import_from_above_is_found_however_it_is_written() {
    for text in ["use crate::inbox::Inbox;", "    crate::inbox::settle()", "use crate::{event::Event, inbox::Inbox};"] {
        assert_eq!(upward("store", named_rooms(text)), ["inbox"], "{text}");
    }
    assert_eq!(upward("store", named_rooms("use crate::Outcome;")), ["Outcome"]);
    assert!(upward("store", named_rooms("/// [`crate::inbox`]\nuse crate::event::EventKey;")).is_empty());
}

#[test]
fn no_file_is_too_long() {
    for path in sources(&src()) {
        let lines = code(&fs::read_to_string(&path).unwrap()).len();
        assert!(lines <= LONGEST, "{} has {lines} lines of code, more than {LONGEST}", path.display());
    }
}
