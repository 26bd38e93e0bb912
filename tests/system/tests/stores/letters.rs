//! Dead letters beside the events of the same store: none of an event that was handled is left, and none hides another.

use std::time::{Duration, SystemTime};

use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters, FileDeadLetters};
use sendarix_webhooks::inbox::RedriveErrorKind;
use sendarix_webhooks::store::{Claim, ClaimToken, EventKey};
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, HandlerError, Outcome, Receiver};
use sqlx::{Connection, PgConnection};

use crate::support::{Backend, Kind, deliver, deliver_body, eventually, receiver, secret};

const LEASE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn key(id: &str) -> EventKey {
    EventKey::new("default", id)
}

fn letter(id: &str) -> DeadLetter {
    let body = Sample::new(EventType::Bounce).event_id(id).body();
    let mut letter = DeadLetter::new(key(id), body, DeadLetterReason::Failed, SystemTime::now().into());
    letter.error = "the mailbox is closed".to_owned();
    letter
}

async fn fail(receiver: &Receiver, id: &str) -> Outcome {
    deliver(receiver, id, |_| async { Err(HandlerError::retry("not now")) }).await
}

/// The process dies between the completion and whatever it would do next. There is nothing to do next.
#[tokio::test(flavor = "multi_thread")]
async fn completing_an_event_deletes_its_letter_in_the_same_step() {
    for kind in Kind::ALL {
        let backend = Backend::start(kind);
        let receiver = receiver(&backend);
        let (store, letters) = backend.stores();
        for id in ["evt_1", "evt_2"] {
            assert_eq!(fail(&receiver, id).await, Outcome::Failed, "{kind:?}");
        }
        let (key, token) = (key("evt_1"), ClaimToken::random());
        assert!(letters.get(&key).await.unwrap().is_some(), "{kind:?}");
        assert_eq!(store.claim(&key, token, LEASE).await.unwrap(), Claim::Granted { attempt: 2 });
        assert!(letters.get(&key).await.unwrap().is_some(), "{kind:?}: a claim is no completion");
        // And nothing more, as of a process that is killed just then.
        assert!(store.complete(&key, token, DAY).await.unwrap());
        assert_eq!(letters.get(&key).await.unwrap(), None, "{kind:?}");
        let rest = letters.list("default", None, 10).await.unwrap();
        assert_eq!(rest.len(), 1, "{kind:?}: the others stay");
        // A letter that comes too late, from a delivery that had lost its claim, is not wanted any more.
        letters.record(&letter("evt_1")).await.unwrap();
        assert_eq!(letters.get(&key).await.unwrap(), None, "{kind:?}");
    }
}

/// The late letter is on its way while the completion is not committed yet: it waits, and then is not wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_letter_waits_for_a_completion_that_is_under_way() {
    let backend = Backend::start(Kind::Postgres);
    let (store, letters) = backend.stores();
    let (key, token) = (key("evt_1"), ClaimToken::random());
    assert_eq!(store.claim(&key, token, LEASE).await.unwrap(), Claim::Granted { attempt: 1 });
    let mut connection = PgConnection::connect(&backend.url()).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let complete = "UPDATE sendarix_claims SET state = 'completed', until = now() + interval '1 day'";
    assert_eq!(sqlx::query(complete).execute(&mut *tx).await.unwrap().rows_affected(), 1);
    let recording = tokio::spawn(async move { letters.record(&letter("evt_1")).await });
    let waits = || async { backend.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") != "0" };
    eventually("the letter waits", waits).await;
    tx.commit().await.unwrap();
    recording.await.unwrap().unwrap();
    assert_eq!(backend.sql("SELECT count(*) FROM sendarix_dead_letters"), "0");
}

/// Events and letters apart: the completion does not reach the letter, and the next copy does.
#[tokio::test(flavor = "multi_thread")]
async fn apart_a_letter_that_was_left_behind_is_resolved_by_the_next_copy() {
    for kind in Kind::ALL {
        let backend = Backend::start(kind);
        let letters = std::sync::Arc::new(FileDeadLetters::open(backend.dir().join("letters.jsonl")).unwrap());
        let builder = Receiver::builder(secret()).store(backend.store());
        let receiver = builder.dead_letters(letters.clone()).build().unwrap();
        assert_eq!(fail(&receiver, "evt_1").await, Outcome::Failed);
        let token = ClaimToken::random();
        let store = backend.store();
        assert_eq!(store.claim(&key("evt_1"), token, LEASE).await.unwrap(), Claim::Granted { attempt: 2 });
        assert!(store.complete(&key("evt_1"), token, DAY).await.unwrap());
        assert!(letters.get(&key("evt_1")).await.unwrap().is_some(), "{kind:?}: it was left behind");
        assert_eq!(fail(&receiver, "evt_1").await, Outcome::Duplicate, "{kind:?}");
        assert_eq!(letters.get(&key("evt_1")).await.unwrap(), None, "{kind:?}");
    }
}

