//! The real receiver under random schedules: live copies, redrives, takeovers, lost requests and replies, time-outs, hang-ups.
//!
//! Each schedule runs on a simulated clock that jumps to the next thing that happens, and is decided by its seed alone. The
//! seed of one that fails is printed; `SCHEDULE_SEED=… cargo test --release --package sendarix-webhooks-proof --test
//! schedules` runs it again, and `SCHEDULES=…` says how many are run.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing, clippy::expect_used)]

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetters, ListedLetter};
use sendarix_webhooks::inbox::LocalTask;
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, StoreError, StoreFuture};
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Head, Outcome, Receiver, SigningSecret};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

/// In every run.
const SCHEDULES: u64 = 4_000;

const LEASE: Duration = Duration::from_secs(60);
const HANDLER_LIMIT: Duration = Duration::from_secs(50);
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// `SplitMix64`: a seed decides everything that follows.
#[derive(Debug)]
struct Random(Mutex<u64>);

impl Random {
    fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn up_to(&self, longest: Duration) -> Duration {
        Duration::from_millis(self.below(u64::try_from(longest.as_millis()).unwrap() + 1))
    }
}

/// Events and letters, reached over a network that loses and delays.
#[derive(Debug)]
struct Stores {
    random: Arc<Random>,
    /// Completing an event deletes its letter.
    together: bool,
    faults: Mutex<bool>,
    events: Mutex<HashMap<EventKey, Entry>>,
    letters: Mutex<BTreeMap<EventKey, DeadLetter>>,
}

#[derive(Debug)]
struct Entry {
    token: ClaimToken,
    attempt: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Live { until: Instant },
    Failed,
    GivenUp,
    Completed,
}

impl Stores {
    /// Makes a step over the network: the request may be lost, or late, or its reply.
    async fn step<T>(&self, step: impl FnOnce() -> T) -> Result<T, &'static str> {
        if !*self.faults.lock().unwrap() {
            return Ok(step());
        }
        if self.random.one_in(3) {
            sleep(self.random.up_to(Duration::from_secs(3))).await;
        }
        if self.random.one_in(12) {
            return Err("the request was lost");
        }
        let done = step();
        if self.random.one_in(4) {
            sleep(self.random.up_to(Duration::from_secs(3))).await;
        }
        if self.random.one_in(12) {
            return Err("the reply was lost");
        }
        Ok(done)
    }

    fn end(&self, key: &EventKey, token: ClaimToken, state: State) -> bool {
        let mut events = self.events.lock().unwrap();
        let Some(entry) = events.get_mut(key).filter(|entry| entry.token == token) else { return false };
        if !matches!(entry.state, State::Live { .. }) {
            return entry.state == state;
        }
        entry.state = state;
        if state == State::Completed && self.together {
            self.letters.lock().unwrap().remove(key);
        }
        true
    }

    fn is_completed_now(&self, key: &EventKey) -> bool {
        self.events.lock().unwrap().get(key).is_some_and(|entry| entry.state == State::Completed)
    }
}

#[derive(Clone, Debug)]
struct Shared(Arc<Stores>);

impl DedupStore for Shared {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        let claim = move || {
            let now = Instant::now();
            let mut events = self.0.events.lock().unwrap();
            let live = State::Live { until: now + lease };
            let Some(entry) = events.get_mut(key) else {
                events.insert(key.clone(), Entry { token, attempt: 1, state: live });
                return Claim::Granted { attempt: 1 };
            };
            match entry.state {
                State::Completed => return Claim::Completed,
                State::GivenUp => return Claim::GivenUp,
                State::Live { .. } if entry.token == token => entry.state = live,
                State::Live { until } if until > now => return Claim::InFlight { remaining: until - now },
                State::Live { .. } | State::Failed => *entry = Entry { token, attempt: entry.attempt + 1, state: live },
            }
            Claim::Granted { attempt: entry.attempt }
        };
        StoreFuture::new(async move { self.0.step(claim).await.map_err(StoreError::new) })
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, _: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            self.0.step(|| self.0.end(key, token, State::Completed)).await.map_err(StoreError::new)
        })
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        StoreFuture::new(
            async move { self.0.step(|| self.0.end(key, token, State::Failed)).await.map_err(StoreError::new) },
        )
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, _: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            self.0.step(|| self.0.end(key, token, State::GivenUp)).await.map_err(StoreError::new)
        })
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        let reopen = move || {
            if let Some(entry) = self.0.events.lock().unwrap().get_mut(key)
                && entry.state == State::GivenUp
            {
                entry.state = State::Failed;
            }
        };
        StoreFuture::new(async move { self.0.step(reopen).await.map_err(StoreError::new) })
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move { self.0.step(|| self.0.is_completed_now(key)).await.map_err(StoreError::new) })
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        self.0.together.then(|| Arc::new(self.clone()) as Arc<dyn DeadLetters>)
    }
}

