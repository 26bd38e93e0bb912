//! What the stores cost: events a second, a claim and a completion each, against the bare drivers as it is normally used, sending
//! statements of the same shape to the same server; many events at once against one after the other; and with a million remembered ids against
//! ten thousand.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench stores
//! ```
//!
//! It starts its servers. The candidates take turns; each figure is the median of its rounds.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey};
use sendarix_webhooks_benches::Target::AtLeast;
use sendarix_webhooks_benches::{Rounds, counted, row};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, PgConnection, Row, SqliteConnection};
use tokio::sync::Mutex;

use sendarix_webhooks_system_tests::{Backend, Kind};

const ROUNDS: usize = 20;
const ROUNDS_AGAINST_THE_DRIVER: usize = 100;
const EVENTS: usize = 500;
/// How many events are under way at the same time.
const AT_ONCE: usize = 8;
const MANY_AT_ONCE: usize = 64;
const LEASE: Duration = Duration::from_secs(60);
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::spawn(async {
            println!("a claim and a completion, {AT_ONCE} events at once, {EVENTS} a round");
            for kind in [Kind::Sqlite, Kind::Redis, Kind::Postgres] {
                let took = against_the_driver(kind).await;
                row(&format!("`{}`, events/s", name(kind)), "the bare driver", AtLeast(0.95), took.ratio(0, 1));
            }
            for kind in Kind::ALL {
                many_at_once(kind).await;
            }
            println!("a claim and a completion, by the number of remembered ids");
            for kind in Kind::ALL {
                with_a_million(kind).await;
            }
        })
        .await
        .unwrap();
    });
}

async fn against_the_driver(kind: Kind) -> Rounds<2> {
    let backend = Backend::start(kind);
    let store = backend.store();
    events(&store, AT_ONCE, 100).await;
    let driver = Driver::connect(&backend).await;
    // The first round warms up.
    driver.events(EVENTS).await;
    events(&store, AT_ONCE, EVENTS).await;
    let mut rounds = Rounds::<2>::default();
    for _ in 0..ROUNDS_AGAINST_THE_DRIVER {
        let mut took = [Duration::ZERO; 2];
        for candidate in rounds.order() {
            took[candidate] = match candidate {
                0 => driver.events(EVENTS).await,
                _ => events(&store, AT_ONCE, EVENTS).await,
            };
        }
        rounds.add(took);
    }
    let rate = |candidate| EVENTS as f64 / rounds.seconds(candidate);
    println!("  {:<14} bare driver {:>6.0} events/s, store {:>6.0}", name(kind), rate(0), rate(1));
    rounds
}

async fn many_at_once(kind: Kind) {
    let backend = Backend::start(kind);
    let store = backend.store();
    events(&store, MANY_AT_ONCE, EVENTS).await;
    let mut rounds = Rounds::<2>::default();
    for _ in 0..ROUNDS {
        rounds.add([events(&store, 1, EVENTS).await, events(&store, MANY_AT_ONCE, EVENTS).await]);
    }
    let what = format!("`{}`, {MANY_AT_ONCE} events at once against one after the other, events/s", name(kind));
    counted(&what, format_args!("{:.1}×", rounds.ratio(0, 1)));
}

async fn with_a_million(kind: Kind) {
    let [few, many] = [10_000, 1_000_000];
    let (small, large) = (Backend::start(kind), Backend::start(kind));
    let mut stores = Vec::new();
    for (backend, ids) in [(&small, few), (&large, many)] {
        let store = backend.store();
        events(&store, AT_ONCE, 100).await;
        remember(backend, ids).await;
        stores.push(store);
    }
    let mut rounds = Rounds::<2>::default();
    for store in &stores {
        events(store, AT_ONCE, EVENTS).await;
    }
    for _ in 0..ROUNDS {
        rounds.add([events(&stores[0], AT_ONCE, EVENTS).await, events(&stores[1], AT_ONCE, EVENTS).await]);
    }
    let [few_took, many_took] = [0, 1].map(|candidate| rounds.seconds(candidate) * 1e6 / EVENTS as f64);
    let ratio = rounds.ratio(1, 0);
    println!("  {:<14} {few}: {few_took:.0} µs, {many}: {many_took:.0} µs, ratio {ratio:.2}", name(kind));
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sqlite => "SqliteStore",
        Kind::Redis => "RedisStore",
        Kind::Postgres => "PostgresStore",
    }
}

