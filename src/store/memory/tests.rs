//! Expiry, the bound and eviction, seen through the methods of the store.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::digest::Digest;
use super::store::TokenTag;
use super::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore};

const LEASE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LEAST: usize = 16 * 1024 * 1024;

/// Something in memory is never waited for.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the memory waits for something"),
    }
}

impl MemoryStore {
    fn claims(&self, id: &str, token: ClaimToken) -> Claim {
        now(self.claim(&key(id), token, LEASE)).unwrap()
    }

    /// Handles the event if it is new, and returns whether it was.
    fn handles(&self, id: &str, retention: Duration) -> bool {
        self.ends(id, How::Completed, retention)
    }

    fn ends(&self, id: &str, how: How, retention: Duration) -> bool {
        let (key, token) = (key(id), ClaimToken::random());
        let granted = matches!(self.claims(id, token), Claim::Granted { .. });
        if granted {
            assert!(match how {
                How::Completed => now(self.complete(&key, token, retention)).unwrap(),
                How::GivenUp => now(self.give_up(&key, token, retention)).unwrap(),
                How::Failed => now(self.release(&key, token)).unwrap(),
            });
        }
        granted
    }

    fn knows(&self, id: &str) -> bool {
        now(self.is_completed(&key(id))).unwrap()
    }

    fn expired(&self) -> u64 {
        self.shards.expired.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug)]
enum How {
    Completed,
    GivenUp,
    Failed,
}

fn key(id: &str) -> EventKey {
    EventKey::new("default", id)
}

fn bounded() -> MemoryStore {
    MemoryStore::builder().max_bytes(LEAST).build().unwrap()
}

/// Tries again until it is true.
fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        thread::sleep(Duration::from_millis(1));
        assert!(start.elapsed() < Duration::from_secs(60), "never");
    }
}

/// Handles events of that number in four threads, each id once and in their order, and returns which are still known.
fn handle_in_four_threads(store: &MemoryStore, events: usize, retention: Duration) -> Vec<bool> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let event = next.fetch_add(1, Ordering::Relaxed)
                    && event < events
                {
                    assert!(store.handles(&format!("evt_{event}"), retention), "{event}");
                }
            });
        }
    });
    (0..events).map(|event| store.knows(&format!("evt_{event}"))).collect()
}

fn count(known: &[bool]) -> u64 {
    known.iter().filter(|known| **known).count() as u64
}

#[test]
fn an_entry_of_a_page_takes_twenty_bytes() {
    // A hash map holds between 7/16 and 7/8 of its slots, and adds one byte to each: 24 to 48 bytes an id.
    assert_eq!(size_of::<(Digest, TokenTag)>(), 20);
}

#[test]
fn nothing_is_forgotten_within_the_retention_below_the_bound() {
    let store = MemoryStore::new();
    assert_eq!(count(&handle_in_four_threads(&store, 200_000, DAY)), 200_000);
    assert_eq!((store.forgotten(), store.expired()), (0, 0));
    let an_id = store.remembered_bytes() / 200_000;
    assert!((24..=60).contains(&an_id), "{an_id} bytes an id");
}

#[test]
fn at_the_bound_every_id_is_remembered_or_counted_as_forgotten_and_the_oldest_go_first() {
    let store = bounded();
    let known = handle_in_four_threads(&store, 1_000_000, DAY);
    assert_eq!(count(&known) + store.forgotten(), 1_000_000);
    assert_eq!(store.expired(), 0);
    let bytes = store.remembered_bytes();
    assert!(bytes <= LEAST as u64, "{bytes} bytes");
    assert_eq!(count(&known[..250_000]), 0, "the oldest quarter is forgotten");
    assert_eq!(count(&known[900_000..]), 100_000, "the newest tenth is remembered");
}

/// Their page hardly grows, and is no older for that than those of the others.
#[test]
fn at_the_bound_a_rare_kind_of_event_is_remembered_as_long_as_the_others() {
    let store = bounded();
    for event in 0..1_000_000 {
        if event % 1000 == 0 {
            assert!(store.ends(&format!("given_up_{event}"), How::GivenUp, DAY));
        }
        assert!(store.handles(&format!("evt_{event}"), DAY));
    }
    assert!(store.forgotten() > 0);
    for event in (900_000..1_000_000).step_by(1000) {
        assert_eq!(store.claims(&format!("given_up_{event}"), ClaimToken::random()), Claim::GivenUp, "{event}");
    }
}

