//! Dead letters that are handled after all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters};
use sendarix_webhooks::inbox::RedriveErrorKind;
use sendarix_webhooks::store::EventKey;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{
    Delivery, EventType, HandlerError, Head, Outcome, RETRY_SCHEDULE, Receiver, ReceiverBuilder, SigningSecret,
    UnknownTypes,
};
use tokio::sync::Semaphore;

use crate::support::{FaultyStores, redrive_all, secret};

struct Desk {
    stores: FaultyStores,
    receiver: Receiver,
}

impl Desk {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(configure: impl FnOnce(ReceiverBuilder) -> ReceiverBuilder) -> Self {
        Self::over(FaultyStores::default(), configure)
    }

    fn over(stores: FaultyStores, configure: impl FnOnce(ReceiverBuilder) -> ReceiverBuilder) -> Self {
        let builder = Receiver::builder(secret()).store(stores.clone()).dead_letters(stores.clone());
        Self { receiver: configure(builder).build().unwrap(), stores }
    }

    /// As Sendarix sends it.
    async fn deliver(&self, body: &[u8], result: Result<(), HandlerError>) -> Outcome {
        let headers = signed_headers(&secret(), body, SystemTime::now());
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let verified = self.receiver.admit(&Head::new("POST", headers)).unwrap().verify(body.to_vec()).unwrap();
        verified.deliver(move |_| async { result }).await.outcome()
    }

    async fn redrive(&self, letter: DeadLetter, result: Result<(), HandlerError>) -> Outcome {
        self.receiver.inbox().redrive(letter).unwrap().deliver(move |_| async { result }).await.outcome()
    }

    fn letter(&self) -> DeadLetter {
        let [letter] = <[DeadLetter; 1]>::try_from(self.stores.letters()).unwrap();
        letter
    }

    fn assert_no_letters(&self) {
        assert_eq!(self.stores.letters(), []);
    }
}

fn event(id: &str) -> Vec<u8> {
    Sample::new(EventType::Bounce).event_id(id).body()
}

fn retry() -> Result<(), HandlerError> {
    Err("not now".into())
}

fn never() -> Result<(), HandlerError> {
    Err(HandlerError::permanent("never"))
}

#[tokio::test]
async fn a_failed_event_is_handled_and_then_a_duplicate() {
    let desk = Desk::new();
    assert_eq!(desk.deliver(&event("evt_1"), retry()).await, Outcome::Failed);
    let letter = desk.letter();
    assert_eq!(desk.redrive(letter.clone(), retry()).await, Outcome::Failed);
    assert_eq!((desk.letter().attempts, desk.letter().first_at), (2, letter.first_at));
    assert_eq!(desk.redrive(desk.letter(), Ok(())).await, Outcome::Processed);
    desk.assert_no_letters();
    assert_eq!(desk.deliver(&event("evt_1"), never()).await, Outcome::Duplicate);
    assert_eq!(desk.redrive(letter, never()).await, Outcome::Duplicate);
    desk.assert_no_letters();
}

/// It was given up, so that copies of it are duplicates. Redriving it is asked for by name.
#[tokio::test]
async fn an_event_that_was_given_up_is_handled_all_the_same_and_once() {
    let desk = Desk::new();
    assert_eq!(desk.deliver(&event("evt_1"), never()).await, Outcome::FailedPermanently);
    assert_eq!(desk.deliver(&event("evt_1"), Ok(())).await, Outcome::Duplicate);
    for (attempts, result, outcome) in [
        (2, retry(), Outcome::Failed),
        (3, never(), Outcome::FailedPermanently),
        (4, never(), Outcome::FailedPermanently),
    ] {
        assert_eq!(desk.redrive(desk.letter(), result).await, outcome);
        let letter = desk.letter();
        assert_eq!((letter.attempts, letter.reason), (attempts, DeadLetterReason::FailedPermanently));
    }
    let letter = desk.letter();
    assert_eq!(desk.deliver(&event("evt_1"), Ok(())).await, Outcome::Duplicate, "a copy is a duplicate still");
    assert_eq!(desk.letter(), letter, "and changes nothing");
    assert_eq!(desk.redrive(letter.clone(), Ok(())).await, Outcome::Processed);
    desk.assert_no_letters();
    assert_eq!(desk.redrive(letter, never()).await, Outcome::Duplicate, "a second operator with an old list");
    desk.assert_no_letters();
}

