//! The suites that every store must pass, its own or yours.
//!
//! They run against a real store and need nothing of it to be empty: every key is new. They panic at the first rule
//! that is broken, and name it.

#![expect(clippy::panic, reason = "a broken rule should fail the test that runs the suite")]

mod dedup;
mod letters;
mod sequence;

use std::fmt::Display;
use std::time::Duration;

use crate::store::EventKey;

pub use self::dedup::dedup_store;
pub use self::letters::dead_letters;
pub use self::sequence::dedup_store_sequence;

/// A lease or retention that does not end during the suite.
const LONG: Duration = Duration::from_secs(300);

fn new_key() -> EventKey {
    EventKey::new("conformance", format!("evt_{:032x}", rand::random::<u128>()))
}

fn must<T, E: Display + std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("the store failed: {error} ({error:?})"))
}
