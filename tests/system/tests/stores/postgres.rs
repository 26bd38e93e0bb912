//! What only PostgreSQL and the SQL stores have: tables, roles, poolers, purges.

use std::sync::Arc;
use std::time::Duration;

use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey};
use sendarix_webhooks::testing::conformance;
use sendarix_webhooks::{HandlerError, Outcome};
use sendarix_webhooks::{PostgresStore, SqliteStore};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::support::{Backend, Fault, Kind, PgBouncer, Proxy, deliver, eventually, receiver};
use crate::transactions::Shop;

const LEASE: Duration = Duration::from_secs(60);

fn key(id: &str) -> EventKey {
    EventKey::new("default", id)
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_in_transaction_mode() {
    let backend = Backend::start(Kind::Postgres);
    let (_pooler, url) = PgBouncer::start(&backend, "").await;
    let store = PostgresStore::builder(&url).unwrap().behind_pooler().build().unwrap();
    conformance::dead_letters(Arc::new(store.dead_letters())).await;
    conformance::dedup_store(Arc::new(store)).await;
    // More transactions than the pooler has sessions, so that they change places.
    let shop = Shop::at(backend, url).await;
    let mut deliveries = JoinSet::new();
    for event in 0..30 {
        let shop = shop.clone();
        deliveries.spawn(async move { shop.sell(&format!("evt_{event}")).await });
    }
    assert_eq!(deliveries.join_all().await, [Outcome::Processed; 30]);
    assert_eq!(shop.effects(), "30");
}

/// Prepared statements would run in sessions that do not know them, or know others by their names.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_the_store_does_not_know_of_is_refused() {
    let backend = Backend::start(Kind::Postgres);
    for setting in ["", "ignore_startup_parameters = options,extra_float_digits"] {
        let (_pooler, url) = PgBouncer::start(&backend, setting).await;
        for builder in
            [PostgresStore::builder(&url).unwrap(), PostgresStore::builder(&url).unwrap().without_migration()]
        {
            let store = builder.build().unwrap();
            let error = store.claim(&key("evt_1"), ClaimToken::random(), LEASE).await.unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("call PostgresBuilder::behind_pooler"), "{setting}: {cause}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_have_the_names_that_were_chosen() {
    let backend = Backend::start(Kind::Postgres);
    backend.sql("CREATE SCHEMA \"Web_hooks\"");
    let store = PostgresStore::builder(&backend.url()).unwrap().schema("Web_hooks");
    let store = store.claims_table("select").dead_letters_table("_letters2").build().unwrap();
    conformance::dead_letters(Arc::new(store.dead_letters())).await;
    conformance::dedup_store(Arc::new(store)).await;
    let tables = "SELECT string_agg(table_schema || '.' || table_name, ' ' ORDER BY table_name)
        FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema')";
    assert_eq!(backend.sql(tables), "Web_hooks._letters2 Web_hooks.select Web_hooks.sendarix_schema");
}

#[test]
fn names_that_are_none_are_refused() {
    let builder = || PostgresStore::builder("postgres://localhost").unwrap();
    let long = "x".repeat(58);
    for name in ["", "a b", "a\"b", "a;b", "a.b", "ä", "1a", "a\0", &long] {
        let error = builder().schema(name).build().unwrap_err().to_string();
        assert!(error.contains("`schema`") && error.contains("57 ASCII letters"), "{error}");
        assert!(builder().claims_table(name).build().unwrap_err().to_string().contains("`claims_table`"));
        assert!(builder().dead_letters_table(name).build().unwrap_err().to_string().contains("`dead_letters_table`"));
    }
    assert!(builder().claims_table("a").dead_letters_table("a").build().is_err());
    assert!(builder().max_connections(0).build().is_err());
    assert!(builder().claims_table("x".repeat(57)).build().is_ok());
}

#[test]
fn what_cannot_be_a_place_is_refused_without_showing_it() {
    let postgres = PostgresStore::open("postgres://user:hunter2@host:notaport/").unwrap_err();
    let redis = sendarix_webhooks::RedisStore::open("http://user:hunter2@host").unwrap_err();
    for error in [postgres, redis] {
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    for path in ["", ":memory:"] {
        assert!(SqliteStore::open(path).unwrap_err().to_string().contains("is no file"));
    }
    let store = PostgresStore::open("postgres://user:hunter2@localhost/").unwrap();
    assert!(!format!("{store:?} {:?}", store.dead_letters()).contains("hunter2"));
    let store = sendarix_webhooks::RedisStore::open("redis://user:hunter2@localhost/").unwrap();
    assert!(!format!("{store:?} {:?}", store.dead_letters()).contains("hunter2"));
}

/// The tables are made by the owner, and the application's role may do nothing but use them.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_make_no_tables_uses_those_that_are_there() {
    let backend = Backend::start(Kind::Postgres);
    backend.sql("CREATE ROLE app LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO app");
    let url = backend.url().replace("postgres@", "app@");
    let (token, event) = (ClaimToken::random(), key("evt_1"));
    let error = PostgresStore::open(&url).unwrap().claim(&event, token, LEASE).await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("permission denied"), "{error:?}");

    backend.sql(&PostgresStore::open(&backend.url()).unwrap().migration());
    backend.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app");
    let store = PostgresStore::open(&url).unwrap();
    assert_eq!(store.claim(&event, token, LEASE).await.unwrap(), Claim::Granted { attempt: 1 });
    assert_eq!(store.purge().await.unwrap(), 0);
    conformance::dead_letters(Arc::new(store.dead_letters())).await;

    // Without its own migration, a store says what is missing.
    backend.sql("DROP TABLE sendarix_claims");
    let store = PostgresStore::builder(&backend.url()).unwrap().without_migration().build().unwrap();
    let error = store.claim(&event, token, LEASE).await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("does not exist"), "{error:?}");
    store.migrate().await.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.claim(&event, token, LEASE).await.unwrap(), Claim::Granted { attempt: 1 });
}

