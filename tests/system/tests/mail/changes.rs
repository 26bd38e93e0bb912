//! Changes of status, as they happen.

use std::time::Duration;

use sendarix_webhooks::mail::{Mail, MailStore, MessageStatus};
use sendarix_webhooks::{EventType, PostgresStore};
use tokio::time::timeout;

use crate::on_every_store;
use crate::shop::{Shop, sample};
use crate::support::eventually;

on_every_store!(a_reader_sees_each_change_of_status);

const PATIENCE: Duration = Duration::from_secs(40);

async fn a_reader_sees_each_change_of_status<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(sendarix_webhooks::mail::MailBuilder::announce_changes);
    // Another instance, where the store has several.
    let mut changes = shop.clone().mail.changes().await.unwrap();
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
        let change = timeout(PATIENCE, changes.next()).await.unwrap().unwrap().unwrap();
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
    assert_eq!(timeout(PATIENCE, changes.next()).await.unwrap().unwrap().unwrap().status, MessageStatus::Accepted);

    backend.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    assert!(timeout(PATIENCE, changes.next()).await.unwrap().unwrap().is_err());
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    eventually("the stream listens again", || async { backend.sql(listening).trim() == "1" }).await;
    shop.record_all([sample(EventType::Delivered, 1)]).await;
    loop {
        if let Ok(change) = timeout(PATIENCE, changes.next()).await.unwrap().unwrap() {
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
