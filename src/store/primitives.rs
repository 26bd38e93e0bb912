//! What the memory is built on. `proof/src/memory.rs` compiles the same memory on others, whose every interleaving it tries.

pub(super) use std::hash::RandomState;
pub(super) use std::sync::{Mutex, MutexGuard};
pub(super) use std::time::Instant;

/// So many steps at most can be under way at the same time.
pub(super) const SHARDS: usize = 64;