impl DeadLetters for Shared {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        let record = move || {
            if self.0.together && self.0.is_completed_now(&letter.key) {
                return;
            }
            let mut letters = self.0.letters.lock().unwrap();
            let mut letter = letter.clone();
            if let Some(earlier) = letters.get(&letter.key) {
                letter = letter.superseding(earlier);
            }
            letters.insert(letter.key.clone(), letter);
        };
        StoreFuture::new(async move { self.0.step(record).await.map_err(StoreError::new) })
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        let resolve = move || drop(self.0.letters.lock().unwrap().remove(key));
        StoreFuture::new(async move { self.0.step(resolve).await.map_err(StoreError::new) })
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        let get = move || self.0.letters.lock().unwrap().get(key).cloned();
        StoreFuture::new(async move { self.0.step(get).await.map_err(StoreError::new) })
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedLetter>> {
        let list = move || {
            let letters = self.0.letters.lock().unwrap();
            let rest = letters.values().filter(|letter| letter.key.endpoint() == endpoint);
            let rest = rest.filter(|letter| after.is_none_or(|after| letter.key.event_id() > after));
            rest.take(limit).cloned().map(Ok).collect()
        };
        StoreFuture::new(async move { self.0.step(list).await.map_err(StoreError::new) })
    }

    fn discard<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, bool> {
        let discard = move || {
            let mut letters = self.0.letters.lock().unwrap();
            letters.get(&letter.key) == Some(letter) && letters.remove(&letter.key).is_some()
        };
        StoreFuture::new(async move { self.0.step(discard).await.map_err(StoreError::new) })
    }
}

fn spawn_local(task: LocalTask) {
    drop(tokio::task::spawn_local(task));
}

/// What handlers have done to one event.
#[derive(Debug, Default)]
struct Handled {
    running: Cell<u32>,
    effects: Cell<u32>,
}

thread_local! {
    static HANDLED: [Handled; EVENTS] = Default::default();
}

const EVENTS: usize = 3;

/// Counts a handler as running until it ends, or is stopped.
struct Running(usize);

impl Running {
    fn begin(event: usize) -> Self {
        HANDLED.with(|handled| {
            let running = &handled[event].running;
            running.set(running.get() + 1);
            assert_eq!(running.get(), 1, "two handlers of event {event} run at the same time");
        });
        Self(event)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        HANDLED.with(|handled| handled[self.0].running.set(handled[self.0].running.get() - 1));
    }
}

fn effects(event: usize) -> u32 {
    HANDLED.with(|handled| handled[event].effects.get())
}

async fn handle(random: Arc<Random>, event: usize, calm: bool) -> Result<(), HandlerError> {
    let running = Running::begin(event);
    if calm {
        HANDLED.with(|handled| handled[event].effects.set(handled[event].effects.get() + 1));
        return Ok(());
    }
    // Now and then longer than the acknowledgement deadline, the limit, the lease.
    let long = [Duration::ZERO, Duration::from_secs(2), Duration::from_secs(12), Duration::from_secs(80)];
    sleep(random.up_to(long[usize::try_from(random.below(4)).unwrap()])).await;
    let result = match random.below(10) {
        0..6 => Ok(()),
        6 | 7 => Err(HandlerError::retry("not now")),
        8 => Err(HandlerError::permanent("never")),
        _ => panic!("the handler panics"),
    };
    if result.is_ok() {
        HANDLED.with(|handled| handled[event].effects.set(handled[event].effects.get() + 1));
    }
    drop(running);
    result
}

fn secret() -> SigningSecret {
    SigningSecret::new("a secret for schedules").unwrap()
}

