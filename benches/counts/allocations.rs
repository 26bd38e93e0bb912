//! How often the pipeline asks for memory, an event: `docs/performance.md` says for what. Fails if it is more often.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-counts --bench allocations
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::process::ExitCode;

use allocation_counter::AllocationInfo;
use sendarix_webhooks::{Outcome, Receiver};
use sendarix_webhooks_counts::{Event, counted, secret};

const ACCEPTED: u64 = 11;
const FORGED: u64 = 1;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let receiver = Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap();
    let count = |event: Event, outcome: Option<Outcome>| {
        allocation_counter::measure(|| {
            let delivered = event.deliver(&receiver).ok();
            assert_eq!(delivered.map(|delivering| runtime.block_on(delivering).outcome()), outcome);
        })
    };
    // The median: now and then a map grows.
    let median = |count: &dyn Fn(usize) -> AllocationInfo| {
        let mut counted: Vec<AllocationInfo> = (0..1001).map(count).collect();
        counted.sort_unstable_by_key(|info| info.count_total);
        counted.swap_remove(500)
    };
    let accepted = median(&|id| count(Event::bounce(id), Some(Outcome::Processed)));
    let forged = median(&|id| count(Event::bounce(id).forged(), None));
    println!("accepted: {} allocations, {} bytes in all", accepted.count_total, accepted.bytes_total);
    println!("forged:   {} allocations, {} bytes in all", forged.count_total, forged.bytes_total);
    counted("allocations an event, pipeline only", accepted.count_total);
    counted("the same for a forged request", forged.count_total);
    ExitCode::from(u8::from(accepted.count_total > ACCEPTED || forged.count_total > FORGED))
}
