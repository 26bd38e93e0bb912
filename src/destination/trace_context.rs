//! The trace of a delivery, on its way into a queue or onto a bus.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Names the current trace in the application's words: `traceparent`, and what else its propagator writes.
#[derive(Clone, Default)]
pub(super) struct TraceContext(Option<Arc<dyn Fn() -> HashMap<String, String> + Send + Sync>>);

impl TraceContext {
    pub(super) fn new(current: impl Fn() -> HashMap<String, String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(current)))
    }

    /// The names and values to send along.
    pub(super) fn fields(&self) -> HashMap<String, String> {
        self.0.as_ref().map(|current| current()).unwrap_or_default()
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TraceContext").field(&self.0.is_some()).finish()
    }
}
