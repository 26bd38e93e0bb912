use std::path::PathBuf;
use std::sync::OnceLock;

use bolero::check;
use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters, FileDeadLetters};
use sendarix_webhooks::destination::JsonLines;
use sendarix_webhooks::store::EventKey;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, Timestamp};

/// A directory for this test, in memory where there is such a place.
fn path(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
    place.join(format!("sendarix-fuzz-{}-{name}.jsonl", std::process::id()))
}

fn clear(path: &std::path::Path) {
    for suffix in ["", ".lock", ".new"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap())
}

/// Letters, and behind them whatever a crash, a full disk or an editor left, with or without a line break between: each letter
/// is there, and so is what is kept from then on.
#[test]
fn dead_letters() {
    let path = path("letters");
    let letter = |id: &str| {
        let body = Sample::new(EventType::Open).event_id(id).body();
        let at = Timestamp::from_unix_seconds(1_776_600_000).unwrap();
        DeadLetter::new(EventKey::new("default", id), body, DeadLetterReason::Failed, at)
    };
    let [first, second, later] = ["first", "second", "later"].map(letter);
    clear(&path);
    let letters = FileDeadLetters::open(&path).unwrap();
    for letter in [&first, &second] {
        runtime().block_on(letters.record(letter)).unwrap();
    }
    drop(letters);
    let whole = std::fs::read(&path).unwrap();
    check!().with_type::<(bool, Vec<u8>)>().for_each(|(is_cut, tail)| {
        clear(&path);
        // The last line may have lost its line break.
        let end = whole.len() - usize::from(*is_cut);
        let left = [&whole[..end], tail].concat();
        std::fs::write(&path, &left).unwrap();
        let Ok(letters) = FileDeadLetters::open(&path) else {
            assert_eq!(std::fs::read(&path).unwrap(), left, "a file that is refused is left alone");
            return;
        };
        runtime().block_on(letters.record(&later)).unwrap();
        drop(letters);
        let letters = FileDeadLetters::open(&path).unwrap();
        let kept = runtime().block_on(letters.list("default", None, 1000)).unwrap();
        let has =
            |letter: &DeadLetter| kept.iter().flatten().any(|kept| kept.key == letter.key && kept.body == letter.body);
        // The tail may hold lines that end or supersede them.
        let mentions = |what: &str| tail.windows(what.len()).any(|part| part == what.as_bytes());
        let is_changed = ["letter", "resolved", "\\"].into_iter().any(mentions);
        assert!(has(&later) && (is_changed || has(&first)));
        // Without its line break the second runs into what follows, which may make it no letter.
        assert!(*is_cut || is_changed || has(&second));
    });
    clear(&path);
}

/// Whole lines stay as they are, and a part of one is cut off or made whole. A file of something else is refused.
#[test]
fn json_lines() {
    let path = path("lines");
    check!().for_each(|left: &[u8]| {
        clear(&path);
        std::fs::write(&path, left).unwrap();
        let opened = JsonLines::open(&path).is_ok();
        let found = std::fs::read(&path).unwrap();
        let (whole, tail) = left.split_at(left.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        // Zeros at the end are what some file systems leave of what was never written.
        let text = &tail[..tail.iter().rposition(|byte| *byte != 0).map_or(0, |end| end + 1)];
        let is_json = text == tail && serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok();
        let start = b"{\"event_id\":";
        let is_ours = !whole.is_empty() || text.starts_with(start) || start.starts_with(text);
        assert_eq!(opened, is_ours);
        if !is_ours {
            assert_eq!(found, left, "somebody else's, and left alone");
        } else if is_json {
            assert_eq!(found, [left, b"\n"].concat(), "only its end was missing");
        } else {
            assert_eq!(found, whole);
        }
        assert_eq!(JsonLines::open(&path).is_ok(), opened);
        assert_eq!(std::fs::read(&path).unwrap(), found, "once is enough");
    });
    clear(&path);
}
