//! Changes of status, as they happen.

use std::time::Duration;

use sendarix_webhooks::mail::{Mail, MailStore, MessageStatus};
use sendarix_webhooks::{EventType, Outcome, PostgresStore};
use tokio::time::timeout;

use crate::on_every_store;
use crate::shop::{Shop, event, sample};
use crate::support::eventually;

on_every_store!(a_reader_sees_each_change_of_status);

const PATIENCE: Duration = Duration::from_secs(40);

async fn a_reader_sees_each_change_of_status<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(sendarix_webhooks::mail::MailBuilder::announce_changes);
    // Another instance, where the store has several.
    let changes = shop.clone().mail.changes().await;
    if shop.pooler.is_some() {
        // It passes no notifications on in transaction mode, so a stream would never end and never say anything.
        return drop(changes.unwrap_err());
    }
    let mut changes = changes.unwrap();
    shop.record_all(
        [
            EventType::Accepted,
            EventType::Deferred,
            EventType::Delivered,
            EventType::Deferred,
            EventType::Open,
            EventType::Bounce,
        ]
        .map(|event_type| sample(event_type, 0)),
    )
    .await;
    let mut seen = Vec::new();
    while seen.last() != Some(&MessageStatus::Bounced) {
        let change = timeout(PATIENCE, changes.next()).await.unwrap().unwrap();
        assert_eq!((change.message_id.as_str(), change.address.as_str()), ("msg_1", "ann@example.com"));
        seen.push(change.status);
    }
    use MessageStatus::{Accepted, Bounced, Deferred, Delivered};
    assert_eq!(seen, [Accepted, Deferred, Delivered, Bounced]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_instance_hears_of_it_and_of_a_gap() {
    let shop = Shop::on_postgres().await.with(sendarix_webhooks::mail::MailBuilder::announce_changes);
    let backend = shop.backend.clone().unwrap();
    let other = Mail::builder(PostgresStore::open(&backend.url()).unwrap()).announce_changes().build().unwrap();
    let mut changes = other.changes().await.unwrap();
    shop.record_all([sample(EventType::Accepted, 0)]).await;
    assert_eq!(timeout(PATIENCE, changes.next()).await.unwrap().unwrap().status, MessageStatus::Accepted);

    backend.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    assert!(timeout(PATIENCE, changes.next()).await.unwrap().is_err());
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    eventually("the stream listens again", || async { backend.sql(listening).trim() == "1" }).await;
    shop.record_all([sample(EventType::Delivered, 1)]).await;
    loop {
        if let Ok(change) = timeout(PATIENCE, changes.next()).await.unwrap() {
            assert_eq!(change.status, MessageStatus::Delivered);
            break;
        }
    }
    drop(changes);
    eventually("the connection ends with the stream", || async { backend.sql(listening).trim() == "0" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_are_not_announced_cannot_be_awaited() {
    let shop = Shop::on_postgres().await;
    let error = shop.mail.changes().await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("MailBuilder::announce_changes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_not_announced_and_another_schema_not_heard() {
    let shop = Shop::on_postgres().await.with(sendarix_webhooks::mail::MailBuilder::announce_changes);
    let backend = shop.backend.clone().unwrap();
    backend.sql("CREATE SCHEMA staging");
    let staging = PostgresStore::open(&format!("{}?options=-csearch_path%3Dstaging", backend.url())).unwrap();
    let staging = Mail::builder(staging).announce_changes().build().unwrap();
    let mut elsewhere = staging.changes().await.unwrap();
    let mut changes = shop.mail.changes().await.unwrap();
    let first = event(&sample(EventType::Delivered, 0));
    assert_eq!(shop.record(&first).await, Outcome::Processed);
    backend.sql("DELETE FROM sendarix_claims");
    assert_eq!(shop.record(&first).await, Outcome::Processed);
    shop.record_all([sample(EventType::Bounce, 1)]).await;
    for expected in [MessageStatus::Delivered, MessageStatus::Bounced] {
        assert_eq!(timeout(PATIENCE, changes.next()).await.unwrap().unwrap().status, expected);
    }
    assert!(timeout(Duration::ZERO, elsewhere.next()).await.is_err(), "it hears of its tables alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_too_slow_learns_that_it_has_missed_some() {
    let shop = Shop::on_postgres().await.with(sendarix_webhooks::mail::MailBuilder::announce_changes);
    let backend = shop.backend.clone().unwrap();
    let mut changes = shop.mail.changes().await.unwrap();
    let channel = "'sendarix_changes_' || to_regclass('sendarix_messages')::oid";
    let payload = r#"{"message_id":"m","address":"a","status":"delivered"}"#;
    backend.sql(&format!(
        "SELECT pg_notify({channel}, '{payload}' || repeat(' ', n % 10)) FROM generate_series(1, 9) AS n"
    ));
    for _ in 0..9 {
        assert!(timeout(PATIENCE, changes.next()).await.unwrap().is_ok());
    }
    let many = format!(
        "SELECT count(pg_notify({channel}, '{payload}' || repeat(' ', n % 3000))) FROM generate_series(1, 3000) AS n"
    );
    backend.sql(&many);
    // The server can forget what was read, although the stream was not.
    eventually("the queue is empty", || async { backend.sql("SELECT pg_notification_queue_usage()").trim() == "0" })
        .await;
    let mut seen = Vec::new();
    while seen.len() < 2 || seen.iter().all(Result::is_ok) {
        seen.push(timeout(PATIENCE, changes.next()).await.unwrap());
    }
}
