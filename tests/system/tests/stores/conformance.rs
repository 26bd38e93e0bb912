//! The suites that every store must pass, against real servers.

use std::sync::Arc;

use sendarix_webhooks::RedisStore;
use sendarix_webhooks::store::DedupStore;
use sendarix_webhooks::testing::conformance;
use tokio::task::JoinSet;

use crate::support::{Backend, Kind};

async fn conforms(backend: Backend) {
    let (store, letters) = backend.stores();
    conformance::dedup_store(Arc::clone(&store)).await;
    conformance::dead_letters(letters).await;
    let mut sequences = JoinSet::new();
    for seed in 0..100 {
        sequences.spawn(conformance::dedup_store_sequence(Arc::clone(&store), seed));
    }
    sequences.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    conforms(Backend::start(Kind::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis() {
    conforms(Backend::start(Kind::Redis)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    conforms(Backend::start(Kind::Postgres)).await;
}

/// The second is refused, instead of waiting for the first.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_with_serializable_transactions() {
    conforms(Backend::with_settings(Kind::Postgres, &["-c", "default_transaction_isolation=serializable"])).await;
}

/// A cluster refuses a command whose keys may be on different servers.
#[tokio::test(flavor = "multi_thread")]
async fn redis_as_a_cluster() {
    let backend = Backend::with_settings(Kind::Redis, &["--cluster-enabled", "yes"]);
    backend.redis(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).unwrap();
    let up = || async { backend.redis(&["CLUSTER", "INFO"]).unwrap().contains("cluster_state:ok") };
    crate::support::eventually("the cluster is up", up).await;
    conforms(backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_over_a_connection_of_the_applications_own() {
    let backend = Backend::start(Kind::Redis);
    let client = redis::Client::open(backend.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let store = RedisStore::with_connections(move || {
        let connection = connection.clone();
        async { Ok::<_, redis::RedisError>(connection) }
    });
    let store = store.prefix("mine");
    conformance::dead_letters(Arc::new(store.dead_letters())).await;
    conformance::dedup_store(Arc::new(store) as Arc<dyn DedupStore>).await;
    assert_eq!(backend.redis(&["--scan", "--pattern", "sendarix:*"]).unwrap(), "", "every key has the prefix");
}