/// Eight instances make the tables at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_start_together_take_turns() {
    for kind in [Kind::Postgres].into_iter().chain([Kind::Sqlite; 20]) {
        let backend = Backend::start(kind);
        let mut starts = JoinSet::new();
        for number in 0..8 {
            let store = backend.store();
            starts.spawn(async move { store.claim(&key(&format!("evt_{number}")), ClaimToken::random(), LEASE).await });
        }
        for claim in starts.join_all().await {
            assert_eq!(claim.unwrap(), Claim::Granted { attempt: 1 }, "{kind:?}");
        }
    }
}

/// A row that is past its time goes; one that is claimed, remembered, or owned by a late delivery stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_what_is_over_and_nothing_else() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let backend = Backend::start(kind);
        let store = backend.store();
        let (long, short, over) = (Duration::from_secs(60), Duration::from_millis(1), Duration::from_millis(20));
        let mut live = Vec::new();
        for number in 0..2_500 {
            let (event, token) = (key(&format!("evt_{number}")), ClaimToken::random());
            let lease = if number % 5 == 0 { short } else { long };
            assert_eq!(store.claim(&event, token, lease).await.unwrap(), Claim::Granted { attempt: 1 });
            match number % 5 {
                0 | 1 => live.push((event, token)),
                2 => assert!(store.release(&event, token).await.unwrap()),
                3 => assert!(store.complete(&event, token, long).await.unwrap()),
                _ => assert!(store.complete(&event, token, short).await.unwrap()),
            }
        }
        tokio::time::sleep(over).await;
        let purged = match kind {
            Kind::Sqlite => SqliteStore::open(backend.file()).unwrap().purge().await.unwrap(),
            _ => PostgresStore::open(&backend.url()).unwrap().purge().await.unwrap(),
        };
        // The first completion has begun a purge by itself.
        assert!(purged <= 500, "{kind:?}: {purged}");
        let rest = backend.sql("SELECT count(*) FROM sendarix_claims");
        assert_eq!(rest, "2000", "{kind:?}: but for those that were completed and are over");
        for (event, token) in live {
            assert!(store.complete(&event, token, long).await.unwrap(), "{kind:?}: no claim was purged");
        }
    }
}

/// More than one batch, and rows that are locked are passed by.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_goes_on_and_waits_for_no_lock() {
    let backend = Backend::start(Kind::Postgres);
    let store = PostgresStore::open(&backend.url()).unwrap();
    store.migrate().await.unwrap();
    backend.sql(
        "INSERT INTO sendarix_claims SELECT 'default', 'evt_' || n, gen_random_uuid(), 1, 'completed',
         now() - interval '1 second' FROM generate_series(1, 3500) AS n",
    );
    let mut other = PgConnection::connect(&backend.url()).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM sendarix_claims WHERE event_id = 'evt_7' FOR UPDATE").execute(&mut *tx).await.unwrap();
    assert_eq!(store.purge().await.unwrap(), 3499);
    tx.rollback().await.unwrap();
    assert_eq!(store.purge().await.unwrap(), 1);
}

/// An operator drops the tables, or fails over to a database without them.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_gone_are_made_again() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let backend = Backend::start(kind);
        let receiver = receiver(&backend);
        let never = |_| async { Err(HandlerError::permanent("never")) };
        assert_eq!(deliver(&receiver, "evt_1", never).await, Outcome::FailedPermanently, "{kind:?}");
        backend.sql("DROP TABLE sendarix_claims; DROP TABLE sendarix_dead_letters");
        let recovered = || async { deliver(&receiver, "evt_2", never).await == Outcome::FailedPermanently };
        eventually("the tables are back", recovered).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_do_not_depend_on_the_settings_of_the_database() {
    let backend = Backend::start(Kind::Postgres);
    backend.sql(
        "ALTER ROLE postgres SET bytea_output = escape; ALTER ROLE postgres SET standard_conforming_strings = off",
    );
    let store = PostgresStore::open(&backend.url()).unwrap();
    conformance::dead_letters(Arc::new(store.dead_letters())).await;
    conformance::dedup_store(Arc::new(store)).await;
}

/// In LATIN1 most ids could be written, and the first that cannot would be refused for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_hold_every_id_is_refused_before_the_first_event() {
    let backend = Backend::start(Kind::Postgres);
    for encoding in ["LATIN1", "SQL_ASCII"] {
        backend.sql(&format!("CREATE DATABASE other_{encoding} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"));
        let server = backend.url().trim_end_matches("/postgres").to_owned();
        let store = PostgresStore::open(&format!("{server}/other_{}", encoding.to_lowercase())).unwrap();
        let error = store.claim(&key("evt_1"), ClaimToken::random(), LEASE).await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(encoding) && cause.contains("use one with UTF8"), "{cause}");
    }
}

/// The server's answer to a purge never comes, and everybody else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_is_lost_gives_its_place_back() {
    let backend = Backend::start(Kind::Postgres);
    let proxy = Proxy::start(backend.addr()).await;
    let store = PostgresStore::builder(&backend.url_at(proxy.port)).unwrap().max_connections(1).build().unwrap();
    let claim = async |id: &str| store.claim(&key(id), ClaimToken::random(), LEASE).await;
    assert_eq!(claim("evt_1").await.unwrap(), Claim::Granted { attempt: 1 });
    proxy.set(Fault::HeldAfter("DELETE FROM"));
    assert!(store.purge().await.is_err());
    proxy.set(Fault::None);
    assert_eq!(claim("evt_2").await.unwrap(), Claim::Granted { attempt: 1 });
}
