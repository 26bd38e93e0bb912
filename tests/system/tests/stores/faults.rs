//! Stores that fail in every way: deliveries are answered 503 without reaching the handler, and go through again within
//! five seconds of the store's return, without an operator.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sendarix_webhooks::{Outcome, Receiver};
use sqlx::{Connection, PgConnection, SqliteConnection};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{
    Backend, Fault, Instance, Kind, Proxy, Sent, TempDir, as_nobody, deliver, eventually, program, receiver, secret,
};

const RECOVERY: Duration = Duration::from_secs(5);

/// Events that come while the store is away.
const IDS: [&str; 4] = ["evt_1", "evt_2", "evt_3", "evt_4"];

/// Each is answered 503, also the second time, and none is handled.
async fn all_are_refused(instance: &Instance) {
    const REFUSED: Sent = Sent::Answered(503);
    let [a, b, c, d] = IDS;
    for _ in 0..2 {
        let sent = tokio::join!(instance.send(a), instance.send(b), instance.send(c), instance.send(d));
        assert_eq!(sent, (REFUSED, REFUSED, REFUSED, REFUSED));
    }
    assert!(!instance.handled().iter().any(|id| IDS.contains(&&**id)), "no handler runs without a claim");
}

/// Each is acknowledged before long, and handled once.
async fn all_are_handled(instance: &Instance, what: &str) {
    let back = Instant::now();
    let [a, b, c, d] = IDS.map(|id| instance.send_until_acknowledged(id));
    tokio::join!(a, b, c, d);
    let took = back.elapsed();
    assert!(took < RECOVERY, "{what}: recovered after {took:?}");
    let mut handled = instance.all_handled().await;
    handled.retain(|id| IDS.contains(&&**id));
    handled.sort();
    assert_eq!(handled, IDS, "{what}: each is handled once");
}

/// An instance that has handled an event, so that it has a connection.
async fn working_instance(store: &str) -> Instance {
    let instance = Instance::shared_store(store);
    assert_eq!(instance.send("evt_before").await, Sent::Answered(200));
    instance
}

