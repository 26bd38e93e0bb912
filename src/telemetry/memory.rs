//! The log line and the metrics of a memory store. It may serve several receivers, so it has no endpoint.

use std::sync::{Mutex, PoisonError};

use super::line_limit::LineLimit;
#[cfg(feature = "metrics")]
use super::metrics as numbers;
#[cfg(not(feature = "metrics"))]
use super::no_metrics as numbers;

/// All that one memory store says of itself.
#[derive(Debug)]
pub(crate) struct MemoryTelemetry {
    lines: LineLimit,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    forgotten: u64,
    bytes: u64,
}

impl Default for MemoryTelemetry {
    fn default() -> Self {
        Self { lines: LineLimit::one_a_minute(), told: Mutex::default() }
    }
}

impl MemoryTelemetry {
    /// How many ids the store has forgotten since it began, and how many bytes the others take.
    pub(crate) fn tell(&self, forgotten: u64, bytes: u64) {
        let told = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have told more already.
            let forgotten = forgotten.max(told.forgotten);
            std::mem::replace(&mut *told, Told { forgotten, bytes })
        };
        let more = forgotten.saturating_sub(told.forgotten);
        numbers::memory(more, told.bytes, bytes);
        if more > 0 && self.lines.admit().is_some() {
            let message = "the dedup memory is full and forgets its oldest ids: an event that comes again may be handled \
                again; give it more memory (`MemoryStore::builder().max_bytes`), shorten the receiver's `retention`, or use a \
                shared store";
            tracing::warn!(target: super::TARGET, forgotten, message);
        }
    }
}

/// Takes the bytes of the store out of the sum of all stores.
impl Drop for MemoryTelemetry {
    fn drop(&mut self) {
        self.tell(0, 0);
    }
}
