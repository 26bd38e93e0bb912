//! Transactions of the application's own that complete the claim.

use std::sync::Arc;
use std::time::Duration;

use sendarix_webhooks::store::{Claim, ClaimToken, CommitError, EventKey};
use sendarix_webhooks::{Delivery, HandlerError, Outcome, Receiver};
use sendarix_webhooks::{PostgresStore, SqliteStore};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection};

use crate::support::{Backend, Kind, deliver, eventually, receiver};

/// An application whose effects are rows, beside the store's own.
#[derive(Clone)]
pub struct Shop {
    backend: Arc<Backend>,
    /// Where its database is, or a pooler before it.
    url: String,
    pub receiver: Receiver,
}

impl Shop {
    const KINDS: [Kind; 2] = [Kind::Sqlite, Kind::Postgres];

    async fn open(kind: Kind) -> Self {
        let backend = Backend::start(kind);
        let url = backend.url();
        Self::at(backend, url).await
    }

    pub async fn at(backend: Backend, url: String) -> Self {
        let receiver = receiver(&backend);
        // This makes the tables.
        assert_eq!(deliver(&receiver, "evt_opening", |_| async { Ok(()) }).await, Outcome::Processed);
        backend.sql("CREATE TABLE effects (id VARCHAR(255))");
        Self { backend: Arc::new(backend), url, receiver }
    }

    async fn deliver<F>(&self, id: &str, handler: impl FnOnce(Self, Delivery) -> F + Send + 'static) -> Outcome
    where
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let shop = self.clone();
        deliver(&self.receiver, id, move |delivery| handler(shop, delivery)).await
    }

    /// Delivers an event whose handler does what it should.
    pub async fn sell(&self, id: &str) -> Outcome {
        self.deliver(id, |shop, delivery| async move { Ok(shop.commit(&delivery).await?) }).await
    }

    async fn postgres(&self) -> PgConnection {
        // A pooler does not know this setting.
        let options: PgConnectOptions = self.url.parse().unwrap();
        options.extra_float_digits(None).connect().await.unwrap()
    }

    fn postgres_store(&self) -> PostgresStore {
        let builder = PostgresStore::builder(&self.url).unwrap();
        let behind_pooler = self.url != self.backend.url();
        if behind_pooler { builder.behind_pooler() } else { builder }.build().unwrap()
    }

    /// Writes an effect and commits it with the claim.
    async fn commit(&self, delivery: &Delivery) -> Result<(), CommitError> {
        let insert = "INSERT INTO effects VALUES ('an effect')";
        match self.backend.kind {
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
                sqlx::raw_sql(insert).execute(&mut *tx).await.unwrap();
                SqliteStore::open(self.backend.file()).unwrap().commit(tx, delivery.claim()).await
            }
            _ => {
                let mut connection = self.postgres().await;
                let mut tx = connection.begin().await.unwrap();
                sqlx::raw_sql(insert).execute(&mut *tx).await.unwrap();
                self.postgres_store().commit(tx, delivery.claim()).await
            }
        }
    }

    /// Commits a savepoint with the claim, and rolls back the transaction around it.
    async fn commit_nested(&self, delivery: &Delivery) -> Result<(), CommitError> {
        match self.backend.kind {
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                let mut outer = connection.begin().await.unwrap();
                let store = SqliteStore::open(self.backend.file()).unwrap();
                store.commit(outer.begin().await.unwrap(), delivery.claim()).await
            }
            _ => {
                let mut connection = self.postgres().await;
                let mut outer = connection.begin().await.unwrap();
                self.postgres_store().commit(outer.begin().await.unwrap(), delivery.claim()).await
            }
        }
    }

    /// Another delivery claims the event while the handler runs.
    fn take_over(&self) {
        let token = if self.backend.kind == Kind::Sqlite { "'00'" } else { "gen_random_uuid()" };
        self.backend.sql(&format!("UPDATE sendarix_claims SET token = {token}, attempt = attempt + 1"));
    }

    pub fn effects(&self) -> String {
        self.backend.sql("SELECT count(*) FROM effects")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_makes_the_commit_fail() {
    for kind in Shop::KINDS {
        let shop = Shop::open(kind).await;
        let taken_over = shop.deliver("evt_taken_over", |shop, delivery| async move {
            shop.take_over();
            match shop.commit(&delivery).await {
                Err(CommitError::TakenOver) => Err("taken over".into()),
                committed => Ok(committed?),
            }
        });
        assert_eq!(taken_over.await, Outcome::Failed, "{kind:?}");
        assert_eq!(shop.effects(), "0", "{kind:?}: the effect goes with the claim");
        assert_eq!(shop.sell("evt_1").await, Outcome::Processed, "{kind:?}");
        assert_eq!(shop.effects(), "1", "{kind:?}");
        assert_eq!(shop.sell("evt_1").await, Outcome::Duplicate, "{kind:?}");
    }
}

/// What comes after the completion is rolled back, and says so: its work is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_committed_once() {
    for kind in Shop::KINDS {
        let shop = Shop::open(kind).await;
        let repeated = shop.deliver("evt_1", |shop, delivery| async move {
            shop.commit(&delivery).await?;
            for _ in 0..2 {
                let again = shop.commit(&delivery).await;
                assert!(matches!(again, Err(CommitError::AlreadyCommitted)), "{again:?}");
            }
            Ok(())
        });
        assert_eq!(repeated.await, Outcome::Processed, "{kind:?}");
        assert_eq!(shop.effects(), "1", "{kind:?}");
        assert_eq!(shop.sell("evt_1").await, Outcome::Duplicate, "{kind:?}");
    }
}

