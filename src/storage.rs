//! The future and the errors of every store, of events and of dead letters alike.

use std::error::Error;
use std::fmt;
use std::pin::Pin;

/// What a step of a store returns: boxed, so that stores can be exchanged behind `dyn`.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

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
