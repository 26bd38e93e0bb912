//! Dead letters from the command line, in every store.

use std::process::{Command, Output};

use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Head, Outcome, Receiver, SigningSecret};

use crate::support::{Backend, Kind, example};

fn dead_letters(backend: &Backend, arguments: &[&str]) -> Output {
    let mut command = Command::new(example("dead_letters"));
    command.args(["--store", &backend.url()]).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

async fn deliver(receiver: &Receiver, body: Vec<u8>, permanent: bool) -> Outcome {
    let secret = SigningSecret::new("a secret for tests").unwrap();
    let headers = signed_headers(&secret, &body, std::time::SystemTime::now());
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    let verified = receiver.admit(&Head::new("POST", headers)).unwrap().verify(body).unwrap();
    let fails = move |_: Delivery| async move {
        let error = "the mailbox\nis closed";
        Err::<(), _>(if permanent { HandlerError::permanent(error) } else { HandlerError::retry(error) })
    };
    verified.deliver(fails).await.outcome()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_shown_and_redriven() {
    for kind in Kind::ALL {
        let backend = Backend::start(kind);
        let (store, letters) = backend.stores();
        let receiver = Receiver::builder(SigningSecret::new("a secret for tests").unwrap());
        let receiver = receiver.shared_store(store).shared_dead_letters(letters).build().unwrap();
        let sample = |id: &str| Sample::new(EventType::Bounce).event_id(id).body();
        assert_eq!(stdout(&dead_letters(&backend, &["list"])), "");
        assert_eq!(deliver(&receiver, sample("evt_failed"), false).await, Outcome::Failed);
        assert_eq!(deliver(&receiver, sample("evt_permanent"), true).await, Outcome::FailedPermanently);
        assert_eq!(deliver(&receiver, b"no event".to_vec(), false).await, Outcome::Malformed);

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
        assert_eq!((nothing.status.code(), stdout(&nothing)), (Some(1), String::new()));

        let one = dead_letters(&backend, &["redrive", "evt_permanent"]);
        assert_eq!(one.status.code(), Some(0), "{kind:?}: {one:?}");
        assert!(stdout(&one).starts_with("handled bounce evt_permanent "), "{kind:?}: {one:?}");
        assert_eq!(dead_letters(&backend, &["redrive", "evt_permanent"]).status.code(), Some(1), "it is gone");

        let all = dead_letters(&backend, &["redrive", "--all"]);
        assert_eq!(all.status.code(), Some(1), "{kind:?}: one is left: {all:?}");
        assert!(stdout(&all).starts_with("handled bounce evt_failed "), "{kind:?}: {all:?}");
        let said = String::from_utf8(all.stderr).unwrap();
        assert!(said.contains("evt_failed: processed") && said.contains(&format!("{malformed}: malformed")), "{said}");
        assert!(said.contains("2 redriven, 1 of them left"), "{said}");
        let left = stdout(&dead_letters(&backend, &["list"]));
        assert!(
            left.starts_with(&format!("{malformed} malformed 2 ")) && left.lines().count() == 1,
            "{kind:?}: {left}"
        );

        // What was redriven is a duplicate for the sender.
        for id in ["evt_failed", "evt_permanent"] {
            assert_eq!(deliver(&receiver, sample(id), true).await, Outcome::Duplicate, "{kind:?}: {id}");
        }
    }
}
