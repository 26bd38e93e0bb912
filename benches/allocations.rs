//! How often the pipeline asks for memory, an event: `docs/performance.md` says for what. Fails if it is more often.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench allocations
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::process::ExitCode;

use sendarix_webhooks::{Outcome, Receiver};
use sendarix_webhooks_benches::{Event, secret};

/// What is counted for the next event, with some room in the store's maps for it.
const ACCEPTED: u64 = 13;
const FORGED: u64 = 1;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let receiver = Receiver::builder(secret()).build().unwrap();
    let count = |event: Event, outcome: Option<Outcome>| {
        allocation_counter::measure(|| {
            let delivered = event.deliver(&receiver).ok();
            assert_eq!(delivered.map(|delivering| runtime.block_on(delivering).outcome()), outcome);
        })
    };
    // The least of many: now and then a map grows.
    let least = |count: &dyn Fn(usize) -> allocation_counter::AllocationInfo| {
        (0..1000).map(count).min_by_key(|info| info.count_total).unwrap()
    };
    let accepted = least(&|id| count(Event::bounce(id), Some(Outcome::Processed)));
    let forged = least(&|id| count(Event::bounce(id).forged(), None));
    println!("accepted: {} allocations, {} bytes in all", accepted.count_total, accepted.bytes_total);
    println!("forged:   {} allocations, {} bytes in all", forged.count_total, forged.bytes_total);
    println!("| allocations an event, pipeline only | | counted | {} | |", accepted.count_total);
    println!("| the same for a forged request | | counted | {} | |", forged.count_total);
    ExitCode::from(u8::from(accepted.count_total > ACCEPTED || forged.count_total > FORGED))
}
