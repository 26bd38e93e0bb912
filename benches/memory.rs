//! What `MemoryStore` takes: bytes an id, beside moka with one entry an id; the time of a claim and a completion, beside the
//! store of 624c1b7, which had no bound, and with the bound reached; and its longest step.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench memory
//! ```
//!
//! Bytes are the growth of the process's resident memory. moka is filled in a separate process, so that neither gets
//! memory that the other has given back. The ids are of five retentions, and so in as many pages as in a store that has been
//! in use for a day, and all that are claimed are new, which is what takes longest: every page is asked. The stores take
//! turns. A step, which is a claim or a completion, is measured in the time that its thread had a processor.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore};
use sendarix_webhooks_benches::Target::AtMost;
use sendarix_webhooks_benches::{Rounds, median, row, slices, timed};
use tokio::runtime::{Builder, Runtime};

const FEW: usize = 10_000;
const MANY: usize = 10_000_000;
const RETENTIONS: u64 = 5;
const ROUNDS: usize = 100;
const EVENTS: usize = 1_000;
const LEASE: Duration = Duration::from_secs(60);
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// How many times a store is filled for its longest step.
const RUNS: usize = 5;
/// A bound that as many ids reach as another store remembers below its own.
const LEAST_BYTES: usize = 16 * 1024 * 1024;
const FULL_IDS: usize = 1_000_000;
const BELOW_IDS: usize = 300_000;

fn main() {
    if std::env::args().any(|arg| arg == "--moka") {
        return println!("{}", bytes_an_id(moka_with_an_entry_an_id));
    }
    let own_process = Command::new(std::env::current_exe().unwrap()).arg("--moka").output().unwrap();
    let moka: f64 = str::from_utf8(&own_process.stdout).unwrap().trim().parse().unwrap();

    let (runtime, mut ids) = (Builder::new_current_thread().build().unwrap(), 0..);
    let mut at_few = Rounds::<2>::default();
    for _ in 0..ROUNDS {
        // New ones each time, or they would not stay small.
        let few = Store::with(MemoryStore::new(), FEW, &runtime, &mut ids);
        let few_before = Store::with(slices::MemoryStore::new(), FEW, &runtime, &mut ids);
        at_few.add_turns(|turn| if turn == 0 { few.events(&mut ids) } else { few_before.events(&mut ids) });
    }

    let mut many = None;
    let bytes = bytes_an_id(|| many.insert(Store::with(MemoryStore::new(), MANY, &runtime, &mut ids)));
    let many = many.unwrap();
    let many_before = Store::with(slices::MemoryStore::new(), MANY, &runtime, &mut ids);
    let mut at_many = Rounds::<2>::default();
    for _ in 0..ROUNDS {
        at_many.add_turns(|turn| if turn == 0 { many.events(&mut ids) } else { many_before.events(&mut ids) });
    }
    assert_eq!(many.store.forgotten(), 0);
    drop((many, many_before));

    let bounded = || MemoryStore::builder().max_bytes(LEAST_BYTES).build().unwrap();
    let full = Store::with(bounded(), FULL_IDS, &runtime, &mut ids);
    assert!(full.store.forgotten() > 0);
    let mut at_bound = Rounds::<2>::default();
    // It remembers half a million at the end, which is far below its bound.
    let below = Store::with(MemoryStore::new(), BELOW_IDS, &runtime, &mut ids);
    for _ in 0..ROUNDS {
        at_bound.add_turns(|turn| if turn == 0 { full.events(&mut ids) } else { below.events(&mut ids) });
    }

    let steps: Vec<_> = (0..RUNS).map(|_| (longest_step(&runtime, &mut ids), longest_empty_step())).collect();
    let longest = median(steps.iter().map(|(step, _)| milliseconds(*step)));
    let longest_empty = median(steps.iter().map(|(_, empty)| milliseconds(*empty)));

    println!("{MANY} ids");
    println!("  moka, one entry an id   {moka:>6.1} bytes an id");
    println!("  MemoryStore             {bytes:>6.1} bytes an id");
    println!("a claim and a completion");
    let event = |rounds: &Rounds<2>, turn| rounds.seconds(turn) * 1e9 / EVENTS as f64;
    for (at, rounds, before) in [
        ("10,000 ids", &at_few, "624c1b7"),
        ("10,000,000 ids", &at_many, "624c1b7"),
        ("the bound", &at_bound, "below the bound"),
    ] {
        println!("  at {at:<15} {:>5.0} ns, {before} {:>5.0} ns", event(rounds, 0), event(rounds, 1));
    }
    println!("longest steps, and empty ones: {steps:?}");
    let against_moka = format!("moka with one entry an id: {moka:.0}");
    row("bytes a remembered id, 10,000,000 ids", &against_moka, AtMost(48.0), bytes);
    row("the same", "as a share of that", AtMost(0.15), bytes / moka);
    row("claim and completion at 10,000 ids", "the store of 624c1b7", AtMost(1.05), at_few.ratio(0, 1));
    row("claim and completion at 10,000,000 ids", "the store of 624c1b7", AtMost(1.25), at_many.ratio(0, 1));
    row("the same with the bound reached", "not reached", AtMost(1.5), at_bound.ratio(0, 1));
    let empty = format!("an empty step, {longest_empty:.2}; medians of {RUNS} runs");
    row("longest step while 10,000,000 ids go in, ms", &empty, AtMost(1.0), longest);
}

