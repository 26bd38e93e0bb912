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
    "mail",
    "sql",
    "sqlite",
    "redis",
    "postgres",
    "telemetry",
    "inbox",
    "receiver",
    "middleware",
    "axum",
    "operator",
    "actix",
    "destination",
];

/// They look at all the others.
const ABOVE: [&str; 3] = ["guide", "testing", "lib"];

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

/// The code of a file, without comments and its inline tests.
fn code(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let tests = lines.windows(2).position(|two| two[0] == "#[cfg(test)]" && two[1].starts_with("mod tests {"));
    let lines = lines[..tests.unwrap_or(lines.len())].iter().copied();
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).collect()
}

/// The names at the top of a list in braces: those of `{a::{b, c}, d}` are `a` and `d`.
fn top_names(list: &str) -> Vec<String> {
    let (mut depth, mut names) = (0, vec![String::new()]);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(String::new()),
            _ if depth == 1 => names.last_mut().unwrap().push(c),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// The rooms that a file names. A name that `lib.rs` exports is no room, and hides which room is meant.
fn named_rooms(text: &str) -> Vec<String> {
    let code = code(text).join(" ");
    let paths = code.split("crate::").skip(1);
    paths
        .flat_map(|path| if path.starts_with('{') { top_names(path) } else { vec![path.to_owned()] })
        .map(|path| path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .filter(|name: &String| !name.is_empty())
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
        let text = fs::read_to_string(&path).unwrap();
        let up = upward(room, named_rooms(&text));
        assert!(up.is_empty(), "{} imports from above: {up:?}", within.display());
        // Which room a relative path leads to is not seen here.
        let leaves = code(&text).iter().any(|line| line.contains("super::super::")) && room != "testing";
        assert!(!leaves, "{} imports by `super::super`: name the room", within.display());
    }
}

#[test]
fn an_import_from_above_is_found_however_it_is_written() {
    for text in [
        "use crate::inbox::Inbox;",
        "    crate::inbox::settle()",
        "use crate::{event::Event, inbox::Inbox};",
        "use crate::{\n    event::{EventKey, Place},\n    inbox::Inbox,\n};",
        "#[cfg(test)]\nmod tests;\nuse crate::inbox::Inbox;",
    ] {
        assert_eq!(upward("store", named_rooms(text)), ["inbox"], "{text}");
    }
    assert_eq!(upward("store", named_rooms("use crate::Outcome;")), ["Outcome"]);
    assert!(upward("store", named_rooms("/// [`crate::inbox`]\nuse crate::event::EventKey;")).is_empty());
}

/// Where a request becomes verified is one place.
#[test]
fn what_is_verified_is_made_in_one_file() {
    let makes = |path: &PathBuf| fs::read_to_string(path).unwrap().contains("impl Verified {");
    assert_eq!(sources(&src()).into_iter().filter(makes).count(), 1);
}

#[test]
fn no_file_is_too_long() {
    for path in sources(&src()) {
        let lines = code(&fs::read_to_string(&path).unwrap()).len();
        assert!(lines <= LONGEST, "{} has {lines} lines of code, more than {LONGEST}", path.display());
    }
}
