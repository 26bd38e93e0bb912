//! The future and the errors of every store, of events and of dead letters alike.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The future that a store's method returns.
///
/// A step may be made when the method is called, or at any poll: wrap the call in `async move` to defer it.
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "a step may do nothing unless it is awaited"]
pub struct StoreFuture<'a, T>(Step<'a, T>);

enum Step<'a, T> {
    /// `None` once the result has been returned.
    Ready(Option<Result<T, StoreError>>),
    Boxed(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>),
}

impl<'a, T> StoreFuture<'a, T> {
    /// A step that waits, such as for a database. It is boxed.
    pub fn new(step: impl Future<Output = Result<T, StoreError>> + Send + 'a) -> Self {
        Self(Step::Boxed(Box::pin(step)))
    }

    /// A step that is done, such as in memory. It allocates nothing.
    pub fn ready(result: Result<T, StoreError>) -> Self {
        Self(Step::Ready(Some(result)))
    }
}

/// Nothing in it is pinned: the result is moved out, and a boxed step stays in its box.
impl<T> Unpin for StoreFuture<'_, T> {}

impl<T> Future for StoreFuture<'_, T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            #[expect(clippy::expect_used, reason = "the caller's mistake, as with any future")]
            Step::Ready(result) => Poll::Ready(result.take().expect("`StoreFuture` was polled after it was ready")),
            Step::Boxed(step) => step.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for StoreFuture<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreFuture").field("is_ready", &matches!(self.0, Step::Ready(_))).finish()
    }
}

/// A store could not make a step, and nothing is known of what happened to it. The cause is its
/// [`source`](Error::source).
#[derive(Debug)]
pub struct StoreError(Box<dyn Error + Send + Sync>);

impl StoreError {
    /// Keeps the driver's own error.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }

    pub(crate) fn into_cause(self) -> Box<dyn Error + Send + Sync> {
        self.0
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store failed")
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.0.as_ref())
    }
}

/// A setting that a store cannot work with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreConfigError {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreConfigError {
    /// The message names the setting, what was found and what is allowed.
    #[cfg(any(feature = "mail", feature = "memory", feature = "postgres", feature = "redis", feature = "sqlite"))]
    pub(crate) fn new(message: impl Into<String>, source: Option<Box<dyn Error + Send + Sync>>) -> Self {
        Self { message: message.into(), source }
    }
}