fn new_key() -> EventKey {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    EventKey::new("default", format!("evt_{:016x}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// This many events, some at the same time.
async fn at_once<F>(workers: usize, count: usize, event: impl Fn(usize) -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let start = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for worker in 0..workers {
        running.spawn(event(count / workers + usize::from(worker < count % workers)));
    }
    running.join_all().await;
    start.elapsed()
}

async fn events(store: &Arc<dyn DedupStore>, workers: usize, count: usize) -> Duration {
    at_once(workers, count, |count| {
        let store = Arc::clone(store);
        async move {
            for _ in 0..count {
                let (key, token) = (new_key(), ClaimToken::random());
                assert_eq!(store.claim(&key, token, LEASE).await.unwrap(), Claim::Granted { attempt: 1 });
                assert!(store.complete(&key, token, RETENTION).await.unwrap());
            }
        }
    })
    .await
}

/// The bare driver, with as many connections as the store has.
enum Driver {
    Sqlite(Arc<Mutex<SqliteConnection>>),
    Redis(MultiplexedConnection, Arc<[redis::Script; 2]>),
    Postgres(Vec<Arc<Mutex<PgConnection>>>),
}

const SQLITE: [&str; 3] = [
    "SELECT state, token, until - CAST(unixepoch('subsec') * 1000 AS INTEGER) AS remaining
     FROM sendarix_claims WHERE endpoint = ?1 AND event_id = ?2",
    "INSERT INTO sendarix_claims AS c (endpoint, event_id, token, attempt, state, until)
     VALUES (?1, ?2, ?3, 1, 'live', CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?4)
     ON CONFLICT (endpoint, event_id) DO UPDATE SET token = excluded.token, state = 'live', until = excluded.until
     WHERE c.state = 'failed' OR c.until <= CAST(unixepoch('subsec') * 1000 AS INTEGER) RETURNING attempt",
    "UPDATE sendarix_claims SET state = 'completed', until = CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?4
     WHERE endpoint = ?1 AND event_id = ?2 AND token = ?3 AND state IN ('live', 'completed') RETURNING 1",
];

const POSTGRES: [&str; 2] = [
    "WITH claimed AS (
        INSERT INTO sendarix_claims AS c (endpoint, event_id, token, attempt, state, until)
        VALUES ($1, $2, $3::text::uuid, 1, 'live', clock_timestamp() + $4 * interval '1 microsecond')
        ON CONFLICT (endpoint, event_id) DO UPDATE SET token = excluded.token, state = 'live', until = excluded.until
        WHERE c.state = 'failed' OR c.until <= clock_timestamp() RETURNING attempt)
     SELECT 'granted' AS state, attempt AS number FROM claimed
     UNION ALL
     SELECT state, (extract(epoch FROM until - clock_timestamp()) * 1000000)::bigint FROM sendarix_claims
     WHERE endpoint = $1 AND event_id = $2 AND NOT EXISTS (SELECT FROM claimed)",
    "UPDATE sendarix_claims SET state = 'completed', until = clock_timestamp() + $4 * interval '1 microsecond'
     WHERE endpoint = $1 AND event_id = $2 AND token = $3::text::uuid AND state IN ('live', 'completed') RETURNING 1::bigint AS number",
];

impl Driver {
    async fn connect(backend: &Backend) -> Self {
        match backend.kind {
            Kind::Sqlite => {
                let options = SqliteConnectOptions::new().filename(backend.file()).journal_mode(SqliteJournalMode::Wal);
                let connection = options.synchronous(SqliteSynchronous::Normal).connect().await.unwrap();
                Self::Sqlite(Arc::new(Mutex::new(connection)))
            }
            Kind::Redis => {
                let client = redis::Client::open(backend.url()).unwrap();
                let connection = client.get_multiplexed_async_connection().await.unwrap();
                let claim = redis::Script::new(include_str!("../src/redis/claim.lua"));
                let settle = redis::Script::new(include_str!("../src/redis/settle.lua"));
                Self::Redis(connection, Arc::new([claim, settle]))
            }
            Kind::Postgres => {
                let options: PgConnectOptions = backend.url().parse().unwrap();
                let mut connections = Vec::new();
                for _ in 0..AT_ONCE {
                    connections.push(Arc::new(Mutex::new(options.connect().await.unwrap())));
                }
                Self::Postgres(connections)
            }
        }
    }

    async fn events(&self, count: usize) -> Duration {
        match self {
            Self::Sqlite(connection) => {
                let events = |count| {
                    let connection = Arc::clone(connection);
                    async move {
                        for _ in 0..count {
                            sqlite_event(&connection).await;
                        }
                    }
                };
                at_once(AT_ONCE, count, events).await
            }
            Self::Redis(connection, scripts) => {
                let events = |count| {
                    let (mut connection, scripts) = (connection.clone(), Arc::clone(scripts));
                    async move {
                        for _ in 0..count {
                            redis_event(&mut connection, &scripts).await;
                        }
                    }
                };
                at_once(AT_ONCE, count, events).await
            }
            Self::Postgres(connections) => {
                let next = AtomicUsize::new(0);
                let events = |count| {
                    let connection = Arc::clone(&connections[next.fetch_add(1, Ordering::Relaxed)]);
                    async move {
                        let mut connection = connection.lock().await;
                        for _ in 0..count {
                            postgres_event(&mut connection).await;
                        }
                    }
                };
                at_once(AT_ONCE, count, events).await
            }
        }
    }
}

async fn sqlite_event(connection: &Mutex<SqliteConnection>) {
    let (key, token) = (new_key(), const_hex::encode(ClaimToken::random().to_bytes()));
    let (endpoint, id, token) = (key.endpoint(), key.event_id(), token.as_str());
    let [find, claim, complete] = SQLITE;
    {
        let mut connection = connection.lock().await;
        let found = sqlx::query(find).bind(endpoint).bind(id).fetch_all(&mut *connection).await.unwrap();
        assert!(found.is_empty());
        let claim = sqlx::query(claim).bind(endpoint).bind(id).bind(token).bind(60_000);
        assert_eq!(claim.fetch_all(&mut *connection).await.unwrap()[0].get::<i64, _>(0), 1);
    }
    let mut connection = connection.lock().await;
    let complete = sqlx::query(complete).bind(endpoint).bind(id).bind(token).bind(86_400_000);
    assert_eq!(complete.fetch_all(&mut *connection).await.unwrap().len(), 1);
}

async fn postgres_event(connection: &mut PgConnection) {
    let (key, token) = (new_key(), const_hex::encode(ClaimToken::random().to_bytes()));
    for (step, microseconds) in POSTGRES.into_iter().zip([60_000_000_i64, 86_400_000_000]) {
        let step = sqlx::query(step).bind(key.endpoint()).bind(key.event_id()).bind(&token).bind(microseconds);
        let rows = step.fetch_all(&mut *connection).await.unwrap();
        assert_eq!(rows[0].get::<i64, _>("number"), 1);
    }
}

async fn redis_event(connection: &mut MultiplexedConnection, [claim, settle]: &[redis::Script; 2]) {
    let (key, token) = (new_key(), ClaimToken::random().to_bytes());
    let (endpoint, id) = (key.endpoint(), key.event_id());
    let name = format!("sendarix:claim:{{{endpoint}}}:{id}");
    let token = const_hex::encode(token);
    let mut claim = claim.key(&name);
    let claim = claim.arg(&token).arg(60_000).arg(86_400_000).arg(330_000);
    let (granted, _): (String, u64) = claim.invoke_async(connection).await.unwrap();
    assert_eq!(granted, "granted");
    let mut settle = settle.key(&name);
    for letters in ["letters", "letter-ids"] {
        settle.key(format!("sendarix:{letters}:{{{endpoint}}}"));
    }
    let settle = settle.arg(&token).arg("completed").arg(86_400_000).arg(id);
    assert!(settle.invoke_async::<bool>(connection).await.unwrap());
}

/// Makes the store remember this many ids.
async fn remember(backend: &Backend, ids: usize) {
    match backend.kind {
        Kind::Sqlite => drop(backend.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ids})
             INSERT INTO sendarix_claims SELECT 'default', 'evt_' || hex(randomblob(16)), hex(randomblob(16)), 1,
                'completed', strftime('%s', 'now') * 1000 + 86400000 FROM n"
        ))),
        Kind::Postgres => {
            backend.sql(&format!(
                "INSERT INTO sendarix_claims SELECT 'default', 'evt_' || md5(random()::text || i),
                    gen_random_uuid(), 1, 'completed', now() + interval '1 day'
                 FROM generate_series(1, {ids}) AS i"
            ));
            backend.sql("VACUUM ANALYZE sendarix_claims");
            backend.sql("CHECKPOINT");
        }
        Kind::Redis => {
            let client = redis::Client::open(backend.url()).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            for _ in 0..ids / 10_000 {
                let mut batch = redis::pipe();
                for _ in 0..10_000 {
                    let (id, token) = (rand::random::<u128>(), rand::random::<u128>());
                    let key = format!("sendarix:claim:{{default}}:evt_{id:032x}");
                    batch.pset_ex(key, format!("completed {token:032x} 1 0"), 86_400_000).ignore();
                }
                batch.exec_async(&mut connection).await.unwrap();
            }
        }
    }
}
