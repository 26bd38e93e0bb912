//! Events on their way into a durable queue, and out of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apalis_core::backend::TaskSink;
use apalis_core::backend::finalize::Durable;
use apalis_postgres::PostgresStorage;
use apalis_redis::RedisStorage;
use apalis_sqlite::SqliteStorage;
use sendarix_webhooks::destination::Enqueue;
use sendarix_webhooks::store::MemoryStore;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, Outcome, RETRY_SCHEDULE, Receiver, SendarixEvent};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{PgPool, SqlitePool};
use tokio::task::JoinSet;

use crate::support::{Backend, Instance, Kind, Sent, deliver, eventually, secret};

const QUEUE: &str = "sendarix";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn event(id: &str) -> SendarixEvent {
    SendarixEvent::decode(Sample::new(EventType::Open).event_id(id).body()).unwrap()
}

/// The ids of the events in the queue, one for each job.
fn jobs(backend: &Backend) -> Vec<String> {
    let bodies = match backend.kind {
        Kind::Sqlite => backend.sql("SELECT CAST(job AS TEXT) FROM Jobs"),
        Kind::Postgres => backend.sql("SELECT convert_from(job, 'UTF8') FROM apalis.jobs"),
        Kind::Redis => backend.redis(&["HVALS", "sendarix:data"]).unwrap(),
    };
    let id = |job: &str| serde_json::from_str::<SendarixEvent>(job).unwrap().event_id.clone();
    bodies.lines().filter(|line| !line.is_empty()).map(id).collect()
}

/// What a job says beside its event.
fn metadata(backend: &Backend) -> String {
    match backend.kind {
        Kind::Sqlite => backend.sql("SELECT metadata FROM Jobs LIMIT 1"),
        Kind::Postgres => backend.sql("SELECT metadata FROM apalis.jobs LIMIT 1"),
        Kind::Redis => {
            let script = "return redis.call('HGETALL', redis.call('KEYS', 'sendarix:meta:*')[1])";
            backend.redis(&["EVAL", script, "0"]).unwrap()
        }
    }
}

