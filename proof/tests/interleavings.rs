//! The memory store under every order in which two or three threads can take their steps.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)]

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::thread;
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey};
use sendarix_webhooks_proof::memory::{Instant, MemoryStore, reach_the_bound};

const LEASE: Duration = Duration::from_secs(60);
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// The store, by the methods that a receiver calls.
#[derive(Clone)]
struct Memory(Arc<MemoryStore>);

/// Something in memory is never waited for.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the memory waits for something"),
    }
}

impl Memory {
    fn claim(&self, id: &str, token: ClaimToken, lease: Duration) -> Claim {
        now(self.0.claim(&key(id), token, lease)).unwrap()
    }

    fn complete(&self, id: &str, token: ClaimToken) -> bool {
        self.complete_for(id, token, RETENTION)
    }

    fn complete_for(&self, id: &str, token: ClaimToken, retention: Duration) -> bool {
        now(self.0.complete(&key(id), token, retention)).unwrap()
    }

    fn release(&self, id: &str, token: ClaimToken) -> bool {
        now(self.0.release(&key(id), token)).unwrap()
    }

    fn give_up(&self, id: &str, token: ClaimToken) -> bool {
        now(self.0.give_up(&key(id), token, RETENTION)).unwrap()
    }

    fn is_completed(&self, id: &str) -> bool {
        now(self.0.is_completed(&key(id))).unwrap()
    }

    /// Closes a page as if all of them took too much: the one that was inserted longest ago.
    fn forget_the_oldest(&self) {
        reach_the_bound();
        let _ = self.0.remembered_bytes();
    }

    fn reopen(&self, id: &str) {
        now(self.0.reopen(&key(id))).unwrap();
    }
}

fn key(id: &str) -> EventKey {
    EventKey::new("default", id)
}

/// Runs a test for every order of its threads' steps, on an empty memory.
fn explore(test: impl Fn(&Memory) + Send + Sync + 'static) {
    let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    loom::model(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Instant::set(Duration::ZERO);
        test(&Memory(Arc::default()));
    });
    println!("{} interleavings", runs.load(std::sync::atomic::Ordering::Relaxed));
}

fn spawn<T: 'static>(memory: &Memory, step: impl FnOnce(&Memory) -> T + 'static) -> thread::JoinHandle<T> {
    let memory = memory.clone();
    thread::spawn(move || step(&memory))
}

#[test]
fn of_three_copies_of_an_event_one_is_handled() {
    explore(|memory| {
        let deliver = |memory: &Memory| {
            let token = ClaimToken::random();
            match memory.claim("evt", token, LEASE) {
                Claim::Granted { attempt } => {
                    assert_eq!(attempt, 1);
                    assert!(memory.complete("evt", token));
                    1
                }
                Claim::InFlight { remaining } => {
                    assert_eq!(remaining, LEASE);
                    0
                }
                Claim::Completed => 0,
                other => unreachable!("{other:?}"),
            }
        };
        let others = [spawn(memory, deliver), spawn(memory, deliver)];
        let handled = deliver(memory) + others.map(|other| other.join().unwrap()).iter().sum::<u32>();
        assert_eq!(handled, 1);
        assert_eq!(memory.claim("evt", ClaimToken::random(), LEASE), Claim::Completed);
    });
}

#[test]
fn a_claim_that_is_taken_over_is_completed_once() {
    explore(|memory| {
        let [late, next] = [ClaimToken::random(), ClaimToken::random()];
        assert_eq!(memory.claim("evt", late, Duration::ZERO), Claim::Granted { attempt: 1 });
        let late = spawn(memory, move |memory| memory.complete("evt", late));
        let granted = memory.claim("evt", next, LEASE) == Claim::Granted { attempt: 2 };
        let completed = granted && memory.complete("evt", next);
        assert_eq!(u32::from(late.join().unwrap()) + u32::from(completed), 1);
        assert_eq!(memory.claim("evt", ClaimToken::random(), LEASE), Claim::Completed);
    });
}

#[test]
fn a_late_release_takes_nothing_from_its_successor() {
    explore(|memory| {
        let [late, next] = [ClaimToken::random(), ClaimToken::random()];
        assert_eq!(memory.claim("evt", late, Duration::ZERO), Claim::Granted { attempt: 1 });
        let released = spawn(memory, move |memory| memory.release("evt", late));
        let given_up = spawn(memory, move |memory| memory.give_up("evt", late));
        let claim = memory.claim("evt", next, LEASE);
        let (released, given_up) = (released.join().unwrap(), given_up.join().unwrap());
        match claim {
            Claim::Granted { attempt: 2 } => {
                assert!(memory.complete("evt", next), "it is the successor's still");
                assert!(!given_up);
            }
            Claim::GivenUp => assert!(given_up && !released),
            _ => panic!("{claim:?}"),
        }
    });
}

