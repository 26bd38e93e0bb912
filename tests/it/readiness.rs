//! Whether deliveries can be taken now.

use std::time::Duration;

use sendarix_webhooks::Inbox;
use tokio::time::Instant;

use crate::support::FaultyStores;

const STORE_TIMEOUT: Duration = Duration::from_secs(2);

fn inbox(stores: &FaultyStores) -> Inbox {
    let builder = Inbox::builder("default").store(stores.clone()).dead_letters(stores.clone());
    builder.store_timeout(STORE_TIMEOUT).build().unwrap()
}

/// A load balancer gives up a probe after some seconds.
#[tokio::test(start_paused = true)]
async fn every_probe_is_answered_within_the_time_limit_of_the_store() {
    let stores = FaultyStores::default();
    let inbox = inbox(&stores);
    stores.claims_hang(true);
    let start = Instant::now();
    // The first one goes before it has an answer.
    tokio::time::timeout(STORE_TIMEOUT / 2, inbox.ready()).await.unwrap_err();
    let (first, second, third) = tokio::join!(inbox.ready(), inbox.ready(), inbox.ready());
    assert_eq!(start.elapsed(), STORE_TIMEOUT);
    assert_eq!(stores.calls(), 1, "the store is asked once");
    for answer in [first, second, third] {
        assert_eq!(answer.unwrap_err().to_string(), "the dedup store failed");
    }
}

#[tokio::test(start_paused = true)]
async fn both_stores_share_the_time_limit() {
    let stores = FaultyStores::default();
    let inbox = inbox(&stores);
    stores.reads_take(STORE_TIMEOUT * 3 / 4);
    let start = Instant::now();
    assert_eq!(inbox.ready().await.unwrap_err().to_string(), "the dead-letter store failed");
    assert_eq!(start.elapsed(), STORE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_for_a_second() {
    let stores = FaultyStores::default();
    let inbox = inbox(&stores);
    for fails in [false, true, false] {
        stores.claims_fail(fails);
        tokio::time::advance(Duration::from_millis(1001)).await;
        assert_eq!(inbox.ready().await.is_err(), fails);
        let calls = stores.calls();
        stores.claims_fail(!fails);
        assert_eq!(inbox.ready().await.is_err(), fails);
        assert_eq!(stores.calls(), calls, "no store is asked");
    }
}