/// What a load balancer asks. The process itself is healthy all the time.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_store() {
    for kind in Kind::SERVERS {
        let mut backend = Backend::start(kind);
        let place = TempDir::new();
        let mut command = Command::new(program("shared-store-example"));
        command.env("LISTEN", "127.0.0.1:0").env("STORE", backend.url()).current_dir(place.path());
        let instance = Instance::of_command("shared-store-example", &mut command, &[]);
        let address = instance.url().strip_suffix("/webhooks/sendarix").unwrap().to_owned();
        let status = async |path: &str| reqwest::get(format!("{address}{path}")).await.unwrap().status().as_u16();
        assert_eq!((status("/readyz").await, status("/healthz").await), (200, 200), "{kind:?}");
        let becomes = async |expected: u16| {
            let start = Instant::now();
            while status("/readyz").await != expected {
                assert!(start.elapsed() < RECOVERY, "{kind:?}: {expected}");
                sleep(Duration::from_millis(50)).await;
            }
        };
        backend.kill();
        becomes(503).await;
        assert_eq!(status("/healthz").await, 200, "{kind:?}");
        backend.start_again();
        becomes(200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn down_at_start() {
    for kind in Kind::SERVERS {
        let mut backend = Backend::start(kind);
        backend.kill();
        let instance = Instance::shared_store(&backend.url());
        all_are_refused(&instance).await;
        backend.start_again();
        all_are_handled(&instance, &format!("{kind:?} was down at start")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted() {
    for kind in Kind::SERVERS {
        let mut backend = Backend::start(kind);
        let instance = working_instance(&backend.url()).await;
        backend.kill();
        all_are_refused(&instance).await;
        backend.start_again();
        all_are_handled(&instance, &format!("{kind:?} was killed")).await;
    }
}

/// An idle connection that has died costs no delivery.
#[tokio::test(flavor = "multi_thread")]
async fn restarted_unnoticed() {
    for kind in Kind::SERVERS {
        let mut backend = Backend::start(kind);
        let instance = working_instance(&backend.url()).await;
        backend.kill();
        backend.start_again();
        assert_eq!(instance.send("evt_after").await, Sent::Answered(200), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_for_30_seconds() {
    let mut pauses = JoinSet::new();
    for kind in Kind::SERVERS {
        pauses.spawn(async move {
            let backend = Backend::start(kind);
            let instance = working_instance(&backend.url()).await;
            backend.pause();
            let paused = Instant::now();
            all_are_refused(&instance).await;
            sleep(Duration::from_secs(30).saturating_sub(paused.elapsed())).await;
            backend.resume();
            all_are_handled(&instance, &format!("{kind:?} was paused")).await;
        });
    }
    pauses.join_all().await;
}

/// The claims that were sent before the pause begin their lease after it, and no delivery is there any more to complete them.
#[tokio::test(flavor = "multi_thread")]
async fn paused_for_longer_than_the_lease() {
    let mut pauses = JoinSet::new();
    for kind in Kind::SERVERS {
        pauses.spawn(async move {
            let backend = Backend::start(kind);
            let effects = backend.dir().join("effects");
            std::fs::write(&effects, "").unwrap();
            let (store, effects) = (backend.url(), effects.display().to_string());
            let arguments = ["--store", &store, "--effects", &effects, "--lease-ms", "10000"];
            let instance = Instance::start("instance", &arguments);
            assert_eq!(instance.send("evt_before").await, Sent::Answered(200));
            backend.pause();
            let paused = Instant::now();
            all_are_refused(&instance).await;
            sleep(Duration::from_secs(15).saturating_sub(paused.elapsed())).await;
            backend.resume();
            all_are_handled(&instance, &format!("{kind:?} was paused for longer than the lease")).await;
        });
    }
    pauses.join_all().await;
}

async fn behind_a_proxy(fault: Fault) {
    for kind in Kind::SERVERS {
        let backend = Backend::start(kind);
        let proxy = Proxy::start(backend.addr()).await;
        let instance = working_instance(&backend.url_at(proxy.port)).await;
        proxy.set(fault.clone());
        all_are_refused(&instance).await;
        proxy.set(Fault::None);
        all_are_handled(&instance, &format!("{kind:?} with {fault:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_reset() {
    behind_a_proxy(Fault::Reset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence() {
    behind_a_proxy(Fault::Silence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_lost() {
    behind_a_proxy(Fault::RepliesLost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_out_of_connections() {
    let settings = ["-c", "max_connections=8", "-c", "superuser_reserved_connections=0", "-c", "max_wal_senders=0"];
    let backend = Backend::with_settings(Kind::Postgres, &settings);
    let instance = working_instance(&backend.url()).await;
    let mut taken = Vec::new();
    // Until this test has every connection, and the instance none.
    while taken.len() < 8 {
        while let Ok(connection) = PgConnection::connect(&backend.url()).await {
            taken.push(connection);
        }
        let theirs = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE query LIKE '%sendarix_claims%' AND pid <> pg_backend_pid()";
        sqlx::raw_sql(theirs).execute(&mut taken[0]).await.unwrap();
    }
    all_are_refused(&instance).await;
    drop(taken);
    all_are_handled(&instance, "PostgreSQL was out of connections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_out_of_connections() {
    let backend = Backend::start(Kind::Redis);
    let instance = working_instance(&backend.url()).await;
    let client = redis::Client::open(backend.url()).unwrap();
    let mut taken = client.get_multiplexed_async_connection().await.unwrap();
    let run = async |connection: &mut redis::aio::MultiplexedConnection, command: &str| {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>()).exec_async(connection).await.unwrap();
    };
    run(&mut taken, "CONFIG SET maxclients 1").await;
    run(&mut taken, "CLIENT KILL TYPE normal SKIPME yes").await;
    all_are_refused(&instance).await;
    run(&mut taken, "CONFIG SET maxclients 100").await;
    all_are_handled(&instance, "Redis was out of connections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_read_only() {
    let backend = Backend::start(Kind::Postgres);
    let instance = working_instance(&backend.url()).await;
    backend.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    backend.sql("SELECT pg_reload_conf()");
    let read_only = || async { backend.sql("SHOW default_transaction_read_only") == "on" };
    eventually("it is read-only", read_only).await;
    all_are_refused(&instance).await;
    backend.sql("ALTER SYSTEM RESET default_transaction_read_only");
    backend.sql("SELECT pg_reload_conf()");
    all_are_handled(&instance, "PostgreSQL was read-only").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_read_only() {
    let backend = Backend::start(Kind::Redis);
    let instance = working_instance(&backend.url()).await;
    backend.redis(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    all_are_refused(&instance).await;
    backend.redis(&["REPLICAOF", "NO", "ONE"]).unwrap();
    all_are_handled(&instance, "Redis was a replica").await;
}

/// The address moves from the old primary, now a replica, to the new one. The old one goes on answering.
#[tokio::test(flavor = "multi_thread")]
async fn redis_failover() {
    let (old, new) = (Backend::start(Kind::Redis), Backend::start(Kind::Redis));
    let proxy = Proxy::start(old.addr()).await;
    let instance = working_instance(&old.url_at(proxy.port)).await;
    old.redis(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    all_are_refused(&instance).await;
    // Connections that there are stay with the old one.
    proxy.redirect(new.addr());
    all_are_handled(&instance, "the primary was another Redis").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_out_of_memory() {
    let backend = Backend::start(Kind::Redis);
    let instance = working_instance(&backend.url()).await;
    backend.redis(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    all_are_refused(&instance).await;
    backend.redis(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    all_are_handled(&instance, "Redis was out of memory").await;
}

/// Sends events until one is refused for want of space, which is where the disk is full.
async fn until_full(instance: &Instance) {
    for number in 0..20_000 {
        if instance.send(&format!("evt_filling_{number}")).await == Sent::Answered(503) {
            return;
        }
    }
    panic!("a full disk takes everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_full() {
    for kind in Kind::ALL {
        let settings: &[&str] = if kind == Kind::Redis { &["--appendonly", "yes"] } else { &[] };
        let backend = Backend::on_small_disk(kind, settings);
        let instance = working_instance(&backend.url()).await;
        let filling = backend.fill_disk();
        until_full(&instance).await;
        all_are_refused(&instance).await;
        std::fs::remove_file(filling).unwrap();
        all_are_handled(&instance, &format!("the disk of {kind:?} was full")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_without_its_directory_at_start() {
    let backend = Backend::start(Kind::Sqlite);
    let directory = backend.dir().join("later");
    let instance = Instance::shared_store(&format!("sqlite:{}", directory.join("events.sqlite").display()));
    all_are_refused(&instance).await;
    std::fs::create_dir(&directory).unwrap();
    all_are_handled(&instance, "the directory was missing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_read_only_at_start() {
    use std::os::unix::fs::{PermissionsExt, chown};

    let backend = Backend::start(Kind::Sqlite);
    let permit = |mode| {
        std::fs::set_permissions(backend.dir(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    permit(0o555);
    // Where it can be given away, this is root, whom no permission stops.
    let _ = chown(backend.dir(), Some(65534), Some(65534));
    let mut command = Command::new(program("shared_store"));
    let arguments = ["--listen", "127.0.0.1:0", "--store", &backend.url()];
    let instance = Instance::of_command("shared_store", as_nobody(&mut command), &arguments);
    all_are_refused(&instance).await;
    permit(0o755);
    all_are_handled(&instance, "the directory was read-only").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_locked_by_another_process() {
    let backend = Backend::start(Kind::Sqlite);
    let instance = working_instance(&backend.url()).await;
    let mut other = sqlx::SqliteConnection::connect(&backend.url()).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    all_are_refused(&instance).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    all_are_handled(&instance, "another process had the file").await;
}

/// A statement that is given up here goes on waiting there, in the queue for the lock, but not for long.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_locked() {
    let backend = Backend::start(Kind::Postgres);
    let instance = working_instance(&backend.url()).await;
    let mut other = PgConnection::connect(&backend.url()).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE sendarix_claims").execute(&mut *tx).await.unwrap();
    let locked = Instant::now();
    let mut most = 0;
    while locked.elapsed() < Duration::from_secs(12) {
        all_are_refused(&instance).await;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        most = most.max(backend.sql(waiting).parse().unwrap());
    }
    assert!((1..=40).contains(&most), "{most} sessions wait for the lock, of 8 that the store may have open");
    tx.rollback().await.unwrap();
    all_are_handled(&instance, "the table was locked").await;
}

/// A receiver that waits longer has stores that wait as long, also over connections that were opened before: with the default
/// of 2 s, they would have given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_waits_as_long_as_its_receiver() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let backend = Backend::start(kind);
        let store = backend.store();
        let hasty = Receiver::builder(secret()).store(Arc::clone(&store)).build().unwrap();
        assert_eq!(deliver(&hasty, "evt_before", |_| async { Ok(()) }).await, Outcome::Processed);
        let builder = Receiver::builder(secret()).store(store);
        let builder = builder.store_timeout(Duration::from_secs(8)).lease(Duration::from_secs(90));
        let receiver = builder.build().unwrap();
        let file = format!("sqlite:{}", backend.file().display());
        let (locked, unlock) = (Arc::new(Notify::new()), Duration::from_millis(3500));
        let (holds, url) = (Arc::clone(&locked), backend.url());
        let holder = tokio::spawn(async move {
            if kind == Kind::Sqlite {
                let mut connection = SqliteConnection::connect(&file).await.unwrap();
                let tx = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
                holds.notify_one();
                sleep(unlock).await;
                tx.rollback().await.unwrap();
            } else {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                let mut tx = connection.begin().await.unwrap();
                sqlx::query("LOCK TABLE sendarix_claims IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
                holds.notify_one();
                sleep(unlock).await;
                tx.rollback().await.unwrap();
            }
        });
        locked.notified().await;
        let outcome = deliver(&receiver, "evt_1", |_| async { Ok(()) }).await;
        assert_eq!(outcome, Outcome::Processed, "{kind:?}");
        holder.await.unwrap();
    }
}

/// A process that does not live for a minute cleans up as well, with its first completion.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_over_are_deleted_with_the_first_completion() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let backend = Backend::start(kind);
        let first = receiver(&backend);
        for id in ["evt_1", "evt_2"] {
            assert_eq!(deliver(&first, id, |_| async { Ok(()) }).await, Outcome::Processed);
        }
        drop(first);
        let over = if kind == Kind::Sqlite { "1" } else { "now() - interval '1 second'" };
        backend.sql(&format!("UPDATE sendarix_claims SET until = {over}"));
        let second = receiver(&backend);
        assert_eq!(deliver(&second, "evt_3", |_| async { Ok(()) }).await, Outcome::Processed);
        let left = || async { backend.sql("SELECT count(*) FROM sendarix_claims") == "1" };
        eventually("the rows are gone", left).await;
    }
}

/// Something on the server refuses each statement for a reason that should be over the next time, and never is.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_that_never_ends_is_an_error_before_long() {
    let backend = Backend::start(Kind::Postgres);
    let receiver = receiver(&backend);
    assert_eq!(deliver(&receiver, "evt_before", |_| async { Ok(()) }).await, Outcome::Processed);
    backend.sql(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM nextval('tries'); RAISE 'never' USING ERRCODE = '40001'; END $$;
         CREATE TRIGGER conflict BEFORE INSERT ON sendarix_claims FOR EACH ROW EXECUTE FUNCTION conflict()",
    );
    let outcome = deliver(&receiver, "evt_1", |_| async { Ok(()) }).await;
    assert_eq!(outcome, Outcome::StoreUnavailable);
    // Each delivery tries its claim a few times, and no more: sequences count what is rolled back as well.
    assert_eq!(backend.sql("SELECT last_value FROM tries"), "5");
}

/// What an example could not print for want of space is answered 503, and printed once when there is space again.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_could_not_be_written_is_not_written_twice() {
    let backend = Backend::on_small_disk(Kind::Sqlite, &[]);
    let output = backend.dir().join("output");
    let file = std::fs::File::create(&output).unwrap();
    let mut server = Command::new(program("shared_store"));
    let elsewhere = crate::support::TempDir::new();
    let store = format!("sqlite:{}", elsewhere.path().join("events.sqlite").display());
    server.args(["--listen", "127.0.0.1:0", "--store", &store]);
    let instance = Instance::printing_to("shared_store", &mut server, file);
    let filling = backend.fill_disk();
    assert_eq!(instance.send("evt_1").await, Sent::Answered(503));
    std::fs::remove_file(filling).unwrap();
    instance.send_until_acknowledged("evt_1").await;
    assert_eq!(instance.send("evt_2").await, Sent::Answered(200));
    let lines = std::fs::read_to_string(&output).unwrap();
    let ids: Vec<&str> = lines.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(ids, ["evt_1", "evt_2"]);
}
