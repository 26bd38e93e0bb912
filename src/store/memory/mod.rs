//! The dedup memory of one process, on [moka](https://docs.rs/moka).
//!
//! A shard is a part of the ids behind a lock. It has the live claims, and the other ids in pages of up to some thousands.
//! moka has one entry for each page, with the page's size and its end. moka decides when a page expires, and which page must
//! go when all of them take too much memory. Its listener then closes the page: it takes the page out of the shard and frees
//! it. The store has no expiry and no eviction beside that.
//!
//! A step looks into the pages of one shard under one lock, and does not ask moka. moka hears of a page only when it begins
//! or grows, and so evicts the page that grew longest ago. moka is called with no lock held, because its listener locks a
//! shard. A page may therefore close while another thread is about to insert it into moka: `cache` then leaves it out.
//!
//! moka has no thread and does nothing without a call. A thread of the store calls it once a second, so that a store gives
//! its memory back while no events come. A task would depend on the runtime of the event that started it.
//!
//! `proof` compiles `store`, `page` and `digest` on another `cache` and another `platform`, and tries every interleaving.

mod builder;
mod cache;
mod digest;
mod page;
mod platform;
mod store;
mod telemetry;
#[cfg(test)]
mod tests;

use super::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};

pub use self::builder::MemoryStoreBuilder;
pub use self::store::MemoryStore;
#[cfg(feature = "metrics")]
pub use self::telemetry::{FORGOTTEN, REMEMBERED_BYTES};