struct World {
    random: Arc<Random>,
    stores: Shared,
    receivers: [Receiver; 2],
    bodies: Vec<Vec<u8>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let random = Arc::new(Random(Mutex::new(seed)));
        let together = random.one_in(2);
        let (events, letters) = (Mutex::default(), Mutex::default());
        let stores = Stores { random: Arc::clone(&random), together, faults: Mutex::new(true), events, letters };
        let stores = Shared(Arc::new(stores));
        let in_tasks = random.one_in(3);
        let receiver = || {
            let builder = Receiver::builder(secret()).store(stores.clone());
            let builder = if together { builder } else { builder.dead_letters(stores.clone()) };
            let builder = builder.lease(LEASE).handler_limit(HANDLER_LIMIT).store_timeout(STORE_TIMEOUT);
            builder.deliver_in_tasks(in_tasks).build().unwrap()
        };
        let receivers = [receiver(), receiver()];
        let body = |event| Sample::new(EventType::Bounce).event_id(format!("evt_{event}")).body();
        Self { bodies: (0..EVENTS).map(body).collect(), random, stores, receivers }
    }

    /// Delivers a copy, and returns its outcome, unless the connection hangs up.
    async fn deliver(&self, event: usize, calm: bool) -> Option<Outcome> {
        let receiver = &self.receivers[usize::try_from(self.random.below(2)).unwrap()];
        let body = self.bodies[event].clone();
        let headers = signed_headers(&secret(), &body, std::time::SystemTime::now());
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let verified = receiver.admit(&Head::new("POST", headers)).unwrap().verify(body).unwrap();
        let random = Arc::clone(&self.random);
        let delivering = verified.deliver_local(spawn_local, move |_: Delivery| handle(random, event, calm));
        if !calm && self.random.one_in(4) {
            return Some(timeout(self.random.up_to(Duration::from_secs(10)), delivering).await.ok()?.outcome());
        }
        Some(delivering.await.outcome())
    }

    async fn redrive(&self, event: usize, calm: bool) {
        let key = EventKey::new("default", format!("evt_{event}"));
        let letter = self.stores.0.letters.lock().unwrap().get(&key).cloned();
        let Some(letter) = letter else { return };
        let receiver = &self.receivers[usize::try_from(self.random.below(2)).unwrap()];
        let random = Arc::clone(&self.random);
        let redriving = receiver
            .inbox()
            .redrive(letter)
            .unwrap()
            .deliver_local(spawn_local, move |_: Delivery| handle(random, event, calm));
        let _ = redriving.await;
    }

    fn letter(&self, event: usize) -> bool {
        let key = EventKey::new("default", format!("evt_{event}"));
        self.stores.0.letters.lock().unwrap().contains_key(&key)
    }

    fn state(&self, event: usize) -> Option<State> {
        let key = EventKey::new("default", format!("evt_{event}"));
        self.stores.0.events.lock().unwrap().get(&key).map(|entry| entry.state)
    }
}

/// Runs one schedule to its end, and looks whether every promise was kept.
async fn run(seed: u64) {
    HANDLED.with(|handled| {
        for handled in handled {
            handled.effects.set(0);
            assert_eq!(handled.running.get(), 0, "a handler has outlived its schedule");
        }
    });
    let world = Arc::new(World::new(seed));
    let acknowledged = Arc::new(Mutex::new([false; EVENTS]));
    let mut tasks = Vec::new();
    for _ in 0..6 + world.random.below(14) {
        let (world, acknowledged) = (Arc::clone(&world), Arc::clone(&acknowledged));
        let (event, redrives) = (usize::try_from(world.random.below(EVENTS as u64)).unwrap(), world.random.one_in(5));
        let start = world.random.up_to(Duration::from_secs(150));
        tasks.push(tokio::task::spawn_local(async move {
            sleep(start).await;
            if redrives {
                world.redrive(event, false).await;
            } else if world.deliver(event, false).await.is_some_and(Outcome::is_acknowledged) {
                acknowledged.lock().unwrap()[event] = true;
                // At that moment, whatever happens later.
                let state = world.state(event);
                let kept = world.letter(event) || effects(event) > 0;
                assert!(kept, "event {event} is acknowledged, and neither handled nor kept: {state:?}");
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    // Handlers that were slow end, leases end, claims are released.
    sleep(Duration::from_secs(600)).await;
    *world.stores.0.faults.lock().unwrap() = false;
    for event in 0..EVENTS {
        let was_acknowledged = acknowledged.lock().unwrap()[event];
        assert!(!was_acknowledged || effects(event) > 0 || world.letter(event), "event {event} is lost");
        let was_completed = world.state(event) == Some(State::Completed);
        let before = effects(event);
        let outcome = world.deliver(event, true).await.unwrap();
        assert!(outcome.is_acknowledged(), "event {event} is stuck: {outcome}");
        if was_completed {
            assert_eq!((outcome, effects(event)), (Outcome::Duplicate, before), "event {event} is handled again");
        }
        world.redrive(event, true).await;
        assert!(!world.letter(event), "event {event} has been handled, and its letter is left");
        assert_eq!(world.state(event), Some(State::Completed), "event {event} is not handled at the end");
        assert!(effects(event) > 0, "event {event} is not handled at the end");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn random_schedules_over_the_real_receiver_keep_every_promise() {
    // Panics of handlers are part of the schedules.
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if message != "the handler panics" {
            println!("{panic}");
        }
    }));
    let seeds = match number("SCHEDULE_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
            let first = u64::try_from(first & u128::from(u64::MAX >> 1)).unwrap();
            first..first + number("SCHEDULES").unwrap_or(SCHEDULES)
        }
    };
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let schedule = std::panic::catch_unwind(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            LocalSet::new().block_on(&runtime, run(seed));
        });
        assert!(schedule.is_ok(), "SCHEDULE_SEED={seed} breaks a promise");
    }
    println!("{count} schedules");
}
