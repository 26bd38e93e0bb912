//! A limit on how long something may take.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

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