#[test]
fn after_the_retention_every_id_is_expired_or_counted_as_forgotten_and_all_memory_is_given_back() {
    for store in [MemoryStore::new(), bounded()] {
        handle_in_four_threads(&store, 400_000, Duration::from_secs(1));
        until(|| store.remembered_bytes() == 0);
        assert_eq!(store.expired() + store.forgotten(), 400_000);
        assert!(!store.knows("evt_399999"));
    }
}

#[test]
fn a_quiet_store_gives_its_memory_back() {
    let store = MemoryStore::new();
    (0..1000).for_each(|id| assert!(store.handles(&format!("evt_{id}"), Duration::from_secs(1))));
    // This reads a counter and does not call the cache.
    until(|| store.expired() == 1000);
}

#[test]
fn of_racing_copies_one_is_handled_while_the_bound_evicts() {
    const EVENTS: usize = 150_000;
    let (store, granted, side_by_side) = (bounded(), AtomicUsize::new(0), Barrier::new(4));
    thread::scope(|scope| {
        for worker in 0..4 {
            let (store, granted, side_by_side) = (&store, &granted, &side_by_side);
            scope.spawn(move || {
                for event in 0..EVENTS {
                    if event % 1000 == 0 {
                        side_by_side.wait();
                    }
                    let handled = store.handles(&format!("evt_{event}"), DAY);
                    granted.fetch_add(usize::from(handled), Ordering::Relaxed);
                    // What makes the store full.
                    assert!(store.handles(&format!("filler_{worker}_{event}"), DAY));
                }
            });
        }
    });
    assert!(store.forgotten() > 0);
    assert_eq!(granted.into_inner(), EVENTS);
}

#[test]
fn a_live_claim_is_never_forgotten() {
    let (store, token) = (bounded(), ClaimToken::random());
    assert_eq!(store.claims("live", token), Claim::Granted { attempt: 1 });
    handle_in_four_threads(&store, 800_000, DAY);
    assert!(store.forgotten() > 0);
    assert!(matches!(store.claims("live", ClaimToken::random()), Claim::InFlight { .. }));
    assert!(now(store.complete(&key("live"), token, DAY)).unwrap());
}

#[test]
fn events_that_failed_or_were_given_up_are_bounded_too() {
    for how in [How::GivenUp, How::Failed] {
        let store = bounded();
        for id in 0..500_000 {
            assert!(store.ends(&format!("evt_{id}"), how, DAY));
        }
        assert!(store.forgotten() > 0, "{how:?}");
        let bytes = store.remembered_bytes();
        assert!(bytes <= LEAST as u64, "{how:?}: {bytes} bytes");
        let last = store.claims("evt_499999", ClaimToken::random());
        match how {
            How::GivenUp => assert_eq!(last, Claim::GivenUp),
            _ => assert_eq!(last, Claim::Granted { attempt: 2 }),
        }
        assert_eq!(store.claims("evt_0", ClaimToken::random()), Claim::Granted { attempt: 1 }, "{how:?}");
    }
}

#[test]
fn is_forgotten_after_the_retention_and_not_before_however_often_it_is_asked_for() {
    let (store, retention) = (MemoryStore::new(), Duration::from_secs(1));
    let before = Instant::now();
    assert!(store.handles("completed", retention));
    assert!(store.ends("given up", How::GivenUp, retention));
    until(|| !store.knows("completed"));
    assert!(before.elapsed() >= retention, "forgotten after {:?}", before.elapsed());
    until(|| store.claims("given up", ClaimToken::random()) == Claim::Granted { attempt: 1 });
    let elapsed = before.elapsed();
    assert!(elapsed >= retention, "forgotten after {elapsed:?}");
}

#[test]
fn receivers_with_different_retentions_share_a_store() {
    let store = MemoryStore::new();
    let short = Duration::from_secs(1);
    for (id, retention) in [("a", short), ("b", DAY), ("c", Duration::MAX)] {
        assert!(store.handles(id, retention));
    }
    until(|| !store.knows("a"));
    for id in ["b", "c"] {
        assert_eq!(store.claims(id, ClaimToken::random()), Claim::Completed);
    }
}

#[test]
fn a_bound_that_forgets_at_once_is_refused() {
    let refused = MemoryStore::builder().max_bytes(LEAST - 1).build().unwrap_err();
    assert_eq!(refused.to_string(), "max_bytes is 16777215; it must be at least 16777216 (16 MiB)");
}