/// Each of 10,000 events comes three times, to instances that know nothing of each other.
async fn pushes<Q>(backend: &Backend, queue: Q)
where
    Q: TaskSink<SendarixEvent, Durable> + Clone + Send + Sync + 'static,
{
    const EVENTS: usize = 10_000;
    let trace_context = || HashMap::from([("traceparent".to_owned(), TRACEPARENT.to_owned())]);
    let enqueue = Enqueue::new(queue).limit(Duration::from_secs(30)).trace_context(trace_context);
    let next = Arc::new(AtomicUsize::new(0));
    let mut pushers = JoinSet::new();
    for _ in 0..8 {
        let (enqueue, next) = (enqueue.clone(), Arc::clone(&next));
        pushers.spawn(async move {
            loop {
                // Copies of one event follow each other, so that they race.
                let push = next.fetch_add(1, Ordering::SeqCst);
                if push >= 3 * EVENTS {
                    return;
                }
                enqueue.push(event(&format!("evt_{}", push / 3))).await.unwrap();
            }
        });
    }
    pushers.join_all().await;
    let jobs = jobs(backend);
    assert_eq!(jobs.len(), EVENTS, "{:?}", backend.kind);
    assert_eq!(jobs.into_iter().collect::<HashSet<_>>().len(), EVENTS, "{:?}", backend.kind);
    let metadata = metadata(backend);
    assert!(metadata.contains("traceparent") && metadata.contains(TRACEPARENT), "{:?}: {metadata}", backend.kind);
    enqueue.push(event("evt'\u{1F4E7}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_sent_three_times_are_as_many_jobs_in_sqlite() {
    let backend = Backend::start(Kind::Sqlite);
    let options = SqliteConnectOptions::new().filename(backend.file()).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(20));
    let pool = SqlitePool::connect_with(options).await.unwrap();
    SqliteStorage::setup(&pool).await.unwrap();
    let config = apalis_sqlite::Config::default().queue(QUEUE);
    pushes(&backend, SqliteStorage::new(&pool).with_config(config)).await;
}

async fn redis_queue(backend: &Backend) -> RedisStorage<SendarixEvent> {
    let connection = apalis_redis::connect(backend.url()).await.unwrap();
    let mut config = apalis_redis::Config::default().queue(QUEUE);
    config.idempotency_ttl = Some(RETRY_SCHEDULE);
    RedisStorage::new(connection).with_config(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_sent_three_times_are_as_many_jobs_in_redis() {
    let backend = Backend::start(Kind::Redis);
    pushes(&backend, redis_queue(&backend).await).await;
}

async fn postgres_queue(backend: &Backend) -> PostgresStorage<SendarixEvent> {
    let pool = PgPool::connect(&backend.url()).await.unwrap();
    PostgresStorage::setup(&pool).await.unwrap();
    PostgresStorage::new(&pool).with_config(apalis_postgres::Config::default().queue(QUEUE))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_sent_three_times_are_as_many_jobs_in_postgres() {
    let backend = Backend::start(Kind::Postgres);
    pushes(&backend, postgres_queue(&backend).await).await;
}

/// The statements of the guide's pages on queues and on mail state.
#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_one_person_are_erased_and_no_others() {
    let backend = Backend::start(Kind::Postgres);
    let enqueue = Enqueue::new(postgres_queue(&backend).await);
    for recipient in ["Ann@example.com", "joann@example.com"] {
        let data = r#"{"smtp_message":"a\u0000b \"ann@example.com\""}"#;
        let body = Sample::new(EventType::Bounce).recipient(recipient).data(data).body();
        enqueue.push(SendarixEvent::decode(body).unwrap()).await.unwrap();
    }
    let queues = include_str!("../../../../src/guide/queues.md");
    let (_, depth) = queues.split_once("SELECT count(*) FROM apalis.jobs").unwrap();
    let depth = depth.split_once(';').unwrap().0;
    assert_eq!(backend.sql(&format!("SELECT count(*) FROM apalis.jobs{depth}")), "2");
    let guide = include_str!("../../../../src/guide/mail_state.md");
    let (_, erase) = guide.split_once("DELETE FROM apalis.jobs").unwrap();
    let (erase, _) = erase.split_once(';').unwrap();
    backend.sql(&format!("DELETE FROM apalis.jobs {erase}"));
    let left = backend.sql("SELECT convert_from(job, 'UTF8') FROM apalis.jobs");
    assert!(left.lines().count() == 1 && left.contains("joann@example.com"), "{left}");
}

/// The index that tells jobs apart is damaged, and its name stands in the error. That is no "already there".
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_names_itself_in_its_error_is_no_success() {
    let mut backend = Backend::start(Kind::Postgres);
    Enqueue::new(postgres_queue(&backend).await).push(event("evt_before")).await.unwrap();
    let file = backend.sql("SELECT pg_relation_filepath('apalis.idx_jobs_idempotency_key')");
    backend.sql("CHECKPOINT");
    backend.kill();
    let path = backend.dir().join("data").join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    // The page with the entries, behind that of the tree itself, as after a crash that lost a write.
    bytes[8192..16384].fill(0);
    std::fs::write(&path, bytes).unwrap();
    backend.start_again();
    let pool = PgPool::connect(&backend.url()).await.unwrap();
    let config = apalis_postgres::Config::default().queue(QUEUE);
    let enqueue = Enqueue::new(PostgresStorage::<SendarixEvent>::new(&pool).with_config(config));
    for _ in 0..3 {
        let error = enqueue.push(event("evt_1")).await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("idx_jobs_idempotency_key"), "{cause}");
    }
    assert_eq!(backend.sql("SELECT count(*) FROM apalis.jobs"), "1");
    backend.sql("REINDEX INDEX apalis.idx_jobs_idempotency_key");
    for _ in 0..2 {
        enqueue.push(event("evt_1")).await.unwrap();
    }
    assert_eq!(backend.sql("SELECT count(*) FROM apalis.jobs"), "2");
    // Nor does the violation of any other unique index say so.
    backend.sql("DELETE FROM apalis.jobs; CREATE UNIQUE INDEX one_priority ON apalis.jobs (priority)");
    enqueue.push(event("evt_2")).await.unwrap();
    enqueue.push(event("evt_3")).await.unwrap_err();
}

fn instance(backend: &Backend, role: &str) -> Instance {
    Instance::start("job_queue", &["--listen", "127.0.0.1:0", "--queue", &backend.url(), "--role", role])
}

/// The server is killed again and again while events come. Whatever it has acknowledged is a job, and each is one.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_time_nothing_that_was_acknowledged_is_missing() {
    const KILLS: usize = 10;
    for kind in Kind::ALL {
        let backend = Backend::start(kind);
        let mut acknowledged = HashSet::new();
        for kill in 0..KILLS {
            let server = Arc::new(instance(&backend, "server"));
            let counted = Arc::new(AtomicUsize::new(0));
            let mut senders = JoinSet::new();
            for sender in 0..4 {
                let (server, counted) = (Arc::clone(&server), Arc::clone(&counted));
                senders.spawn(async move {
                    let mut acknowledged = Vec::new();
                    for number in 0.. {
                        let id = format!("evt_{kill}_{sender}_{number}");
                        match server.send(&id).await {
                            Sent::Answered(200) => acknowledged.push(id),
                            Sent::Answered(status) => assert_eq!(status, 503),
                            Sent::Lost => break,
                        }
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                    acknowledged
                });
            }
            // In another place each time.
            eventually("events come", || async { counted.load(Ordering::SeqCst) > 20 + 7 * kill }).await;
            server.signal("KILL");
            acknowledged.extend(senders.join_all().await.into_iter().flatten());
        }
        let jobs = jobs(&backend);
        let ids: HashSet<&String> = jobs.iter().collect();
        assert_eq!(ids.len(), jobs.len(), "{kind:?}: a job each");
        let missing: Vec<&String> = acknowledged.iter().filter(|id| !ids.contains(id)).collect();
        assert!(missing.is_empty(), "{kind:?}: {missing:?}");
        assert!(acknowledged.len() > KILLS * 20, "{kind:?}: {}", acknowledged.len());
    }
}

/// The queue goes away and comes back, while the dedup store is there. Nothing is acknowledged in between.
async fn goes_away<Q>(mut backend: Backend, queue: Q)
where
    Q: TaskSink<SendarixEvent, Durable> + Clone + Send + Sync + 'static,
{
    let handler = Enqueue::new(queue).limit(Duration::from_secs(1)).handler();
    let receiver =
        Receiver::builder(secret()).store(MemoryStore::new()).dangerously_without_dead_letters().build().unwrap();
    let send = async |id: &str| deliver(&receiver, id, handler.clone()).await;
    assert_eq!(send("evt_before").await, Outcome::Processed);
    backend.kill();
    assert_eq!(send("evt_during").await, Outcome::Failed);
    backend.start_again();
    eventually("the queue is back", || async { send("evt_during").await == Outcome::Processed }).await;
    let mut jobs = jobs(&backend);
    jobs.sort_unstable();
    assert_eq!(jobs, ["evt_before", "evt_during"], "{:?}", backend.kind);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_queue_nothing_is_acknowledged() {
    // With a disk, or nothing would be there when it is back.
    let backend = Backend::with_settings(Kind::Redis, &["--appendonly", "yes", "--appendfsync", "always"]);
    let queue = redis_queue(&backend).await;
    goes_away(backend, queue).await;
    let backend = Backend::start(Kind::Postgres);
    let queue = postgres_queue(&backend).await;
    goes_away(backend, queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_works_and_what_never_succeeds_is_a_dead_letter() {
    for kind in Kind::ALL {
        let backend = Backend::start(kind);
        let server = instance(&backend, "server");
        let never = Sample::new(EventType::Open).event_id("evt_never").recipient("never@example.com").body();
        assert_eq!(server.send("evt_1").await, Sent::Answered(200), "{kind:?}");
        assert_eq!(server.send_body(&never).await, Sent::Answered(200), "{kind:?}: it is in the queue");
        let worker = instance(&backend, "worker");
        eventually("the job is done", || async { worker.handled() == ["evt_1"] }).await;
        let letters = backend.stores().1;
        let tried = async || {
            let letters = letters.list("default.jobs", None, 10).await.unwrap();
            let first = letters.into_iter().next().map(Result::unwrap);
            first.map(|letter| (letter.key.event_id().to_owned(), letter.error.clone(), letter.attempts))
        };
        // Once by the queue, and at least once more by its own decision.
        eventually("it is tried again", || async { tried().await.is_some_and(|(_, _, attempts)| attempts > 1) }).await;
        let (id, error, _) = tried().await.unwrap();
        assert_eq!((id.as_str(), error.as_str()), ("evt_never", "the domain cannot be reached"), "{kind:?}");
        assert!(letters.list("default", None, 10).await.unwrap().is_empty(), "{kind:?}: that one is acknowledged");
    }
}
