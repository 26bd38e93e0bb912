//! Several instances over one store.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use sendarix_webhooks::{PostgresStore, SqliteStore};
use tokio::task::JoinSet;

use crate::support::{Backend, Instance, Kind, Sent, libfaketime, program};

const EVENTS: usize = 10_000;
const COPIES: usize = 8;

/// Eight copies of each event race each other to four processes, until all are acknowledged.
async fn each_event_is_handled_once(kind: Kind) {
    let backend = Backend::start(kind);
    let instances: Vec<Instance> = (0..4).map(|_| Instance::shared_store(&backend.url())).collect();
    let instances: Arc<[Instance]> = instances.into();
    let next = Arc::new(AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..8 {
        let (instances, next) = (Arc::clone(&instances), Arc::clone(&next));
        senders.spawn(async move {
            loop {
                let event = next.fetch_add(1, Ordering::SeqCst);
                if event >= EVENTS {
                    break;
                }
                let id = format!("evt_{event}");
                let mut copies = JoinSet::new();
                for copy in 0..COPIES {
                    let (instances, id) = (Arc::clone(&instances), id.clone());
                    copies.spawn(async move { instances[(event + copy) % 4].send_until_acknowledged(&id).await });
                }
                copies.join_all().await;
            }
        });
    }
    senders.join_all().await;
    let mut handled = Vec::new();
    for instance in instances.iter() {
        let share = instance.all_handled().await;
        assert!(!share.is_empty(), "each process has its share");
        handled.extend(share);
    }
    let ids: HashSet<&String> = handled.iter().collect();
    assert_eq!((handled.len(), ids.len()), (EVENTS, EVENTS), "each event is handled once");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_handled_once_in_sqlite() {
    each_event_is_handled_once(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_handled_once_in_redis() {
    each_event_is_handled_once(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_handled_once_in_postgres() {
    each_event_is_handled_once(Kind::Postgres).await;
}

/// A machine has one clock, so this is for the stores that have instances on several.
#[tokio::test(flavor = "multi_thread")]
async fn instances_an_hour_apart_behave_the_same() {
    for kind in Kind::SERVERS {
        let backend = Backend::start(kind);
        let effects = backend.dir().join("effects");
        std::fs::write(&effects, "").unwrap();
        let arguments = |lease: &'static str| {
            let (store, effects) = (backend.url(), effects.display().to_string());
            ["--store".to_owned(), store, "--effects".to_owned(), effects, "--lease-ms".to_owned(), lease.to_owned()]
        };
        let start = |hours: i32, lease: &'static str, more: &[&str]| {
            let mut command = Command::new(program("instance"));
            command.env("LD_PRELOAD", libfaketime()).env("FAKETIME", format!("{hours:+}h"));
            // What waits for an hour that passes at once waits for nothing.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
            let arguments = arguments(lease);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
            Instance::of_command("instance", &mut command, &arguments)
        };
        let hour = Duration::from_secs(3600);
        let ahead = start(1, "60000", &[]);
        let behind = start(-1, "60000", &[]);
        let (in_an_hour, an_hour_ago) = (SystemTime::now() + hour, SystemTime::now() - hour);
        assert_eq!(ahead.send("evt_clock").await, Sent::Answered(401), "the clock is really another");

        // A claim of the one is live for the other, in both directions.
        for (first, first_now, second, second_now, id) in [
            (-1, an_hour_ago, &ahead, in_an_hour, "evt_early_owner"),
            (1, in_an_hour, &behind, an_hour_ago, "evt_late_owner"),
        ] {
            let owner = Arc::new(start(first, "60000", &["--pause-at", "handling"]));
            let sending = Arc::clone(&owner);
            let sent = tokio::spawn(async move { sending.send_at(id, first_now).await });
            owner.until_paused().await;
            assert_eq!(second.send_at(id, second_now).await, Sent::Answered(503), "{kind:?}: it is in flight");
            owner.signal("USR1");
            assert_eq!(sent.await.unwrap(), Sent::Answered(200));
            assert_eq!(second.send_at(id, second_now).await, Sent::Answered(200), "{kind:?}: it is a duplicate");
        }
        // A lease ends for the one when it ends for the other.
        let owner = Arc::new(start(1, "2000", &["--pause-at", "handling"]));
        let sending = Arc::clone(&owner);
        let sent = tokio::spawn(async move { sending.send_at("evt_dead_owner", in_an_hour).await });
        owner.until_paused().await;
        owner.signal("KILL");
        assert_eq!(sent.await.unwrap(), Sent::Lost);
        let freed = || async { behind.send_at("evt_dead_owner", an_hour_ago).await == Sent::Answered(200) };
        let took = crate::support::eventually("the lease ends", freed).await;
        assert!(took < Duration::from_secs(5), "{kind:?}: a lease of 2 s ended after {took:?}");
        let effects = std::fs::read_to_string(&effects).unwrap();
        let mut effects: Vec<&str> = effects.lines().collect();
        effects.sort_unstable();
        assert_eq!(effects, ["evt_dead_owner", "evt_early_owner", "evt_late_owner"], "{kind:?}: each once");
    }
}

/// The clock was a year ahead while an event was being handled, the process was killed, and the clock was set right.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_steps_back_keeps_no_event_away() {
    for kind in Kind::ALL {
        let mut backend = if kind == Kind::Postgres {
            Backend::with_clock(kind, &libfaketime(), "+365d")
        } else {
            Backend::start(kind)
        };
        let effects = backend.dir().join("effects");
        std::fs::write(&effects, "").unwrap();
        let (store, written) = (backend.url(), effects.display().to_string());
        let arguments = ["--store", &store, "--effects", &written, "--lease-ms", "60000"];
        let mut command = Command::new(program("instance"));
        let mut now = SystemTime::now();
        if kind == Kind::Sqlite {
            command.env("LD_PRELOAD", libfaketime()).env("FAKETIME", "+365d");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
            now += Duration::from_secs(365 * 24 * 3600);
        }
        let pausing: Vec<&str> = arguments.iter().copied().chain(["--pause-at", "handling"]).collect();
        let owner = Arc::new(Instance::of_command("instance", &mut command, &pausing));
        let sending = Arc::clone(&owner);
        let sent = tokio::spawn(async move { sending.send_at("evt_1", now).await });
        owner.until_paused().await;
        owner.signal("KILL");
        assert_eq!(sent.await.unwrap(), Sent::Lost);
        backend.set_clock_right();
        if kind == Kind::Redis {
            // Its allocator does not start under libfaketime, so this writes what a server a year ahead would have written.
            let event = "sendarix:claim:{default}:evt_1";
            let value = backend.redis(&["GET", event]).unwrap();
            let (rest, until) = value.rsplit_once(' ').unwrap();
            let until = until.parse::<u64>().unwrap() + 365 * 24 * 3600 * 1000;
            backend.redis(&["SET", event, &format!("{rest} {until}"), "KEEPTTL"]).unwrap();
        }
        let instance = Instance::start("instance", &arguments);
        let took = instance.send_until_acknowledged("evt_1").await;
        assert!(took < Duration::from_secs(30), "{kind:?}: taken over after {took:?}");
        assert_eq!(std::fs::read_to_string(&effects).unwrap(), "evt_1\n", "{kind:?}");
        // And a row that is not claimed again is no exception for the purge.
        if kind != Kind::Redis {
            let far = match kind {
                Kind::Sqlite => "1000 * (unixepoch() + 31536000)",
                _ => "now() + interval '365 days'",
            };
            backend.sql(&format!("UPDATE sendarix_claims SET state = 'live', until = {far}"));
            match kind {
                Kind::Sqlite => SqliteStore::open(backend.file()).unwrap().purge().await.unwrap(),
                _ => PostgresStore::open(&backend.url()).unwrap().purge().await.unwrap(),
            };
            let now = if kind == Kind::Sqlite { "1000 * (unixepoch() + 1)" } else { "now() + interval '1 second'" };
            let over = backend.sql(&format!("SELECT count(*) FROM sendarix_claims WHERE until <= {now}"));
            assert_eq!(over, "1", "{kind:?}");
        }
    }
}
