//! The tables: a person reads them, and a newer version of the crate takes over those of an older one.

use std::error::Error;
use std::time::Duration;

use sendarix_webhooks::store::{Claim, ClaimToken, EventKey};
use sendarix_webhooks::{HandlerError, Outcome};

use crate::support::{Backend, Kind, deliver, receiver};

const LEASE: Duration = Duration::from_secs(60);

const SQL: [Kind; 2] = [Kind::Sqlite, Kind::Postgres];

/// What the crate made before the tables had a version.
fn without_version(kind: Kind) -> String {
    let (text, blob, int, time) = match kind {
        Kind::Sqlite => ("TEXT", "BLOB", "INTEGER", "INTEGER"),
        _ => ("text", "bytea", "bigint", "timestamptz"),
    };
    let trigger = match kind {
        Kind::Sqlite => {
            "CREATE TRIGGER sendarix_completed AFTER UPDATE OF state ON sendarix_claims
            WHEN NEW.state = 'completed' BEGIN
                DELETE FROM sendarix_dead_letters WHERE endpoint = NEW.endpoint AND event_id = NEW.event_id;
            END;"
        }
        _ => {
            "CREATE FUNCTION sendarix_claims_done() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                DELETE FROM sendarix_dead_letters WHERE endpoint = NEW.endpoint AND event_id = NEW.event_id;
                RETURN NULL;
            END $$;
            CREATE TRIGGER sendarix_claims_done AFTER UPDATE OF state ON sendarix_claims
            FOR EACH ROW WHEN (NEW.state = 'completed') EXECUTE PROCEDURE sendarix_claims_done();"
        }
    };
    let bytes = |text: &str| match kind {
        Kind::Sqlite => format!("CAST('{text}' AS BLOB)"),
        _ => format!("convert_to('{text}', 'UTF8')"),
    };
    let (tomorrow, token) = match kind {
        Kind::Sqlite => ("1000 * (unixepoch() + 86400)", "x'000102030405060708090a0b0c0d0e0f'"),
        _ => ("now() + interval '1 day'", "'\\x000102030405060708090a0b0c0d0e0f'"),
    };
    let (handled, failed, error, body) = (bytes("evt_handled"), bytes("evt_é"), bytes("no mailbox 📪"), bytes("{}"));
    format!(
        "CREATE TABLE sendarix_claims (endpoint {text} NOT NULL, event_id {blob} NOT NULL, token {blob} NOT NULL,
            attempt {int} NOT NULL, state {text} NOT NULL, until {time} NOT NULL, PRIMARY KEY (endpoint, event_id));
         CREATE INDEX sendarix_claims_until ON sendarix_claims (until);
         CREATE INDEX sendarix_claims_live ON sendarix_claims (until) WHERE state = 'live';
         CREATE TABLE sendarix_dead_letters (endpoint {text} NOT NULL, event_id {blob} NOT NULL, reason {text} NOT NULL,
            error {blob} NOT NULL, attempts {int} NOT NULL, first_at {text} NOT NULL, last_at {text} NOT NULL,
            signature {text} NOT NULL, timestamp_header {int}, error_line {int}, error_column {int}, body {blob} NOT NULL,
            PRIMARY KEY (endpoint, event_id));
         {trigger}
         INSERT INTO sendarix_claims VALUES ('default', {handled}, {token}, 1, 'completed', {tomorrow}),
            ('default', {failed}, {token}, 2, 'failed', {tomorrow});
         INSERT INTO sendarix_dead_letters VALUES ('default', {failed}, 'failed', {error}, 2,
            '2026-04-19T14:30:45.000001000Z', '2026-04-20T14:30:45.000000000Z', '{signature}', NULL, NULL, NULL, {body});",
        signature = "0123456789abcdef".repeat(4),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_a_version_are_taken_over() {
    for kind in SQL {
        let backend = Backend::start(kind);
        backend.sql(&without_version(kind));
        let (store, letters) = backend.stores();
        let letter = letters.get(&EventKey::new("default", "evt_é")).await.unwrap().unwrap();
        assert_eq!((letter.error.as_str(), letter.attempts), ("no mailbox 📪", 2), "{kind:?}");
        assert_eq!(letter.first_at.to_string(), "2026-04-19T14:30:45.000001Z", "{kind:?}");
        let key = |id| EventKey::new("default", id);
        let claim = async |id| store.claim(&key(id), ClaimToken::random(), LEASE).await.unwrap();
        assert_eq!(claim("evt_handled").await, Claim::Completed, "{kind:?}");
        assert_eq!(claim("evt_é").await, Claim::Granted { attempt: 3 }, "{kind:?}");
        let again = backend.store();
        assert_eq!(again.claim(&key("evt_handled"), ClaimToken::random(), LEASE).await.unwrap(), Claim::Completed);

        // A letter without a signature had no place.
        let failing = |_| async { Err(HandlerError::permanent("never")) };
        assert_eq!(deliver(&receiver(&backend), "evt_new", failing).await, Outcome::FailedPermanently, "{kind:?}");
    }
}

/// Instances that start together take turns, and none does it twice.
#[tokio::test(flavor = "multi_thread")]
async fn tables_are_taken_over_once_by_many_at_the_same_time() {
    for kind in SQL {
        let backend = Backend::start(kind);
        backend.sql(&without_version(kind));
        let stores: Vec<_> = (0..8).map(|_| backend.store()).collect();
        let claims = stores.into_iter().map(|store| {
            let key = EventKey::new("default", "evt_handled");
            tokio::spawn(async move { store.claim(&key, ClaimToken::random(), LEASE).await })
        });
        for claim in claims.collect::<Vec<_>>() {
            assert_eq!(claim.await.unwrap().unwrap(), Claim::Completed, "{kind:?}");
        }
        let token = backend.sql("SELECT token FROM sendarix_claims WHERE event_id = 'evt_handled'");
        assert_eq!(token.replace('-', ""), "000102030405060708090a0b0c0d0e0f", "{kind:?}");
    }
}

/// A restored backup, say, has the tables and not their version.
#[tokio::test(flavor = "multi_thread")]
async fn tables_whose_version_was_lost_are_not_taken_for_old_ones() {
    for kind in SQL {
        let backend = Backend::start(kind);
        assert_eq!(deliver(&receiver(&backend), "evt_1", |_| async { Ok(()) }).await, Outcome::Processed, "{kind:?}");
        let token = || backend.sql("SELECT token FROM sendarix_claims");
        let before = token();
        backend.sql("DROP TABLE sendarix_schema");
        assert_eq!(deliver(&receiver(&backend), "evt_1", |_| async { Ok(()) }).await, Outcome::Duplicate, "{kind:?}");
        assert_eq!((token(), backend.sql("SELECT version FROM sendarix_schema")), (before, "1".to_owned()), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_newer_version_are_left_alone() {
    for kind in SQL {
        let backend = Backend::start(kind);
        let claim = async || {
            let (store, key) = (backend.store(), EventKey::new("default", "evt_1"));
            store.claim(&key, ClaimToken::random(), Duration::from_secs(1)).await
        };
        assert!(claim().await.is_ok());
        backend.sql("UPDATE sendarix_schema SET version = 1000");
        let error = claim().await.unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains("version 1000") && cause.contains("update this application"), "{kind:?}: {cause}");
    }
}

/// With the tools of the database alone, by the statements of the documentation.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_can_read_the_tables() {
    for kind in SQL {
        let backend = Backend::start(kind);
        let failing = |_| async { Err(HandlerError::retry("no mailbox 📪\0")) };
        assert_eq!(deliver(&receiver(&backend), "evt_é", failing).await, Outcome::Failed, "{kind:?}");
        let (until, body) = match kind {
            Kind::Sqlite => ("datetime(until / 1000, 'unixepoch')", "CAST(body AS TEXT)"),
            _ => ("until", "convert_from(body, 'UTF8')"),
        };
        let claims = format!("SELECT endpoint, event_id, state, attempt, {until} FROM sendarix_claims");
        let claims = backend.sql(&format!("{claims} WHERE state <> 'completed' ORDER BY sendarix_claims.until"));
        assert!(claims.starts_with("default|evt_é|failed|1|20"), "{kind:?}: {claims}");
        let letters = format!("SELECT event_id, reason, error, attempts, {body}, first_at FROM sendarix_dead_letters");
        let letters = backend.sql(&format!("{letters} WHERE endpoint = 'default' ORDER BY last_at DESC"));
        assert!(letters.starts_with("evt_é|failed|no mailbox 📪\u{fffd}|1|{"), "{kind:?}: {letters}");
    }
}
