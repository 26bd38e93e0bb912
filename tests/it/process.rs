//! Events that a worker handles: `Inbox::process`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sendarix_webhooks::inbox::{Draining, ProcessError};
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey};
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{Delivery, EventType, HandlerError, Inbox, Outcome, SendarixEvent};

use crate::support::FaultyStores;

fn inbox(stores: &FaultyStores) -> Inbox {
    Inbox::builder("jobs").store(stores.clone()).dead_letters(stores.clone()).build().unwrap()
}

fn job(id: &str) -> SendarixEvent {
    SendarixEvent::decode(Sample::new(EventType::Bounce).event_id(id).body()).unwrap()
}

async fn succeed(_: Delivery) -> Result<(), HandlerError> {
    Ok(())
}

#[tokio::test]
async fn a_job_that_comes_again_is_handled_once() {
    let inbox = inbox(&FaultyStores::default());
    assert_eq!(inbox.process(job("evt_1"), succeed).await, Ok(Outcome::Processed));
    assert_eq!(inbox.process(job("evt_1"), succeed).await, Ok(Outcome::Duplicate));
}

#[tokio::test]
async fn a_job_that_another_worker_has_is_waited_for() {
    let stores = FaultyStores::default();
    let lease = Duration::from_millis(300);
    let claim = stores.claim(&EventKey::new("jobs", "evt_1"), ClaimToken::random(), lease).await.unwrap();
    assert_eq!(claim, Claim::Granted { attempt: 1 });
    let attempt = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&attempt);
    let handler = move |delivery: Delivery| {
        seen.store(delivery.attempt() as usize, Ordering::SeqCst);
        async { Ok::<(), HandlerError>(()) }
    };
    assert_eq!(inbox(&stores).process(job("evt_1"), handler).await, Ok(Outcome::Processed));
    assert_eq!(attempt.load(Ordering::SeqCst), 2, "the claim of the other one was over");
}

#[tokio::test]
async fn a_failure_is_an_error_of_the_job_and_says_why() {
    let stores = FaultyStores::default();
    let failed = inbox(&stores).process(job("evt_1"), |_| async { Err::<(), _>("no mailbox".into()) }).await;
    let error = failed.unwrap_err();
    assert_eq!(error.to_string(), "failed; deliver the event again: no mailbox");
    assert_eq!(stores.letters()[0].signature, None, "nothing signed a job");
    assert_eq!(inbox(&stores).process(job("evt_1"), succeed).await, Ok(Outcome::Processed));
    assert_eq!(stores.letters(), [], "its letter is resolved");
}

/// The handler has run: to try again is the queue's to decide, which counts it.
#[tokio::test]
async fn a_job_whose_end_cannot_be_kept_is_not_tried_again_here() {
    let stores = FaultyStores::default();
    stores.letters_fail(true);
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let never = move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<(), _>(HandlerError::permanent("no such customer")) }
    };
    let error = inbox(&stores).process(job("evt_1"), never).await.unwrap_err();
    assert!(matches!(error, ProcessError::Failed { outcome: Outcome::StoreUnavailable, .. }), "{error}");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

/// The letter is written whatever the handler's error does.
#[tokio::test]
async fn an_error_that_panics_when_it_is_dropped_is_kept_all_the_same() {
    #[derive(Debug)]
    struct Fragile;
    impl std::fmt::Display for Fragile {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("no such customer")
        }
    }
    impl std::error::Error for Fragile {}
    impl Drop for Fragile {
        fn drop(&mut self) {
            panic!("it broke");
        }
    }
    let stores = FaultyStores::default();
    let never = |_| async { Err::<(), _>(HandlerError::permanent(Fragile)) };
    assert_eq!(inbox(&stores).process(job("evt_1"), never).await, Ok(Outcome::FailedPermanently));
    assert_eq!(stores.letters()[0].error, "no such customer");
}

#[tokio::test]
async fn a_draining_inbox_takes_no_job() {
    let inbox = inbox(&FaultyStores::default());
    inbox.drain().await;
    assert_eq!(inbox.process(job("evt_1"), succeed).await, Err(ProcessError::Draining(Draining)));
    assert_eq!(inbox.redeliver(job("evt_1")).unwrap_err(), Draining);
}
