//! What `MemoryStore` takes for 10,000,000 ids: bytes an id, against moka with one entry an id, and the time of a claim
//! against a store that remembers 10,000.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench memory
//! ```
//!
//! Bytes are the growth of the process's resident memory. moka is filled in a process of its own, so that neither gets
//! memory that the other has given back. The ids are in five slices, as in a store that has been in use for a day, and the
//! claims are of new ids, which is what takes longest: every slice is asked. All are completed, outside of what is timed. A
//! third store has as many ids in one slice. They take turns.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore};
use sendarix_webhooks_benches::Target::AtMost;
use sendarix_webhooks_benches::{Rounds, row, timed};
use tokio::runtime::{Builder, Runtime};

const FEW: usize = 10_000;
const MANY: usize = 10_000_000;
const SLICES: u64 = 5;
const ROUNDS: usize = 100;
const CLAIMS: usize = 1_000;
const LEASE: Duration = Duration::from_secs(60);
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

fn main() {
    if std::env::args().any(|arg| arg == "--moka") {
        return println!("{}", bytes_an_id(moka_with_an_entry_an_id));
    }
    let own_process = Command::new(std::env::current_exe().unwrap()).arg("--moka").output().unwrap();
    let moka: f64 = str::from_utf8(&own_process.stdout).unwrap().trim().parse().unwrap();

    let runtime = Builder::new_current_thread().build().unwrap();
    let (mut many, mut ids) = (None, 0..);
    let slices = bytes_an_id(|| many.insert(Store::with(MANY, SLICES, &runtime, &mut ids)));
    let many = many.unwrap();
    let in_one_slice = Store::with(MANY, 1, &runtime, &mut ids);
    let mut rounds = Rounds::<3>::default();
    for _ in 0..ROUNDS {
        // A new one each time, or it would not stay small.
        let few = Store::with(FEW, SLICES, &runtime, &mut ids);
        rounds.add_turns(|store| [&few, &many, &in_one_slice][store].claims(&mut ids));
    }

    println!("{MANY} ids");
    println!("  moka, one entry an id          {moka:>5.1} bytes an id");
    println!("  MemoryStore                    {slices:>5.1} bytes an id");
    for (candidate, (ids, slices)) in [(FEW, SLICES), (MANY, SLICES), (MANY, 1)].into_iter().enumerate() {
        let claim = rounds.seconds(candidate) * 1e9 / CLAIMS as f64;
        println!("  a claim, {ids:>8} ids, slices: {slices} {claim:>5.0} ns");
    }
    row(
        "bytes a remembered id, 10,000,000 ids",
        &format!("moka with one entry an id: {moka:.0}"),
        AtMost(48.0),
        slices,
    );
    row("time of a claim at 10,000,000 ids", "at 10,000", AtMost(1.5), rounds.ratio(1, 0));
}

/// A key, the token of its claim, and how long it is remembered.
type New = (EventKey, ClaimToken, Duration);

struct Store<'a> {
    store: MemoryStore,
    slices: u64,
    runtime: &'a Runtime,
}

impl<'a> Store<'a> {
    fn with(count: usize, slices: u64, runtime: &'a Runtime, ids: &mut impl Iterator<Item = usize>) -> Self {
        let store = Self { store: MemoryStore::new(), slices, runtime };
        for id in ids.take(count) {
            let new = store.new_event(id);
            store.claim(&new);
            store.complete(&new);
        }
        store
    }

    fn claims(&self, ids: &mut impl Iterator<Item = usize>) -> Duration {
        let mut claim = || {
            let new: Vec<New> = ids.take(CLAIMS).map(|id| self.new_event(id)).collect();
            let took = timed(|| new.iter().for_each(|new| self.claim(new)));
            new.iter().for_each(|new| self.complete(new));
            took
        };
        // The first ones make room for claims, and fetch what every claim needs into the caches, which the other store's turn
        // has driven out.
        claim();
        claim()
    }

    /// Ids of different retentions are in different slices, and so there are five without waiting for a day.
    fn new_event(&self, id: usize) -> New {
        let retention = RETENTION + Duration::from_secs(id as u64 % self.slices);
        (EventKey::new("default", id_text(id)), ClaimToken::random(), retention)
    }

    fn claim(&self, (key, token, _): &New) {
        let claimed = self.runtime.block_on(self.store.claim(key, *token, LEASE)).unwrap();
        assert_eq!(claimed, Claim::Granted { attempt: 1 });
    }

    fn complete(&self, (key, token, retention): &New) {
        assert!(self.runtime.block_on(self.store.complete(key, *token, *retention)).unwrap());
    }
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