#[tokio::test]
async fn two_who_redrive_at_the_same_time_do_it_once() {
    for given_up in [false, true] {
        let desk = Desk::new();
        desk.deliver(&event("evt_1"), if given_up { never() } else { retry() }).await;
        let (running, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (started, wait) = (Arc::clone(&running), Arc::clone(&go_on));
        let first = desk.receiver.inbox().redrive(desk.letter()).unwrap().deliver(move |_| async move {
            started.add_permits(1);
            wait.acquire().await.unwrap().forget();
            Ok(())
        });
        let first = tokio::spawn(first);
        running.acquire().await.unwrap().forget();
        assert_eq!(desk.redrive(desk.letter(), never()).await, Outcome::InFlight);
        go_on.add_permits(1);
        assert_eq!(first.await.unwrap().outcome(), Outcome::Processed);
        desk.assert_no_letters();
    }
}

/// The operator's list is older than what has happened to the event.
#[tokio::test]
async fn an_old_copy_of_a_letter_will_do() {
    let desk = Desk::new();
    desk.deliver(&event("evt_1"), retry()).await;
    let old = desk.letter();
    assert_eq!(desk.deliver(&event("evt_1"), never()).await, Outcome::FailedPermanently);
    assert_eq!(desk.redrive(old.clone(), never()).await, Outcome::FailedPermanently);
    assert_eq!((desk.letter().reason, desk.letter().attempts), (DeadLetterReason::FailedPermanently, 2));
    assert_eq!(desk.redrive(old.clone(), Ok(())).await, Outcome::Processed);
    desk.assert_no_letters();
    assert_eq!(desk.redrive(old, Ok(())).await, Outcome::Duplicate);
    desk.assert_no_letters();
}

/// The success was recorded, and its letter could not be resolved.
#[tokio::test]
async fn a_letter_that_was_left_behind_is_resolved_without_the_handler() {
    let desk = Desk::new();
    desk.deliver(&event("evt_1"), retry()).await;
    let left = desk.letter();
    assert_eq!(desk.deliver(&event("evt_1"), Ok(())).await, Outcome::Processed);
    desk.stores.record(&left).await.unwrap();
    assert_eq!(desk.redrive(left, never()).await, Outcome::Duplicate);
    desk.assert_no_letters();
}

#[tokio::test]
async fn an_event_of_a_type_that_has_become_known_is_handled() {
    let desk = Desk::new();
    let body = String::from_utf8(event("evt_1")).unwrap().replace("\"bounce\"", "\"teleported\"");
    assert_eq!(desk.deliver(body.as_bytes(), never()).await, Outcome::UnknownType);
    assert_eq!(desk.redrive(desk.letter(), never()).await, Outcome::UnknownType, "it is still unknown");
    assert_eq!(desk.letter().attempts, 2);
    let newer = Desk::over(desk.stores.clone(), |builder| builder.unknown_types(UnknownTypes::Deliver));
    assert_eq!(newer.redrive(desk.letter(), Ok(())).await, Outcome::Processed);
    desk.assert_no_letters();
    assert_eq!(newer.deliver(body.as_bytes(), never()).await, Outcome::Duplicate);
}

#[tokio::test]
async fn a_malformed_body_stays_where_it_is() {
    let desk = Desk::new();
    assert_eq!(desk.deliver(b"no event", Ok(())).await, Outcome::Malformed);
    let letter = desk.letter();
    assert_eq!(desk.redrive(letter.clone(), Ok(())).await, Outcome::Malformed);
    assert_eq!((desk.letter().key, desk.letter().attempts), (letter.key, 2));
}

#[tokio::test]
async fn an_event_that_was_too_old_is_handled() {
    let desk = Desk::with(|builder| builder.max_event_age(RETRY_SCHEDULE));
    let long_ago = SystemTime::now() - RETRY_SCHEDULE * 2;
    let body = Sample::new(EventType::Bounce).event_id("evt_1").timestamp(long_ago).body();
    assert_eq!(desk.deliver(&body, never()).await, Outcome::Expired);
    // To handle it with all others would be what a replay is after.
    let mut all = desk.receiver.inbox().redrive_all(|_| async { Ok(()) }).unwrap();
    let left = all.next().await.unwrap().unwrap();
    assert_eq!(left.result.unwrap_err().kind(), RedriveErrorKind::Expired);
    assert_eq!(desk.redrive(desk.letter(), Ok(())).await, Outcome::Processed);
    desk.assert_no_letters();
    assert_eq!(desk.deliver(&body, never()).await, Outcome::Duplicate);
}

/// It needs no secret: the letter was verified when it came.
#[tokio::test]
async fn a_letter_outlives_the_secret_that_signed_it() {
    let desk = Desk::new();
    desk.deliver(&event("evt_1"), retry()).await;
    desk.receiver.secrets().replace(SigningSecret::new("another").unwrap());
    assert_eq!(desk.redrive(desk.letter(), Ok(())).await, Outcome::Processed);
}

#[tokio::test]
async fn all_are_redriven_whatever_becomes_of_each() {
    let desk = Desk::new();
    for number in 0..250 {
        desk.deliver(&event(&format!("evt_{number:03}")), retry()).await;
    }
    let mut elsewhere = desk.stores.letters().remove(0);
    elsewhere.key = EventKey::new("elsewhere", "evt_1");
    desk.stores.record(&elsewhere).await.unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let outcomes = desk.receiver.inbox().redrive_all(move |delivery: Delivery| {
        count.fetch_add(1, Ordering::SeqCst);
        let fails = delivery.event().event_id.ends_with('7');
        async move { if fails { retry() } else { Ok(()) } }
    });
    let outcomes = redrive_all(outcomes).await;
    assert_eq!((outcomes.len(), handled.load(Ordering::SeqCst)), (250, 250));
    let failed = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Failed);
    assert!(failed.clone().all(|(key, _)| key.event_id().ends_with('7')));
    assert_eq!(failed.count(), 25);
    assert_eq!(desk.stores.letters().len(), 26, "those that failed, and that of another endpoint");
}

