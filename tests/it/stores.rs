//! The suites that every store must pass, run for those of this crate.

use std::sync::Arc;

use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::store::{DedupStore, MemoryStore};
use sendarix_webhooks::testing::conformance;
use tokio::task::JoinSet;

use crate::dead_letter_file::TempFile;
use crate::support::FaultyStores;

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
