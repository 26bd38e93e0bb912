//! The file of dead letters, as a crash, a full disk and an operator leave it.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters, FileDeadLetters, ListedLetter};
use sendarix_webhooks::store::EventKey;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, HandlerError, Timestamp};

use crate::support::{Endpoint, Front, TempFile, secret};

fn letter(id: &str, error: &str) -> DeadLetter {
    let at = Timestamp::from_unix_seconds(1_776_600_000).unwrap();
    let body = Sample::new(EventType::Open).event_id(id).message_id("msg_1").timestamp(at).body();
    let signature = secret().sign(&body);
    let mut letter = DeadLetter::new(EventKey::new("default", id), body, DeadLetterReason::Failed, at);
    letter.signature = Some(signature);
    letter.error = error.to_owned();
    letter
}

async fn ids(letters: &FileDeadLetters) -> Vec<String> {
    list(letters).await.into_iter().filter_map(|letter| Some(letter.ok()?.key.event_id().to_owned())).collect()
}

async fn list(letters: &FileDeadLetters) -> Vec<ListedLetter> {
    letters.list("default", None, 10_000).await.unwrap()
}

#[tokio::test]
async fn letters_survive_a_restart() {
    let file = TempFile::new("restart");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    for id in ["a", "b", "c", "d"] {
        letters.record(&letter(id, "first")).await.unwrap();
    }
    letters.resolve(&EventKey::new("default", "b")).await.unwrap();
    letters.record(&letter("a", "second")).await.unwrap();
    drop(letters);
    let letters = FileDeadLetters::open(file.path()).unwrap();
    assert_eq!(ids(&letters).await, ["a", "c", "d"]);
    assert_eq!(*list(&letters).await[0].as_ref().unwrap(), letter("a", "second"));
}

#[tokio::test]
async fn a_torn_last_line_is_dropped_and_nothing_before_it() {
    let file = TempFile::new("torn");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    letters.record(&letter("a", "")).await.unwrap();
    letters.record(&letter("b", "")).await.unwrap();
    drop(letters);
    let whole = fs::read(file.path()).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    // Wherever a crash may cut the second line, and what a file system may leave in its place.
    let mut torn: Vec<Vec<u8>> = (first..whole.len() - 1).map(|cut| whole[..cut].to_vec()).collect();
    torn.push([&whole[..first], &[0; 100]].concat());
    for bytes in torn {
        fs::write(file.path(), &bytes).unwrap();
        let letters = FileDeadLetters::open(file.path()).unwrap();
        assert_eq!(ids(&letters).await, ["a"], "{} bytes", bytes.len());
        letters.record(&letter("c", "")).await.unwrap();
        drop(letters);
        assert_eq!(ids(&FileDeadLetters::open(file.path()).unwrap()).await, ["a", "c"], "{} bytes", bytes.len());
    }
    // Only the line break is missing, as after an editor.
    fs::write(file.path(), &whole[..whole.len() - 1]).unwrap();
    let letters = FileDeadLetters::open(file.path()).unwrap();
    letters.record(&letter("c", "")).await.unwrap();
    drop(letters);
    assert_eq!(ids(&FileDeadLetters::open(file.path()).unwrap()).await, ["a", "b", "c"]);
}

/// A process that is being spawned has a copy of every open file for a moment, and with it the lock.
#[test]
fn it_can_be_opened_again_at_once_while_processes_are_spawned() {
    let file = TempFile::new("spawned");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                std::process::Command::new("true").status().unwrap();
            }
        });
        let opened = (0..200).try_for_each(|_| FileDeadLetters::open(file.path()).map(drop));
        done.store(true, Ordering::SeqCst);
        opened.unwrap();
    });
}

