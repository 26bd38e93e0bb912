//! The trace of a delivery, on its way into a queue or onto a bus.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::logging::TARGET;

/// Returns the header fields of the current trace, from the application's propagator: `traceparent`, `tracestate`.
#[derive(Clone, Default)]
pub(super) struct TraceContext(Option<Arc<dyn Fn() -> HashMap<String, String> + Send + Sync>>);

impl TraceContext {
    pub(super) fn new(current: impl Fn() -> HashMap<String, String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(current)))
    }

    /// The names and values to send along. A propagator that panics costs the trace, and not the event.
    pub(super) fn fields(&self) -> HashMap<String, String> {
        let Some(current) = &self.0 else { return HashMap::new() };
        catch_unwind(AssertUnwindSafe(|| current())).unwrap_or_else(|_| {
            tracing::error!(target: TARGET, "the function that names the current trace panicked; the event goes without it");
            HashMap::new()
        })
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TraceContext").field(&self.0.is_some()).finish()
    }
}