#[test]
fn a_reopened_event_is_claimed_by_one() {
    explore(|memory| {
        let [first, second] = [ClaimToken::random(), ClaimToken::random()];
        assert_eq!(memory.claim("evt", first, LEASE), Claim::Granted { attempt: 1 });
        assert!(memory.give_up("evt", first));
        let redrive = |memory: &Memory, token| {
            memory.reopen("evt");
            matches!(memory.claim("evt", token, LEASE), Claim::Granted { attempt: 2 })
        };
        let other = spawn(memory, move |memory| redrive(memory, second));
        let granted = redrive(memory, ClaimToken::random());
        assert!(granted ^ other.join().unwrap());
    });
}

/// Pages hold ids of one retention.
#[test]
fn events_with_new_retentions_are_all_remembered() {
    for retentions in [[RETENTION, RETENTION], [RETENTION, RETENTION * 2]] {
        explore(move |memory| {
            let handle = |memory: &Memory, id: &str, retention| {
                let token = ClaimToken::random();
                assert_eq!(memory.claim(id, token, LEASE), Claim::Granted { attempt: 1 });
                assert!(memory.complete_for(id, token, retention));
            };
            let other = spawn(memory, move |memory| handle(memory, "evt_1", retentions[0]));
            handle(memory, "evt_2", retentions[1]);
            other.join().unwrap();
            for id in ["evt_1", "evt_2"] {
                assert_eq!(memory.claim(id, ClaimToken::random(), LEASE), Claim::Completed, "{id}");
            }
        });
    }
}

/// On either side of the time for which a page takes ids.
#[test]
fn an_event_is_remembered_through_the_change_of_pages() {
    explore(|memory| {
        let [first, next] = [ClaimToken::random(), ClaimToken::random()];
        assert_eq!(memory.claim("evt_1", first, LEASE), Claim::Granted { attempt: 1 });
        assert!(memory.complete("evt_1", first));
        assert_eq!(memory.claim("evt_2", next, RETENTION), Claim::Granted { attempt: 1 });
        let other = spawn(memory, move |memory| {
            Instant::set(RETENTION / 3);
            assert_eq!(memory.claim("evt_1", ClaimToken::random(), LEASE), Claim::Completed);
        });
        assert!(memory.complete("evt_2", next));
        assert_eq!(memory.claim("evt_1", ClaimToken::random(), LEASE), Claim::Completed);
        other.join().unwrap();
        Instant::set(RETENTION);
        assert_eq!(memory.claim("evt_2", ClaimToken::random(), LEASE), Claim::Completed);
    });
}

/// The id goes into the page before it closes, and is counted as forgotten; or after, into a new page. The second and the
/// fourth id of a page are tried: with the fourth, the page grows, and is inserted into the cache again.
#[test]
fn an_id_whose_page_closes_meanwhile_is_remembered_or_counted() {
    const IDS: [&str; 4] = ["evt_1", "evt_2", "evt_3", "evt_4"];
    for count in [2, 4] {
        explore(move |memory| {
            let handle = |id: &str| {
                let token = ClaimToken::random();
                assert_eq!(memory.claim(id, token, LEASE), Claim::Granted { attempt: 1 });
                assert!(memory.complete(id, token));
            };
            let (last, before) = IDS[..count].split_last().unwrap();
            before.iter().for_each(|id| handle(id));
            let closing = spawn(memory, Memory::forget_the_oldest);
            handle(last);
            closing.join().unwrap();
            let known = |id: &&&str| memory.is_completed(id);
            assert_eq!(before.iter().find(known), None, "they were there before");
            let known = IDS[..count].iter().filter(known).count() as u64;
            assert_eq!(known + memory.0.forgotten(), count as u64);
            handle("evt_later");
            assert!(memory.is_completed("evt_later"));
        });
    }
}

#[test]
fn of_two_copies_no_more_are_handled_than_are_forgotten_between() {
    explore(|memory| {
        let deliver = |memory: &Memory| {
            let token = ClaimToken::random();
            let granted = matches!(memory.claim("evt", token, LEASE), Claim::Granted { .. });
            assert!(!granted || memory.complete("evt", token), "a live claim is never forgotten");
            u64::from(granted)
        };
        let others = [
            spawn(memory, deliver),
            spawn(memory, |memory| {
                memory.forget_the_oldest();
                0
            }),
        ];
        let handled = deliver(memory) + others.map(|other| other.join().unwrap()).iter().sum::<u64>();
        assert!((1..=1 + memory.0.forgotten()).contains(&handled), "{handled}");
    });
}
