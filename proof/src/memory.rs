//! The memory store itself, on primitives whose every interleaving loom tries.
//!
//! Between two steps on a lock or a shared pointer, any other thread may run. What loom does not see are the insides of
//! `arc-swap` and moka: each of their calls is one step here.

mod primitives;
#[path = "../../src/store/memory.rs"]
mod store;

use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};

pub use self::primitives::Instant;
pub use self::store::MemoryStore;