/// A key, the token of its claim, and how long it is remembered.
type New = (EventKey, ClaimToken, Duration);

struct Store<'a, S> {
    store: S,
    runtime: &'a Runtime,
}

impl<'a, S: DedupStore> Store<'a, S> {
    fn with(store: S, count: usize, runtime: &'a Runtime, ids: &mut impl Iterator<Item = usize>) -> Self {
        let store = Self { store, runtime };
        for id in ids.take(count) {
            store.handle(&new_event(id));
        }
        store
    }

    fn events(&self, ids: &mut impl Iterator<Item = usize>) -> Duration {
        let mut events = || {
            let new: Vec<New> = ids.take(EVENTS).map(new_event).collect();
            timed(|| new.iter().for_each(|new| self.handle(new)))
        };
        // The first ones fetch what every event needs into the caches, which the other store's turn has driven out.
        events();
        events()
    }

    fn handle(&self, new: &New) {
        self.claim(new);
        self.complete(new);
    }

    fn claim(&self, (key, token, _): &New) {
        let claimed = self.runtime.block_on(self.store.claim(key, *token, LEASE)).unwrap();
        assert_eq!(claimed, Claim::Granted { attempt: 1 });
    }

    fn complete(&self, (key, token, retention): &New) {
        assert!(self.runtime.block_on(self.store.complete(key, *token, *retention)).unwrap());
    }
}

/// Ids of different retentions are in different pages, and so there are five without waiting for a day.
fn new_event(id: usize) -> New {
    let retention = RETENTION + Duration::from_secs(id as u64 % RETENTIONS);
    (EventKey::new("default", id_text(id)), ClaimToken::random(), retention)
}

/// While as many ids go in as it can remember, all of one retention: no page becomes larger than then.
fn longest_step(runtime: &Runtime, ids: &mut impl Iterator<Item = usize>) -> Duration {
    let store = Store { store: MemoryStore::new(), runtime };
    ids.take(MANY).fold(Duration::ZERO, |longest, id| {
        let (key, token, _) = new_event(id);
        let new = (key, token, RETENTION);
        longest.max(step(|| store.claim(&new))).max(step(|| store.complete(&new)))
    })
}

/// What the machine itself takes from as many steps, such as the time that its host gives to others.
fn longest_empty_step() -> Duration {
    (0..2 * MANY).fold(Duration::ZERO, |longest, _| longest.max(step(|| ())))
}

fn step(step: impl FnOnce()) -> Duration {
    let before = processor_time();
    step();
    processor_time() - before
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

fn id_text(id: usize) -> String {
    format!("evt_{id:012}")
}

fn moka_with_an_entry_an_id() -> moka::sync::Cache<String, ()> {
    let cache = moka::sync::Cache::builder().time_to_live(RETENTION).build();
    (0..MANY).for_each(|id| cache.insert(id_text(id), ()));
    cache.run_pending_tasks();
    cache
}

fn bytes_an_id<T>(fill: impl FnOnce() -> T) -> f64 {
    let before = resident_bytes();
    let filled = fill();
    let bytes = (resident_bytes() - before) as f64 / MANY as f64;
    drop(black_box(filled));
    bytes
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}
