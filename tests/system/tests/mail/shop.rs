//! An application that records its events.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sendarix_webhooks::destination::Destination;
use sendarix_webhooks::mail::{Mail, MailBuilder, MailStore, MemoryMail};
use sendarix_webhooks::store::{DedupStore, MemoryStore};
use sendarix_webhooks::testing::{ManualClock, Sample};
use sendarix_webhooks::{EventType, Inbox, Outcome, PostgresStore, SendarixEvent, SqliteStore, Timestamp};

use crate::support::{Backend, Kind, PgBouncer};

/// The moment that the application's clock shows.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_776_609_121)
}

/// A time that many seconds before or after [`now`].
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(Timestamp::from(now()).unix_seconds() + seconds).unwrap()
}

pub fn sample(event_type: EventType, second: i64) -> Sample {
    Sample::new(event_type).timestamp(at(second)).message_id("msg_1").recipient("ann@example.com")
}

pub fn event(sample: &Sample) -> SendarixEvent {
    SendarixEvent::decode(sample.body()).unwrap()
}

#[derive(Clone)]
pub struct Shop<S> {
    pub mail: Mail<S>,
    pub inbox: Inbox,
    pub clock: ManualClock,
    /// Ended before its server.
    pub pooler: Option<Arc<PgBouncer>>,
    pub backend: Option<Arc<Backend>>,
    store: S,
}

impl Shop<MemoryMail> {
    pub async fn in_memory() -> Self {
        Self::new(MemoryMail::default(), MemoryStore::default(), None)
    }
}

impl Shop<SqliteStore> {
    pub async fn on_sqlite() -> Self {
        let backend = Backend::start(Kind::Sqlite);
        let store = SqliteStore::open(backend.file()).unwrap();
        Self::new(store.clone(), store, Some(backend))
    }
}

impl Shop<PostgresStore> {
    pub async fn on_postgres() -> Self {
        Self::at(Backend::start(Kind::Postgres))
    }

    /// Where transactions are stricter by default.
    pub async fn on_strict_postgres() -> Self {
        let level = ["-c", "default_transaction_isolation=repeatable read"];
        Self::at(Backend::with_settings(Kind::Postgres, &level))
    }

    pub async fn behind_pooler() -> Self {
        let backend = Backend::start(Kind::Postgres);
        let (pooler, url) = PgBouncer::start(&backend, "").await;
        let store = PostgresStore::builder(&url).unwrap().behind_pooler().build().unwrap();
        Self { pooler: Some(Arc::new(pooler)), ..Self::new(store.clone(), store, Some(backend)) }
    }

    fn at(backend: Backend) -> Self {
        let store = PostgresStore::open(&backend.url()).unwrap();
        Self::new(store.clone(), store, Some(backend))
    }
}

impl<S: MailStore> Shop<S> {
    fn new(store: S, claims: impl DedupStore, backend: Option<Backend>) -> Self {
        let clock = ManualClock::at(now());
        let inbox =
            Inbox::builder("default").store(claims).dangerously_without_dead_letters().clock(clock.clone()).build();
        let mail = Mail::builder(store.clone()).clock(clock.clone()).build().unwrap();
        Self { mail, inbox: inbox.unwrap(), clock, pooler: None, backend: backend.map(Arc::new), store }
    }

    /// The same application with other settings.
    pub fn with(mut self, set: impl FnOnce(MailBuilder<S>) -> MailBuilder<S>) -> Self {
        self.mail = set(Mail::builder(self.store.clone()).clock(self.clock.clone())).build().unwrap();
        self
    }

    pub async fn record(&self, event: &SendarixEvent) -> Outcome {
        let mail = self.mail.clone();
        self.inbox.process(event.clone(), move |delivery| mail.take(delivery)).await.unwrap()
    }

    pub async fn record_all(&self, samples: impl IntoIterator<Item = Sample>) {
        for sample in samples {
            assert_eq!(self.record(&event(&sample)).await, Outcome::Processed);
        }
    }
}
