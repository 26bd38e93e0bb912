//! What an operator does with many dead letters: choose, redrive at a pace, discard, purge, count.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use sendarix_webhooks::dead_letter::{
    DeadLetter, DeadLetterReason, DeadLetters, LetterFilter, ListedLetter, StoreFuture,
};
use sendarix_webhooks::inbox::{LettersError, RedriveErrorKind};
use sendarix_webhooks::store::EventKey;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{Delivery, EventType, HandlerError, Inbox, Outcome, Timestamp};
use tokio::time::Instant;

use crate::support::{FaultyStores, redrive_all};

fn letter(id: &str, event_type: EventType, reason: DeadLetterReason, error: &str, at: SystemTime) -> DeadLetter {
    let body = Sample::new(event_type).event_id(id).body();
    let mut letter = DeadLetter::new(EventKey::new("default", id), body, reason, at.into());
    letter.error = error.to_owned();
    letter
}

/// Four letters, no two of which are alike, an hour from each other.
fn four() -> (SystemTime, [DeadLetter; 4]) {
    use DeadLetterReason::{Failed, FailedPermanently, Malformed};
    let now = SystemTime::now();
    let ago = |hours: u64| now - Duration::from_secs(hours * 60 * 60);
    let mut malformed = letter("evt_4", EventType::Open, Malformed, "not JSON", ago(1));
    malformed.body = "{".into();
    let letters = [
        letter("evt_1", EventType::Bounce, Failed, "database: timed out", ago(4)),
        letter("evt_2", EventType::Open, Failed, "database: refused", ago(3)),
        letter("evt_3", EventType::Open, FailedPermanently, "no such customer", ago(2)),
        malformed,
    ];
    (now, letters)
}

async fn inbox(letters: &[DeadLetter]) -> (FaultyStores, Inbox) {
    let stores = FaultyStores::default();
    for letter in letters {
        stores.record(letter).await.unwrap();
    }
    let inbox = Inbox::builder("default").store(stores.clone()).dead_letters(stores.clone()).build().unwrap();
    (stores, inbox)
}

fn ids(letters: &[DeadLetter]) -> Vec<&str> {
    letters.iter().map(|letter| letter.key.event_id()).collect()
}

#[test]
fn a_filter_takes_what_meets_each_condition() {
    let (_, letters) = four();
    let taken = |filter: LetterFilter| -> Vec<&str> {
        letters.iter().filter(|letter| filter.matches(letter)).map(|letter| letter.key.event_id()).collect()
    };
    let all = LetterFilter::new;
    let second = letters[1].last_at;
    assert_eq!(taken(all()), ["evt_1", "evt_2", "evt_3", "evt_4"]);
    assert_eq!(taken(all().reason(DeadLetterReason::Failed)), ["evt_1", "evt_2"]);
    let either = all().reason(DeadLetterReason::Failed).reason(DeadLetterReason::Malformed);
    assert_eq!(taken(either), ["evt_1", "evt_2", "evt_4"]);
    assert_eq!(taken(all().event_type("open")), ["evt_2", "evt_3"], "a body that is no event has no type");
    assert_eq!(taken(all().error_contains("database")), ["evt_1", "evt_2"]);
    assert_eq!(taken(all().failed_before(second)), ["evt_1"], "the time itself is not before it");
    assert_eq!(taken(all().failed_since(second)), ["evt_2", "evt_3", "evt_4"]);
    assert_eq!(taken(all().reason(DeadLetterReason::Failed).event_type("open")), ["evt_2"]);
    assert_eq!(taken(all().reason(DeadLetterReason::Other("newer".to_owned()))), [""; 0]);
}

#[tokio::test]
async fn only_the_chosen_are_redriven() {
    let (_, letters) = four();
    let (stores, inbox) = inbox(&letters).await;
    let redrives = inbox.redrive_all(|_| async { Ok(()) }).map(|all| all.only(LetterFilter::new().event_type("open")));
    let redriven: Vec<Outcome> = redrive_all(redrives).await.into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(redriven, [Outcome::Processed; 2]);
    assert_eq!(ids(&stores.letters()), ["evt_1", "evt_4"]);
}

#[tokio::test]
async fn no_more_than_asked_for_are_redriven() {
    let many: Vec<DeadLetter> = (0..250)
        .map(|number| {
            let id = format!("evt_{number:03}");
            letter(&id, EventType::Open, DeadLetterReason::Failed, "", SystemTime::now())
        })
        .collect();
    let (stores, inbox) = inbox(&many).await;
    let redrives = || inbox.redrive_all(|_| async { Ok(()) });
    assert_eq!(redrive_all(redrives().map(|all| all.at_most(120))).await.len(), 120);
    assert_eq!(stores.letters().len(), 130);
    assert_eq!(redrive_all(redrives().map(|all| all.at_most(0))).await.len(), 0);
    assert_eq!(redrive_all(redrives()).await.len(), 130);
}

