//! An event, its effects and its completion in one transaction.

use sendarix_webhooks::destination::Destination;
use sendarix_webhooks::mail::{Mail, MessageStatus};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Outcome, PostgresStore, SqliteStore};
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::shop::{Shop, event, sample};

/// Delivers an event to a handler that writes a row as well, and fails or not just before the commit.
macro_rules! sell {
    ($shop:expr, $connection:ty, $begin:expr, $fails:expr) => {{
        let shop = $shop.clone();
        let url = shop.backend.as_ref().unwrap().url();
        let handler = move |delivery: Delivery| {
            let (shop, url) = (shop.clone(), url.clone());
            async move {
                let mut connection = <$connection>::connect(&url).await?;
                let mut tx = ($begin)(&mut connection).await?;
                sqlx::query("INSERT INTO effects VALUES ('an effect')").execute(&mut *tx).await?;
                shop.mail.record_in(&mut tx, delivery.event()).await?;
                if $fails {
                    return Err(HandlerError::retry("just before the commit"));
                }
                shop.mail.store().commit(tx, delivery.claim()).await?;
                Ok(())
            }
        };
        $shop.inbox.process(event(&sample(EventType::Bounce, 0).event_id("evt_1")), handler).await
    }};
}

macro_rules! effects_share_a_transaction {
    ($test:ident, $shop:expr, $connection:ty, $begin:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let shop = $shop;
            shop.mail.migrate().await.unwrap();
            let backend = shop.backend.clone().unwrap();
            backend.sql("CREATE TABLE effects (id VARCHAR(255))");
            let effects = || backend.sql("SELECT count(*) FROM effects").trim().to_owned();
            assert!(sell!(shop, $connection, $begin, true).is_err());
            assert_eq!((effects().as_str(), shop.mail.is_suppressed("ann@example.com").await.unwrap()), ("0", false));
            assert_eq!(sell!(shop, $connection, $begin, false).unwrap(), Outcome::Processed);
            assert_eq!(sell!(shop, $connection, $begin, false).unwrap(), Outcome::Duplicate);
            assert_eq!((effects().as_str(), shop.mail.is_suppressed("ann@example.com").await.unwrap()), ("1", true));
            let message = shop.mail.message("msg_1", "ann@example.com").await.unwrap().unwrap();
            assert_eq!(message.state.status(), Some(MessageStatus::Bounced));
        }
    };
}

effects_share_a_transaction!(
    effects_share_a_transaction_on_postgres,
    Shop::on_postgres().await,
    PgConnection,
    Connection::begin
);
effects_share_a_transaction!(
    effects_share_a_transaction_on_sqlite,
    Shop::on_sqlite().await,
    SqliteConnection,
    |connection| Connection::begin_with(connection, "BEGIN IMMEDIATE")
);

/// A claim that was taken over: nothing is recorded.
macro_rules! a_lost_claim_records_nothing {
    ($test:ident, $shop:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let shop = $shop;
            let backend = shop.backend.clone().unwrap();
            let mail = shop.mail.clone();
            let handler = move |delivery: Delivery| {
                backend.sql("UPDATE sendarix_claims SET token = '00000000-0000-0000-0000-000000000000'");
                mail.take(delivery)
            };
            let handled = shop.inbox.process(event(&sample(EventType::Bounce, 0)), handler).await;
            assert!(handled.is_err(), "{handled:?}");
            assert!(!shop.mail.is_suppressed("ann@example.com").await.unwrap());
            assert_eq!(shop.mail.timeline("ann@example.com", None, 9).await.unwrap(), []);
        }
    };
}

a_lost_claim_records_nothing!(a_lost_claim_records_nothing_on_postgres, Shop::on_postgres().await);
a_lost_claim_records_nothing!(a_lost_claim_records_nothing_on_sqlite, Shop::on_sqlite().await);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_another_name_are_made_by_hand() {
    let shop = Shop::on_postgres().await;
    let backend = shop.backend.clone().unwrap();
    backend.sql("CREATE SCHEMA staging");
    let store = PostgresStore::builder(&backend.url()).unwrap().schema("staging").mail_tables("mail");
    let mail = Mail::new(store.clone().without_migration().build().unwrap());
    assert!(mail.is_suppressed("ann@example.com").await.is_err());
    backend.sql(&mail.migration());
    backend.sql(&mail.migration());
    assert!(!mail.is_suppressed("ann@example.com").await.unwrap());
    let tables = "SELECT string_agg(table_name, ' ' ORDER BY table_name) FROM information_schema.tables WHERE table_schema = 'staging'";
    assert_eq!(backend.sql(tables).trim(), "mail_events mail_messages mail_rates mail_suppressions sendarix_schema");

    let clash = PostgresStore::builder(&backend.url()).unwrap().claims_table("sendarix_events").build().unwrap_err();
    assert!(clash.to_string().contains("mail_tables"), "{clash}");
    // A database that a newer version has changed.
    backend.sql("UPDATE staging.sendarix_schema SET version = 99");
    let newer = Mail::new(store.build().unwrap()).is_suppressed("ann@example.com").await.unwrap_err();
    let source = std::error::Error::source(&newer).unwrap().to_string();
    assert!(source.contains("update this application too"), "{source}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_newer_version_is_refused() {
    let shop = Shop::on_sqlite().await;
    shop.mail.migrate().await.unwrap();
    shop.backend.clone().unwrap().sql("UPDATE sendarix_mail_schema SET version = 99");
    let store = SqliteStore::open(shop.backend.as_ref().unwrap().file()).unwrap();
    let newer = Mail::new(store).migrate().await.unwrap_err();
    assert!(std::error::Error::source(&newer).unwrap().to_string().contains("update this application too"));
}
