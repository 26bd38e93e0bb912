//! The suites that every store must pass, run for those of this crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sendarix_webhooks::EventType;
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore, StoreError, StoreFuture};
use sendarix_webhooks::testing::{Sample, conformance};
use tokio::task::JoinSet;

use crate::support::{Endpoint, FaultyStores, Front, TempFile, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    conformance::dedup_store(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_agrees_with_a_model_over_random_sequences() {
    let store = Arc::new(MemoryStore::new());
    let mut sequences = JoinSet::new();
    for seed in 0..100 {
        sequences.spawn(conformance::dedup_store_sequence(Arc::clone(&store) as Arc<dyn DedupStore>, seed));
    }
    sequences.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file() {
    let file = TempFile::new("conformance");
    conformance::dead_letters(Arc::new(FileDeadLetters::open(file.path()).unwrap())).await;
}

#[tokio::test]
async fn the_stores_that_these_tests_break_are_sound_by_themselves() {
    conformance::dedup_store(Arc::new(FaultyStores::default())).await;
    conformance::dead_letters(Arc::new(FaultyStores::default())).await;
}

/// A store that comes back to a crowd of claims, none of whose replies had arrived.
#[derive(Debug, Default)]
struct Recovering {
    memory: MemoryStore,
    is_back: AtomicBool,
    releasing: AtomicUsize,
    most: AtomicUsize,
    released: AtomicUsize,
}

#[derive(Clone, Debug, Default)]
struct Crowded(Arc<Recovering>);

impl DedupStore for Crowded {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        StoreFuture::new(async move {
            let _ = self.0.memory.claim(key, token, lease).await?;
            Err(StoreError::new("the reply was lost"))
        })
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        self.0.memory.complete(key, token, retention)
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            tokio::task::yield_now().await;
            if !self.0.is_back.load(Ordering::SeqCst) {
                return Err(StoreError::new("away"));
            }
            self.0.most.fetch_max(self.0.releasing.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.0.releasing.fetch_sub(1, Ordering::SeqCst);
            self.0.released.fetch_add(1, Ordering::SeqCst);
            self.0.memory.release(key, token).await
        })
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        self.0.memory.give_up(key, token, retention)
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        self.0.memory.reopen(key)
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        self.0.memory.is_completed(key)
    }
}

#[tokio::test]
async fn a_store_that_comes_back_is_not_overrun_with_releases() {
    const EVENTS: usize = 40;
    let store = Crowded::default();
    let configured = store.clone();
    let endpoint = Endpoint::start(Front::ANY, |builder| builder.store(configured), |_| async {}).await;
    for _ in 0..EVENTS {
        assert_eq!(endpoint.post(&Sample::new(EventType::Open).body()).await.status, 503);
    }
    store.0.is_back.store(true, Ordering::SeqCst);
    eventually("all claims are released", || store.0.released.load(Ordering::SeqCst) >= EVENTS).await;
    assert_eq!(store.0.most.load(Ordering::SeqCst), 4, "four at once");
    assert_eq!(endpoint.handled(), 0);
}