/// By a clock that moves when everything waits.
#[tokio::test(start_paused = true)]
async fn redriving_keeps_its_pace_and_pauses_while_the_handler_fails() {
    let letters: Vec<DeadLetter> = (0..10)
        .map(|number| {
            letter(&format!("evt_{number}"), EventType::Open, DeadLetterReason::Failed, "", SystemTime::now())
        })
        .collect();
    let (_, inbox) = inbox(&letters).await;
    let begins = async |every, pause, breaks: fn(usize) -> bool| -> Vec<u64> {
        let (start, calls) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
        let mut begins = Vec::new();
        let handler = move |_: Delivery| {
            let fails = breaks(calls.fetch_add(1, Ordering::SeqCst));
            async move { if fails { Err(HandlerError::retry("not now")) } else { Ok(()) } }
        };
        let redrives = inbox.redrive_all(handler).unwrap();
        let mut redrives = redrives.every(Duration::from_secs(every)).pause_after_failure(Duration::from_secs(pause));
        while redrives.next().await.unwrap().is_some() {
            begins.push(start.elapsed().as_secs());
        }
        begins
    };
    let doubling = begins(0, 10, |_| true).await;
    assert_eq!(doubling, [0, 10, 30, 70, 130, 190, 250, 310, 370, 430], "up to a minute");
    let longer = begins(0, 90, |call| call < 2).await;
    assert_eq!(longer, [0, 90, 180, 180, 180, 180, 180, 180, 180, 180], "a pause may be longer; a success ends it");
    assert_eq!(begins(5, 0, |_| true).await, [0, 5], "the others were handled");
}

/// A caller that gives up waiting has taken no letter with it.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_waits_loses_no_letter() {
    let (_, letters) = four();
    let (stores, inbox) = inbox(&letters[..2]).await;
    let redrives = inbox.redrive_all(|_| async { Ok(()) }).unwrap();
    let mut redrives = redrives.every(Duration::from_secs(60));
    assert!(redrives.next().await.unwrap().is_some());
    assert!(tokio::time::timeout(Duration::from_secs(1), redrives.next()).await.is_err());
    assert_eq!(ids(&stores.letters()), ["evt_2"]);
    let redriven = redrives.next().await.unwrap().unwrap();
    assert_eq!((redriven.key.event_id(), redriven.result.unwrap()), ("evt_2", Outcome::Processed));
}

