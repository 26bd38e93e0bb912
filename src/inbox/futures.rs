//! Small futures: a time limit, a rarely taken branch in a box, a step of a store.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use crate::storage::StoreError;
use crate::telemetry::FailedStore;

/// Runs a future to its end; `None` if that takes longer than the limit. One that is ready at once costs no timer, nor
/// the memory for one.
///
/// It is pinned where it lives: an async function that takes a future by value holds it twice.
pub(super) async fn within<F: Future + ?Sized>(limit: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
    match poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        Poll::Ready(output) => Some(output),
        Poll::Pending => Box::pin(timeout(limit, future)).await.ok(),
    }
}

/// Boxes a rarely taken branch, so that it does not enlarge every delivery's future.
pub(super) fn boxed<F: Future>(future: F) -> Pin<Box<F>> {
    Box::pin(future)
}

/// One step of a store failed or took too long.
#[derive(Debug, thiserror::Error)]
#[error("{}", match store {
    FailedStore::Dedup => "the dedup store failed",
    FailedStore::DeadLetters => "the dead-letter store failed",
})]
pub(super) struct StepError {
    store: FailedStore,
    /// The driver's: that the store failed has been said.
    #[source]
    pub(super) cause: Box<dyn Error + Send + Sync>,
}

impl StepError {
    pub(super) fn new(store: FailedStore, error: StoreError) -> Self {
        Self { store, cause: error.into_cause() }
    }
}