/// A reason that a newer version has written, and a letter that was spoilt by hand.
#[tokio::test(flavor = "multi_thread")]
async fn one_letter_that_cannot_be_read_blocks_no_other_and_not_its_own_event() {
    for kind in Kind::ALL {
        let backend = Backend::start(kind);
        let receiver = receiver(&backend);
        let letters = backend.stores().1;
        for id in ["evt_1", "evt_2", "evt_3"] {
            assert_eq!(fail(&receiver, id).await, Outcome::Failed, "{kind:?}");
        }
        let spoil = |id: &str, reason: &str, signature: &str| match kind {
            Kind::Redis => {
                let letter = backend.redis(&["HGET", "sendarix:letters:{default}", id]).unwrap();
                let mut letter: serde_json::Value = serde_json::from_str(&letter).unwrap();
                letter["reason"] = reason.into();
                if !signature.is_empty() {
                    letter["signature"] = signature.into();
                }
                backend.redis(&["HSET", "sendarix:letters:{default}", id, &letter.to_string()]).unwrap();
            }
            _ => {
                let signature = if signature.is_empty() { "signature".to_owned() } else { format!("'{signature}'") };
                backend.sql(&format!(
                    "UPDATE sendarix_dead_letters SET reason = '{reason}', signature = {signature} WHERE event_id = '{id}'"
                ));
            }
        };
        spoil("evt_1", "quarantined", "");
        spoil("evt_2", "failed", "no signature");

        let listed = letters.list("default", None, 10).await.unwrap();
        let reason = &listed[0].as_ref().unwrap().reason;
        assert_eq!(*reason, DeadLetterReason::Other("quarantined".to_owned()), "{kind:?}");
        assert_eq!(listed[1].as_ref().unwrap_err().key, key("evt_2"), "{kind:?}");
        letters.get(&key("evt_2")).await.unwrap_err();

        // A further attempt of its own event is answered as any other.
        assert_eq!(fail(&receiver, "evt_2").await, Outcome::Failed, "{kind:?}");
        assert!(letters.get(&key("evt_2")).await.is_ok(), "{kind:?}: the new letter can be read");
        spoil("evt_2", "failed", "no signature");

        let mut redrives = receiver.inbox().redrive_all(|_| async { Ok(()) }).unwrap();
        let mut results = Vec::new();
        while let Some(redriven) = redrives.next().await.unwrap() {
            results.push((redriven.key.event_id().to_owned(), redriven.result.map_err(|error| error.kind())));
        }
        let expected = [
            ("evt_1".to_owned(), Ok(Outcome::Processed)),
            ("evt_2".to_owned(), Err(RedriveErrorKind::Unreadable)),
            ("evt_3".to_owned(), Ok(Outcome::Processed)),
        ];
        assert_eq!(results, expected, "{kind:?}");
        // It is still resolved by its event.
        assert_eq!(deliver(&receiver, "evt_2", |_| async { Ok(()) }).await, Outcome::Processed, "{kind:?}");
        assert!(letters.list("default", None, 10).await.unwrap().is_empty(), "{kind:?}");
    }
}

/// A database logs the text of every statement that fails.
#[tokio::test(flavor = "multi_thread")]
async fn no_body_and_no_error_stands_in_the_log_of_postgres() {
    let backend = Backend::start(Kind::Postgres);
    let receiver = receiver(&backend);
    let body = Sample::new(EventType::Bounce).event_id("evt_1").recipient("recipient@example.com").body();
    let handler = |_: sendarix_webhooks::Delivery| async { Err(HandlerError::permanent("the private error")) };
    assert_eq!(deliver_body(&receiver, body.clone(), handler).await, Outcome::FailedPermanently);
    backend.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no letters today'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON sendarix_dead_letters FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let second = String::from_utf8(body).unwrap().replace("evt_1", "evt_2").into_bytes();
    assert_eq!(deliver_body(&receiver, second, handler).await, Outcome::StoreUnavailable);
    let logged = || async { backend.log().contains("no letters today") };
    eventually("the server has logged it", logged).await;
    let log = backend.log();
    assert!(log.contains("STATEMENT:") && log.contains("INSERT INTO"), "{log}");
    for private in ["recipient@example.com", "the private error"] {
        let hex = const_hex::encode(private);
        assert!(!log.contains(private) && !log.contains(&hex), "{private} in:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_no_letter_from_being_read() {
    let backend = Backend::on_small_disk(Kind::Sqlite, &[]);
    let path = backend.dir().join("letters.jsonl");
    let letters = FileDeadLetters::open(&path).unwrap();
    for number in 0..40 {
        let mut letter = letter(&format!("evt_{number:02}"));
        letter.error = "x".repeat(500_000);
        letters.record(&letter).await.unwrap();
    }
    for number in 1..39 {
        letters.resolve(&key(&format!("evt_{number:02}"))).await.unwrap();
    }
    drop(letters);
    // What a compaction that failed has left of its new file.
    std::fs::write(backend.dir().join("letters.jsonl.new"), vec![0; 300_000]).unwrap();
    let filling = backend.fill_disk();
    let letters = FileDeadLetters::open(&path).expect("every letter is readable");
    assert!(letters.list("default", None, 10).await.unwrap().len() >= 2);
    drop(letters);
    assert!(!backend.dir().join("letters.jsonl.new").exists(), "nothing of it stays");
    std::fs::remove_file(filling).unwrap();
    let letters = FileDeadLetters::open(&path).unwrap();
    letters.record(&letter("evt_next")).await.unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 2_000_000, "compacted, now that there is room");
}