#[tokio::test]
async fn a_line_that_cannot_be_read_is_kept() {
    let file = TempFile::new("unreadable");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    letters.record(&letter("a", "")).await.unwrap();
    drop(letters);
    let mut raw = fs::OpenOptions::new().append(true).open(file.path()).unwrap();
    raw.write_all(b"{\"from\":\"the future\"}\n\xff\xfe\n").unwrap();
    let letters = FileDeadLetters::open(file.path()).unwrap();
    letters.record(&letter("b", "")).await.unwrap();
    letters.resolve(&EventKey::new("default", "a")).await.unwrap();
    assert_eq!(ids(&letters).await, ["b"]);
    drop(letters);
    drop(FileDeadLetters::open(file.path()).unwrap());
    let bytes = fs::read(file.path()).unwrap();
    assert!(bytes.windows(22).any(|window| window == b"{\"from\":\"the future\"}\n"));
    assert!(bytes.windows(3).any(|window| window == b"\xff\xfe\n"));
}

#[tokio::test]
async fn one_letter_that_was_spoilt_by_hand_hides_no_other() {
    let file = TempFile::new("spoilt");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    letters.record(&letter("a", "")).await.unwrap();
    letters.record(&letter("b", "")).await.unwrap();
    drop(letters);
    let text = fs::read_to_string(file.path()).unwrap();
    fs::write(file.path(), text.replacen("\"signature\":\"", "\"signature\":\"oops", 1)).unwrap();
    let letters = FileDeadLetters::open(file.path()).unwrap();
    assert_eq!(ids(&letters).await, ["b"]);
    let listed = list(&letters).await;
    assert_eq!(listed[0].as_ref().unwrap_err().key, EventKey::new("default", "a"), "it is listed all the same");
    letters.get(&EventKey::new("default", "a")).await.unwrap_err();
    drop(letters);
    assert!(fs::read_to_string(file.path()).unwrap().contains("oops"), "it is kept");
}

#[tokio::test]
async fn resolved_letters_are_compacted_away_while_it_runs_and_when_it_opens() {
    let file = TempFile::new("compact");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    letters.record(&letter("kept", "")).await.unwrap();
    let error = "x".repeat(100_000);
    for round in 0..60 {
        let id = format!("evt_{round}");
        letters.record(&letter(&id, &error)).await.unwrap();
        letters.resolve(&EventKey::new("default", id)).await.unwrap();
        assert!(fs::metadata(file.path()).unwrap().len() < 2_500_000, "round {round}");
    }
    assert_eq!(ids(&letters).await, ["kept"]);
    letters.record(&letter("new", &error)).await.unwrap();
    letters.resolve(&EventKey::new("default", "new")).await.unwrap();
    drop(letters);
    assert_eq!(ids(&FileDeadLetters::open(file.path()).unwrap()).await, ["kept"]);
    let text = fs::read_to_string(file.path()).unwrap();
    assert_eq!(text.lines().count(), 1);
}

