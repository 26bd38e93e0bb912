//! A memory store that is full.

use std::time::Duration;

use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore};

/// Lets events fail until a store of 16 MiB has forgotten some.
pub async fn fill(store: &MemoryStore) {
    for id in 0.. {
        let (key, token) = (EventKey::new("default", format!("evt_{id}")), ClaimToken::random());
        assert_eq!(store.claim(&key, token, Duration::from_secs(60)).await.unwrap(), Claim::Granted { attempt: 1 });
        assert!(store.release(&key, token).await.unwrap());
        if store.forgotten() > 0 {
            return;
        }
        assert!(id < 1_000_000, "it has no bound");
    }
}
