//! What the memory takes from the standard library, and its dimensions. `proof` compiles the memory on primitives of loom
//! and with the smallest dimensions instead.

pub(super) use std::sync::{Mutex, MutexGuard};
pub(super) use std::time::Instant;

/// How many steps can run at the same time. Many shards also keep pages small: within 512 MiB a table has at most 32,768
/// slots, and doubles in about half a millisecond.
pub(super) const SHARDS: usize = 64;

/// How many ids a new page has room for. With 10,000 ids in five pages a shard, no page has grown.
pub(super) const FIRST_IDS: usize = 56;