#[tokio::test]
async fn a_second_user_of_the_file_is_kept_out() {
    let file = TempFile::new("locked");
    let first = FileDeadLetters::open(file.path()).unwrap();
    let error = FileDeadLetters::open(file.path()).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("has it open") && cause.contains(file.path().to_str().unwrap()), "{cause}");
    drop(first);
    FileDeadLetters::open(file.path()).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_to_the_file_is_the_same_file() {
    let (file, link) = (TempFile::new("linked"), TempFile::new("link"));
    let letters = FileDeadLetters::open(file.path()).unwrap();
    letters.record(&letter("a", "first")).await.unwrap();
    std::os::unix::fs::symlink(file.path(), link.path()).unwrap();
    FileDeadLetters::open(link.path()).unwrap_err();
    letters.record(&letter("a", "second")).await.unwrap();
    drop(letters);
    // Compacts, which must not put a file in the place of the link.
    assert_eq!(ids(&FileDeadLetters::open(link.path()).unwrap()).await, ["a"]);
    assert!(fs::symlink_metadata(link.path()).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(file.path()).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_letter_that_nobody_waits_for_any_more_can_be_resolved() {
    let file = TempFile::new("overtaken");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    for round in 0..100 {
        let letter = letter(&format!("evt_{round}"), "");
        // As when the disk takes longer than the store timeout.
        let given_up = tokio::time::timeout(std::time::Duration::ZERO, letters.record(&letter)).await;
        letters.resolve(&letter.key).await.unwrap();
        assert_eq!(letters.get(&letter.key).await.unwrap(), None, "round {round}, given up: {}", given_up.is_err());
    }
    assert!(list(&letters).await.is_empty());
}

#[tokio::test]
async fn a_path_that_cannot_be_written_is_named() {
    let error = FileDeadLetters::open("/nonexistent/letters.jsonl").unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("/nonexistent/letters.jsonl"), "{cause}");
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let file = TempFile::new("private");
    let _letters = FileDeadLetters::open(file.path()).unwrap();
    assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn many_letters_at_once_are_all_kept() {
    let file = TempFile::new("many");
    let letters = Arc::new(FileDeadLetters::open(file.path()).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for id in 0..1000 {
        let letters = Arc::clone(&letters);
        writers.spawn(async move { letters.record(&letter(&format!("evt_{id}"), "")).await.unwrap() });
    }
    writers.join_all().await;
    drop(letters);
    assert_eq!(list(&FileDeadLetters::open(file.path()).unwrap()).await.len(), 1000);
}

/// The dedup memory, and with it the count of attempts, is lost in a restart; the file is not.
#[tokio::test]
async fn a_success_after_a_restart_resolves_the_letter_from_before() {
    let file = TempFile::new("endpoint");
    let letters = Arc::new(FileDeadLetters::open(file.path()).unwrap());
    let body = Sample::new(EventType::Bounce).event_id("evt_1").body();
    let start = async |handler: fn() -> Result<(), HandlerError>| {
        let letters = Arc::clone(&letters);
        Endpoint::start(Front::ANY, |builder| builder.dead_letters(letters), move |_| async move { handler() }).await
    };
    let before = start(|| Err(HandlerError::retry("no database"))).await;
    assert_eq!(before.post(&body).await.status, 503);
    let kept: Vec<DeadLetter> = list(&letters).await.into_iter().map(Result::unwrap).collect();
    assert_eq!((kept[0].body.as_ref(), kept[0].error.as_str()), (body.as_slice(), "no database"));
    let after = start(|| Ok(())).await;
    assert_eq!(after.post(&body).await.status, 200);
    assert!(list(&letters).await.is_empty());
}

/// As `logrotate`, or an operator, does while it is in use.
#[cfg(unix)]
#[tokio::test]
async fn a_file_that_was_moved_or_deleted_is_written_again() {
    let (file, away) = (TempFile::new("moved"), TempFile::new("away"));
    let letters = FileDeadLetters::open(file.path()).unwrap();
    for id in ["a", "b", "resolved"] {
        letters.record(&letter(id, "first")).await.unwrap();
    }
    letters.resolve(&EventKey::new("default", "resolved")).await.unwrap();
    fs::rename(file.path(), away.path()).unwrap();
    letters.record(&letter("c", "")).await.unwrap();
    assert_eq!(ids(&letters).await, ["a", "b", "c"]);
    fs::remove_file(file.path()).unwrap();
    letters.record(&letter("d", "")).await.unwrap();
    // Another file of letters was put in its place: what it holds stays.
    fs::rename(away.path(), file.path()).unwrap();
    letters.record(&letter("a", "second")).await.unwrap();
    let lines = fs::read_to_string(file.path()).unwrap();
    drop(letters);
    let letters = FileDeadLetters::open(file.path()).unwrap();
    assert_eq!(ids(&letters).await, ["a", "b", "c", "d"], "{lines}");
    assert_eq!(list(&letters).await[0].as_ref().unwrap().error, "second");
}

/// Letters are gone with the end of the file, so nothing is promised any more.
#[tokio::test]
async fn a_file_that_was_cut_short_takes_no_more_letters() {
    let file = TempFile::new("cut-short");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    letters.record(&letter("a", "")).await.unwrap();
    let first = fs::metadata(file.path()).unwrap().len();
    letters.record(&letter("b", "")).await.unwrap();
    let whole = fs::read(file.path()).unwrap();
    for len in [0, first, first + 10] {
        fs::OpenOptions::new().write(true).open(file.path()).unwrap().set_len(len).unwrap();
        let error = letters.record(&letter("c", "")).await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("was cut from") && cause.contains(file.path().to_str().unwrap()), "{cause}");
        assert!(list(&letters).await[1].is_err(), "a letter that is gone is no letter");
        assert_eq!(fs::metadata(file.path()).unwrap().len(), len, "nothing is written");
        fs::write(file.path(), &whole).unwrap();
    }
    letters.record(&letter("c", "")).await.unwrap();
    assert_eq!(ids(&letters).await, ["a", "b", "c"], "whole again, it goes on");
}

#[cfg(unix)]
#[tokio::test]
async fn without_its_lock_file_a_second_user_is_kept_out_all_the_same() {
    let file = TempFile::new("unlocked");
    let first = FileDeadLetters::open(file.path()).unwrap();
    fs::remove_file(format!("{}.lock", file.path().display())).unwrap();
    FileDeadLetters::open(file.path()).unwrap_err();
    // Also after a compaction, which replaces the file.
    let error = "x".repeat(100_000);
    for round in 0..30 {
        let id = format!("evt_{round}");
        first.record(&letter(&id, &error)).await.unwrap();
        first.resolve(&EventKey::new("default", id)).await.unwrap();
    }
    let _ = fs::remove_file(format!("{}.lock", file.path().display()));
    FileDeadLetters::open(file.path()).unwrap_err();
    drop(first);
    FileDeadLetters::open(file.path()).unwrap();
}

/// A reader sees every change that was sent before it asked.
#[tokio::test]
async fn a_letter_is_seen_by_whoever_asks_after_it_was_sent() {
    let file = TempFile::new("order");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    for round in 0..200 {
        let letter = letter(&format!("evt_{round:03}"), "");
        let mut recording = letters.record(&letter);
        // Sent, and not waited for.
        let sent = std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut recording).poll(cx))).await;
        assert_eq!(letters.get(&letter.key).await.unwrap().as_ref(), Some(&letter), "round {round}");
        assert_eq!(list(&letters).await.len(), round + 1);
        if sent.is_pending() {
            recording.await.unwrap();
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_mode_that_was_given_to_the_file_stays() {
    use std::os::unix::fs::PermissionsExt;
    let file = TempFile::new("mode");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    let mode = || fs::metadata(file.path()).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
    letters.record(&letter("a", "")).await.unwrap();
    letters.resolve(&EventKey::new("default", "a")).await.unwrap();
    drop(letters);
    // Compacts.
    let letters = FileDeadLetters::open(file.path()).unwrap();
    assert_eq!((mode(), fs::metadata(file.path()).unwrap().len()), (0o640, 0));
    fs::remove_file(file.path()).unwrap();
    letters.record(&letter("b", "")).await.unwrap();
    assert_eq!(mode(), 0o640);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_and_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata("/dev/null").unwrap().permissions().mode();
    for path in ["/dev/null", "/dev", "/tmp"] {
        let error = FileDeadLetters::open(path).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("not a regular file"), "{error:?}");
    }
    assert_eq!(fs::metadata("/dev/null").unwrap().permissions().mode(), mode);
}

/// A reason that a newer version has written costs nothing.
#[tokio::test]
async fn an_unknown_reason_keeps_its_label() {
    let file = TempFile::new("reason");
    let letters = FileDeadLetters::open(file.path()).unwrap();
    letters.record(&letter("a", "")).await.unwrap();
    drop(letters);
    let text = fs::read_to_string(file.path()).unwrap();
    fs::write(file.path(), text.replace("\"failed\"", "\"quarantined\"")).unwrap();
    let letters = FileDeadLetters::open(file.path()).unwrap();
    let read = letters.get(&EventKey::new("default", "a")).await.unwrap().unwrap();
    assert_eq!(read.reason, DeadLetterReason::Other("quarantined".to_owned()));
    letters.record(&letter("a", "again")).await.unwrap();
    let read = letters.get(&EventKey::new("default", "a")).await.unwrap().unwrap();
    assert_eq!((read.reason.as_str(), read.error.as_str()), ("quarantined", "again"), "one that is dead stays so");
}
