//! The settings of the memory.

use super::MemoryStore;
use super::store::DEFAULT_MAX_BYTES;
use crate::storage::StoreConfigError;

/// The settings of a [`MemoryStore`].
#[derive(Clone, Debug)]
pub struct MemoryStoreBuilder {
    max_bytes: usize,
}

/// A store with less would forget the events of a busy hour.
const LEAST_BYTES: usize = 16 * 1024 * 1024;

impl MemoryStore {
    /// Configures a store, which has a bound of 512 MiB by default.
    ///
    /// ```
    /// use sendarix_webhooks::Receiver;
    /// use sendarix_webhooks::store::MemoryStore;
    ///
    /// # let secret = sendarix_webhooks::SigningSecret::new("secret")?;
    /// let store = MemoryStore::builder().max_bytes(64 * 1024 * 1024).build()?;
    /// let receiver = Receiver::builder(secret).store(store).dangerously_without_dead_letters().build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder { max_bytes: DEFAULT_MAX_BYTES }
    }
}

impl MemoryStoreBuilder {
    /// How many bytes the remembered ids may take. Default: 512 MiB. A completed event takes 24 to 48 bytes; the store takes
    /// only what its events need. Least: 16 MiB.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Builds an empty store.
    ///
    /// # Errors
    ///
    /// The bound is below 16 MiB, which 350,000 to 700,000 ids fill.
    pub fn build(self) -> Result<MemoryStore, StoreConfigError> {
        if self.max_bytes < LEAST_BYTES {
            let found = self.max_bytes;
            let message = format!("max_bytes is {found}; it must be at least {LEAST_BYTES} (16 MiB)");
            return Err(StoreConfigError::new(message, None));
        }
        Ok(MemoryStore::of_bytes(self.max_bytes))
    }
}