/// An operator looks at the letters while they wait for their turn.
#[tokio::test(start_paused = true)]
async fn a_letter_that_is_discarded_while_it_waits_is_not_redriven() {
    let (_, letters) = four();
    let (_, inbox) = inbox(&letters[..3]).await;
    let redrives = inbox.redrive_all(|_| async { Ok(()) }).unwrap();
    let mut redrives = redrives.every(Duration::from_secs(60));
    assert_eq!(redrives.next().await.unwrap().unwrap().key, letters[0].key);
    assert!(inbox.discard(&letters[1], "a test message").await.unwrap());
    assert_eq!(redrives.next().await.unwrap().unwrap().key, letters[2].key);
    assert!(redrives.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_cannot_be_read_again_costs_itself_alone() {
    let (_, letters) = four();
    let (stores, inbox) = inbox(&letters[..3]).await;
    stores.reading_fails_for("evt_2");
    let redrives = inbox.redrive_all(|_| async { Ok(()) }).unwrap();
    let mut redrives = redrives.every(Duration::from_secs(60));
    let mut ended = Vec::new();
    while let Some(redriven) = redrives.next().await.unwrap() {
        ended.push((redriven.key, redriven.result.map_err(|error| error.kind())));
    }
    let expected = [Ok(Outcome::Processed), Err(RedriveErrorKind::Unreadable), Ok(Outcome::Processed)];
    assert_eq!(ended, letters[..3].iter().map(|letter| letter.key.clone()).zip(expected).collect::<Vec<_>>());
}

/// Else each letter would be told as left alone while the store is away.
#[tokio::test(start_paused = true)]
async fn redriving_ends_where_the_letters_cannot_be_read_again() {
    let (_, letters) = four();
    let (stores, inbox) = inbox(&letters[..3]).await;
    let redrives = inbox.redrive_all(|_| async { Ok(()) }).unwrap();
    let mut redrives = redrives.every(Duration::from_secs(60));
    assert_eq!(redrives.next().await.unwrap().unwrap().key, letters[0].key);
    stores.listing_fails_for("default");
    assert_eq!(redrives.next().await.unwrap_err().kind(), RedriveErrorKind::DeadLetters);
    assert!(redrives.next().await.unwrap().is_none());
    assert_eq!(ids(&stores.letters()), ["evt_2", "evt_3"]);
}

#[tokio::test]
async fn a_letter_is_discarded_unless_it_has_failed_again() {
    let (now, letters) = four();
    let (stores, inbox) = inbox(&letters).await;
    let mut again = letters[0].clone();
    again.last_at = Timestamp::from(now);
    stores.record(&again).await.unwrap();
    assert!(!inbox.discard(&letters[0], "as it was read before").await.unwrap());
    assert!(inbox.discard(&letters[1], "a test message").await.unwrap());
    assert!(!inbox.discard(&letters[1], "twice").await.unwrap());
    assert_eq!(ids(&stores.letters()), ["evt_1", "evt_3", "evt_4"]);
    let malformed = LetterFilter::new().reason(DeadLetterReason::Malformed);
    assert_eq!(inbox.discard_all(&malformed, "from a broken proxy").await.unwrap(), 1);
    assert_eq!(inbox.purge_letters(now - Duration::from_secs(60 * 60)).await.unwrap(), 1, "evt_1 has failed since");
    assert_eq!(ids(&stores.letters()), ["evt_1"]);
    let mut elsewhere = again.clone();
    elsewhere.key = EventKey::new("elsewhere", "evt_1");
    stores.record(&elsewhere).await.unwrap();
    assert_eq!(inbox.discard_all(&LetterFilter::new(), "all").await.unwrap(), 1, "of this endpoint");
    assert_eq!(stores.letters(), [elsewhere]);
}

#[tokio::test]
async fn letters_are_counted_by_reason() {
    let (_, letters) = four();
    let (_, inbox) = inbox(&letters).await;
    let expected =
        [(DeadLetterReason::Failed, 2), (DeadLetterReason::FailedPermanently, 1), (DeadLetterReason::Malformed, 1)];
    assert_eq!(inbox.count_letters().await.unwrap(), HashMap::from(expected));
}

#[tokio::test]
async fn an_inbox_that_keeps_no_letters_says_so() {
    let inbox = Inbox::builder("default").dangerously_without_dead_letters().build().unwrap();
    let (_, letters) = four();
    let errors = [
        inbox.discard(&letters[0], "").await.unwrap_err(),
        inbox.discard_all(&LetterFilter::new(), "").await.unwrap_err(),
        inbox.purge_letters(SystemTime::now()).await.unwrap_err(),
        inbox.count_letters().await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| matches!(error, LettersError::NoDeadLetters)), "{errors:?}");
}

/// A store in which each event fails once more while its letter is on the way to the reader.
#[derive(Debug)]
struct Failing(FaultyStores);

impl DeadLetters for Failing {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        self.0.record(letter)
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        self.0.resolve(key)
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        self.0.get(key)
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedLetter>> {
        StoreFuture::new(async move {
            let page = self.0.list(endpoint, after, limit).await?;
            for letter in page.iter().flatten() {
                let mut again = letter.clone();
                again.last_at = SystemTime::now().into();
                self.0.record(&again).await?;
            }
            Ok(page)
        })
    }

    fn discard<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, bool> {
        self.0.discard(letter)
    }
}

#[tokio::test]
async fn what_fails_again_while_it_is_purged_stays() {
    let (now, letters) = four();
    let stores = FaultyStores::default();
    for letter in &letters {
        stores.record(letter).await.unwrap();
    }
    let inbox = Inbox::builder("default").store(stores.clone()).dead_letters(Failing(stores.clone())).build().unwrap();
    assert_eq!(inbox.purge_letters(now).await.unwrap(), 0);
    assert_eq!(inbox.discard_all(&LetterFilter::new(), "all").await.unwrap(), 0);
    assert_eq!(stores.letters().len(), 4);
}

/// It is the inbox of another endpoint that counts and logs what becomes of it.
#[tokio::test]
async fn a_letter_of_another_endpoint_is_not_discarded() {
    let (_, letters) = four();
    let (stores, inbox) = inbox(&letters).await;
    let elsewhere = inbox.destination("billing").unwrap();
    let error = elsewhere.discard(&letters[0], "").await.unwrap_err();
    let expected = "the letter is of the endpoint `default`, and this inbox of `default/billing`";
    assert_eq!(error.to_string(), expected);
    assert_eq!(stores.letters().len(), 4);
}

/// Each call that is given up has begun a letter.
#[tokio::test(start_paused = true)]
async fn calls_that_are_dropped_keep_the_cap() {
    let (_, letters) = four();
    let (_, inbox) = inbox(&letters).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let slow = move |_: Delivery| {
        count.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(())
        }
    };
    let mut redrives = inbox.redrive_all(slow).unwrap().at_most(2);
    while let Err(_) | Ok(Ok(Some(_))) = tokio::time::timeout(Duration::from_secs(1), redrives.next()).await {}
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