/// The handler hands its claim to a task and returns, and the receiver completes the event.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_after_the_handler_has_returned_is_refused() {
    for kind in Shop::KINDS {
        let shop = Shop::open(kind).await;
        let (sender, kept) = tokio::sync::oneshot::channel();
        let sender = std::sync::Mutex::new(Some(sender));
        let outcome = shop.deliver("evt_1", move |_, delivery| {
            let _ = sender.lock().unwrap().take().unwrap().send(delivery);
            async { Ok(()) }
        });
        assert_eq!(outcome.await, Outcome::Processed, "{kind:?}");
        let late = shop.commit(&kept.await.unwrap()).await;
        assert!(matches!(late, Err(CommitError::AlreadyCommitted)), "{kind:?}: {late:?}");
        assert_eq!(shop.effects(), "0", "{kind:?}");
    }
}

/// The handler does not look whether its transaction was committed, and says that all is well.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_overlooks_a_failed_commit_has_failed() {
    for kind in Shop::KINDS {
        let shop = Shop::open(kind).await;
        let overlooked = shop.deliver("evt_1", |shop, delivery| async move {
            shop.take_over();
            drop(shop.commit(&delivery).await);
            Ok(())
        });
        assert_eq!(overlooked.await, Outcome::Failed, "{kind:?}");
        shop.backend.sql("DELETE FROM sendarix_claims");
        assert_eq!(shop.sell("evt_1").await, Outcome::Processed, "{kind:?}");
        assert_eq!(shop.effects(), "1", "{kind:?}");
    }
}

/// The handler had committed, or another delivery has handled the event: there is nothing to keep, and a letter would make a
/// second effect once the store has forgotten the event.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_handled_leaves_no_letter_though_its_handler_failed_afterwards() {
    for kind in Shop::KINDS {
        let shop = Shop::open(kind).await;
        for (id, permanent) in [("evt_never", true), ("evt_again", false)] {
            let outcome = shop.deliver(id, move |shop, delivery| async move {
                shop.commit(&delivery).await?;
                Err(if permanent { HandlerError::permanent("and then it failed") } else { "and then it failed".into() })
            });
            assert_eq!(outcome.await.is_acknowledged(), permanent, "{kind:?}: {id}");
            assert_eq!(shop.sell(id).await, Outcome::Duplicate, "{kind:?}: {id}");
        }
        // Another delivery completes the event while this one fails, and the store refuses the letter that comes too late.
        let outcome = shop.deliver("evt_late", |shop, _| async move {
            shop.take_over();
            shop.backend.sql("UPDATE sendarix_claims SET state = 'completed'");
            Err("it failed, and was too late".into())
        });
        assert_eq!(outcome.await, Outcome::Failed, "{kind:?}");
        assert!(shop.backend.stores().1.list("default", None, 10).await.unwrap().is_empty(), "{kind:?}");
        assert_eq!(shop.effects(), "2", "{kind:?}");
    }
}

/// What is committed is a savepoint, and the transaction around it is rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn a_nested_transaction_is_no_commit() {
    for kind in Shop::KINDS {
        let shop = Shop::open(kind).await;
        let nested = shop.deliver("evt_1", |shop, delivery| async move {
            let error = shop.commit_nested(&delivery).await;
            assert!(matches!(error, Err(CommitError::Elsewhere)), "{error:?}");
            Ok(())
        });
        assert_eq!(nested.await, Outcome::Failed, "{kind:?}");
        assert_eq!(shop.sell("evt_1").await, Outcome::Processed, "{kind:?}");
    }
}

/// A claim that meets the handler's open transaction waits for it, and then finds the event handled.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_a_commit_that_is_under_way() {
    let shop = Shop::open(Kind::Postgres).await;
    let (backend, store) = (&shop.backend, shop.backend.store());
    let (event, token) = (EventKey::new("default", "evt_1"), ClaimToken::random());
    let (short, long) = (Duration::from_millis(1), Duration::from_secs(60));
    assert_eq!(store.claim(&event, token, short).await.unwrap(), Claim::Granted { attempt: 1 });
    let mut connection = shop.postgres().await;
    let mut tx = connection.begin().await.unwrap();
    let complete = "UPDATE sendarix_claims SET state = 'completed', until = now() + interval '1 day'
        WHERE event_id = 'evt_1'";
    sqlx::raw_sql(complete).execute(&mut *tx).await.unwrap();
    let other = tokio::spawn(async move { store.claim(&event, ClaimToken::random(), long).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    eventually("the claim waits", || async { backend.sql(waits) == "1" }).await;
    tx.commit().await.unwrap();
    assert_eq!(other.await.unwrap().unwrap(), Claim::Completed);
}
