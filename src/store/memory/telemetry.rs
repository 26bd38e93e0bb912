//! The log line and the metrics of a memory store. It may serve several receivers, so it has no endpoint.

use std::sync::{Mutex, PoisonError};

use crate::logging::{LineLimit, TARGET};

/// Ids that a full memory store forgot early.
#[cfg(feature = "metrics")]
pub const FORGOTTEN: &str = "sendarix_forgotten_total";
/// Bytes that the ids in memory stores take.
#[cfg(feature = "metrics")]
pub const REMEMBERED_BYTES: &str = "sendarix_remembered_bytes";

/// All that one memory store says of itself.
#[derive(Debug)]
pub(super) struct MemoryTelemetry {
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
    pub(super) fn tell(&self, forgotten: u64, bytes: u64) {
        let told = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have told more already.
            let forgotten = forgotten.max(told.forgotten);
            std::mem::replace(&mut *told, Told { forgotten, bytes })
        };
        let more = forgotten.saturating_sub(told.forgotten);
        count(more, told.bytes, bytes);
        if more > 0 && self.lines.admit().is_some() {
            let message = "the dedup memory is full and forgets its oldest ids: an event that comes again may be handled \
                again; give it more memory (`MemoryStore::builder().max_bytes`), shorten the receiver's `retention`, or use a \
                shared store";
            tracing::warn!(target: TARGET, forgotten, "{message}");
        }
    }
}

/// Takes the bytes of the store out of the sum of all stores.
impl Drop for MemoryTelemetry {
    fn drop(&mut self) {
        self.tell(0, 0);
    }
}

/// How many ids one store has forgotten since it last told, and what it took and takes of the bytes of all stores.
#[cfg(feature = "metrics")]
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn count(forgotten: u64, bytes_before: u64, bytes: u64) {
    // Also with 0: an increase is seen only where there was a value before.
    metrics::counter!(FORGOTTEN).increment(forgotten);
    metrics::gauge!(REMEMBERED_BYTES).increment(bytes as f64 - bytes_before as f64);
}

#[cfg(not(feature = "metrics"))]
fn count(_: u64, _: u64, _: u64) {}
