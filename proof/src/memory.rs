//! The memory store itself, on primitives whose every interleaving loom tries.
//!
//! Between two steps on a lock, any other thread may run.

mod primitives;
#[path = "../../src/store/memory.rs"]
#[allow(clippy::modulo_one, reason = "here it has one shard")]
mod store;

use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};

pub use self::primitives::Instant;
pub use self::store::MemoryStore;
