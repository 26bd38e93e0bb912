//! Dead letters from the command line, in every store.

use std::process::{Command, Output};

use sendarix_webhooks::store::MemoryStore;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, HandlerError, Outcome, Receiver};

use crate::support::{Backend, Kind, deliver_body, program, receiver, secret};

fn dead_letters(backend: &Backend, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("sendarix"));
    command.args(["letters", "--store", &backend.url()]).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What is wrong with the place may have a password in it.
#[test]
fn a_place_that_is_none_is_not_shown() {
    for store in ["postgres://user:hunter2@host:notaport/", "mysql://user:hunter2@host", "hunter2"] {
        let mut command = Command::new(program("sendarix"));
        let output = command.args(["letters", "--store", store, "list"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{store}");
        assert!(!format!("{output:?}").contains("hunter2"), "{output:?}");
        let mut command = Command::new(program("shared-store-example"));
        let output = command.env("STORE", store).env("SENDARIX_WEBHOOK_SECRET", "a secret").output().unwrap();
        assert!(!output.status.success(), "{store}");
        assert!(!format!("{output:?}").contains("hunter2"), "{output:?}");
    }
}

/// Delivers an event whose handler fails.
async fn fail(receiver: &Receiver, body: Vec<u8>, permanent: bool) -> Outcome {
    deliver_body(receiver, body, move |_| async move {
        let error = "the mailbox\nis closed";
        Err(if permanent { HandlerError::permanent(error) } else { HandlerError::retry(error) })
    })
    .await
}

/// The dedup store knows nothing of the first attempt any more, and its letter goes all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_letter_of_an_attempt_that_was_forgotten_is_resolved() {
    for kind in Kind::ALL {
        let backend = Backend::start(kind);
        let letters = backend.stores().1;
        let receiver = || {
            let receiver = Receiver::builder(secret()).store(MemoryStore::new());
            receiver.dead_letters(letters.clone()).build().unwrap()
        };
        let body = || Sample::new(EventType::Bounce).event_id("evt_1").body();
        assert_eq!(fail(&receiver(), body(), false).await, Outcome::Failed);
        assert_eq!(letters.list("default", None, 10).await.unwrap().len(), 1, "{kind:?}");
        // The process has started again.
        assert_eq!(deliver_body(&receiver(), body(), |_| async { Ok(()) }).await, Outcome::Processed);
        assert!(letters.list("default", None, 10).await.unwrap().is_empty(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_shown_and_redriven() {
    for kind in Kind::ALL {
        let backend = Backend::start(kind);
        let receiver = receiver(&backend);
        let sample = |id: &str| Sample::new(EventType::Bounce).event_id(id).body();
        assert_eq!(stdout(&dead_letters(&backend, &["list"])), "");
        assert_eq!(fail(&receiver, sample("evt_failed"), false).await, Outcome::Failed);
        assert_eq!(fail(&receiver, sample("evt_permanent"), true).await, Outcome::FailedPermanently);
        assert_eq!(fail(&receiver, b"no event".to_vec(), false).await, Outcome::Malformed);

        let listed = stdout(&dead_letters(&backend, &["list"]));
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(lines.len(), 3, "{kind:?}: {listed}");
        assert!(listed.contains("evt_failed failed 1 ") && listed.contains("the mailbox\\nis closed"), "{listed}");
        assert!(listed.contains("evt_permanent failed_permanently 1 "), "{listed}");
        let malformed = lines.iter().find(|line| line.contains(" malformed ")).unwrap();
        let malformed = malformed.split(' ').next().unwrap();

        let shown = stdout(&dead_letters(&backend, &["show", "evt_permanent"]));
        assert!(shown.contains("reason    failed_permanently") && shown.contains("\"bounce_type\""), "{shown}");
        let nothing = dead_letters(&backend, &["show", "evt_nothing"]);
        assert_eq!((nothing.status.code(), stdout(&nothing)), (Some(2), String::new()));

        let one = dead_letters(&backend, &["redrive", "evt_permanent", "--", "false"]);
        assert_eq!(one.status.code(), Some(1), "{kind:?}: the command failed: {one:?}");
        let one = dead_letters(&backend, &["redrive", "evt_permanent", "--", "cat"]);
        assert_eq!(one.status.code(), Some(0), "{kind:?}: {one:?}");
        assert!(stdout(&one).contains(r#""event_id":"evt_permanent""#), "{kind:?}: {one:?}");
        let gone = dead_letters(&backend, &["redrive", "evt_permanent", "--", "cat"]);
        assert_eq!(gone.status.code(), Some(2), "{kind:?}: it is gone");

        let all = dead_letters(&backend, &["redrive", "--all", "--", "cat"]);
        assert_eq!(all.status.code(), Some(1), "{kind:?}: one is left: {all:?}");
        assert!(stdout(&all).contains(r#""event_id":"evt_failed""#), "{kind:?}: {all:?}");
        let said = String::from_utf8(all.stderr).unwrap();
        assert!(said.contains("evt_failed: processed") && said.contains(&format!("{malformed}: malformed")), "{said}");
        assert!(said.contains("2 redriven, 1 left"), "{said}");
        let left = stdout(&dead_letters(&backend, &["list"]));
        assert!(
            left.starts_with(&format!("{malformed} malformed 2 ")) && left.lines().count() == 1,
            "{kind:?}: {left}"
        );

        // What was redriven is a duplicate for the sender.
        for id in ["evt_failed", "evt_permanent"] {
            assert_eq!(fail(&receiver, sample(id), true).await, Outcome::Duplicate, "{kind:?}: {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_chosen_counted_discarded_and_purged() {
    for kind in Kind::ALL {
        let backend = Backend::start(kind);
        let receiver = receiver(&backend);
        for (id, event_type, permanent) in [
            ("evt_1", EventType::Bounce, false),
            ("evt_2", EventType::Open, false),
            ("evt_3", EventType::Open, true),
            ("evt_4", EventType::Open, false),
        ] {
            fail(&receiver, Sample::new(event_type).event_id(id).body(), permanent).await;
        }
        let ids = |arguments: &[&str]| -> Vec<String> {
            let output = dead_letters(&backend, arguments);
            assert_eq!(output.status.code(), Some(0), "{kind:?}: {arguments:?}: {output:?}");
            stdout(&output).lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
        };
        assert_eq!(ids(&["list", "--type", "open"]), ["evt_2", "evt_3", "evt_4"]);
        assert_eq!(ids(&["list", "--type", "open", "--reason", "failed"]), ["evt_2", "evt_4"]);
        assert_eq!(ids(&["list", "--error", "is closed", "--newer-than", "1h"]), ["evt_1", "evt_2", "evt_3", "evt_4"]);
        assert_eq!(ids(&["list", "--older-than", "1h"]), [""; 0]);
        assert_eq!(stdout(&dead_letters(&backend, &["count"])), "failed 3\nfailed_permanently 1\n", "{kind:?}");

        let misspelled = dead_letters(&backend, &["list", "--reason", "faild"]);
        assert_eq!(misspelled.status.code(), Some(2), "{misspelled:?}");
        let part = dead_letters(&backend, &["--endpoint", "default/billing", "list"]);
        assert_eq!(part.status.code(), Some(0), "the letters of a destination: {part:?}");
        let without = dead_letters(&backend, &["discard", "evt_3"]);
        assert_eq!(without.status.code(), Some(2), "a reason is needed: {without:?}");
        let both = dead_letters(&backend, &["discard", "evt_3", "--type", "open", "--because", "a test"]);
        assert_eq!(both.status.code(), Some(2), "{both:?}");
        assert_eq!(ids(&["discard", "evt_3", "--because", "a test"]), [""; 0]);
        assert_eq!(ids(&["discard", "--all", "--type", "bounce", "--because", "a test"]), [""; 0]);
        assert_eq!(ids(&["list"]), ["evt_2", "evt_4"]);

        let redriven = dead_letters(
            &backend,
            &["redrive", "--all", "--type", "open", "--at-most", "1", "--per-second", "100", "--", "true"],
        );
        assert_eq!(redriven.status.code(), Some(0), "{redriven:?}");
        assert_eq!(ids(&["list"]), ["evt_4"]);
        let pausing = dead_letters(&backend, &["redrive", "--all", "--pause", "1ms", "--", "false"]);
        assert_eq!(pausing.status.code(), Some(1), "{pausing:?}");
        assert_eq!(ids(&["purge", "--older-than", "1h"]), [""; 0]);
        assert_eq!(ids(&["list"]), ["evt_4"]);
        assert_eq!(ids(&["purge", "--older-than", "0s"]), [""; 0]);
        assert_eq!(ids(&["list"]), [""; 0]);
    }
}
