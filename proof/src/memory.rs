//! The memory store itself, on primitives whose every interleaving loom tries.
//!
//! Between two steps on a lock, any other thread may run.

mod cache;
#[path = "../../src/store/memory/digest.rs"]
#[allow(clippy::modulo_one, reason = "here it has one shard")]
mod digest;
#[path = "../../src/store/memory/page.rs"]
mod page;
mod platform;
#[path = "../../src/store/memory/store.rs"]
mod store;

use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};

pub use self::cache::reach_the_bound;
pub use self::platform::Instant;
pub use self::store::MemoryStore;