#[tokio::test]
async fn what_cannot_be_redriven_says_why() {
    let desk = Desk::new();
    desk.deliver(&event("evt_1"), retry()).await;
    let elsewhere = Desk::with(|builder| builder.endpoint("elsewhere"));
    let error = elsewhere.receiver.inbox().redrive(desk.letter()).unwrap_err();
    assert_eq!(error.kind(), RedriveErrorKind::OtherEndpoint);
    assert_eq!(error.to_string(), "the letter is of the endpoint `default`, and this inbox of `elsewhere`");

    let without = Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap();
    let error = without.inbox().redrive_all(|_| async { Ok(()) }).unwrap_err();
    assert_eq!(error.kind(), RedriveErrorKind::NoDeadLetters);

    desk.receiver.drain().await;
    assert_eq!(desk.receiver.inbox().redrive(desk.letter()).unwrap_err().kind(), RedriveErrorKind::Draining);
}

/// Another delivery has given the event up again just then, or a failover has lost that it was reopened.
#[tokio::test]
async fn an_event_that_is_not_handled_keeps_its_letter() {
    let desk = Desk::new();
    desk.deliver(&event("evt_1"), never()).await;
    desk.stores.reopening_is_forgotten(true);
    assert_eq!(desk.redrive(desk.letter(), Ok(())).await, Outcome::InFlight);
    assert_eq!(desk.letter().reason, DeadLetterReason::FailedPermanently);
    desk.stores.reopening_is_forgotten(false);
    assert_eq!(desk.redrive(desk.letter(), Ok(())).await, Outcome::Processed);
    desk.assert_no_letters();
}

/// The letter was kept and the reply was lost, so the event was given back: Sendarix and the operator both have it.
#[tokio::test]
async fn an_event_that_the_sender_still_has_is_handled_once() {
    let desk = Desk::new();
    desk.deliver(&event("evt_1"), retry()).await;
    let mut letter = desk.letter();
    letter.reason = DeadLetterReason::FailedPermanently;
    desk.stores.record(&letter).await.unwrap();
    assert_eq!(desk.redrive(desk.letter(), Ok(())).await, Outcome::Processed);
    assert_eq!(desk.deliver(&event("evt_1"), never()).await, Outcome::Duplicate);
    desk.assert_no_letters();
}

/// No sender waits for an acknowledgement, so the next letter waits for the end of this one.
#[tokio::test]
async fn a_slow_handler_is_waited_for() {
    let short = Duration::from_millis(20);
    let desk =
        Desk::with(|builder| builder.acknowledgement_deadline(short).store_timeout(short / 2).body_timeout(short / 2));
    for id in ["evt_1", "evt_2", "evt_3"] {
        desk.deliver(&event(id), retry()).await;
    }
    let running = Arc::new(AtomicUsize::new(0));
    let outcomes = desk.receiver.inbox().redrive_all(move |_| {
        let running = Arc::clone(&running);
        async move {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one after the other");
            tokio::time::sleep(Duration::from_millis(100)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let outcomes = redrive_all(outcomes).await;
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Processed), "{outcomes:?}");
    desk.assert_no_letters();
}

/// While the store is away nothing is handled, and the letter stays.
#[tokio::test]
async fn a_store_that_fails_keeps_the_letter() {
    let desk = Desk::with(|builder| builder.store_timeout(Duration::from_millis(500)));
    desk.deliver(&event("evt_1"), retry()).await;
    desk.stores.claims_fail(true);
    assert_eq!(desk.redrive(desk.letter(), Ok(())).await, Outcome::StoreUnavailable);
    desk.stores.claims_fail(false);
    assert_eq!(desk.redrive(desk.letter(), Ok(())).await, Outcome::Processed);
    desk.assert_no_letters();
}
