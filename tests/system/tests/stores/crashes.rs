//! Processes that are killed or stopped at every point of a delivery.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::{Backend, Fault, Instance, Kind, PATIENCE, Proxy, Sent};

/// The store may take a fifth of it, on a machine that is busy with all these processes.
const LEASE: Duration = Duration::from_secs(10);

/// Where a delivery can be cut off, and how often the effect is there in the end.
const POINTS: [(&str, usize); 6] =
    [("claiming", 1), ("claimed", 1), ("handling", 1), ("handled", 2), ("completing", 2), ("completed", 1)];

fn instance(backend: &Backend, pause_at: Option<&str>) -> Instance {
    let (store, effects) = (backend.url(), backend.dir().join("effects").display().to_string());
    let lease = LEASE.as_millis().to_string();
    let mut arguments = vec!["--store", &store, "--effects", &effects, "--lease-ms", &lease];
    arguments.extend(pause_at.into_iter().flat_map(|point| ["--pause-at", point]));
    Instance::start("instance", &arguments)
}

fn effects(backend: &Backend, id: &str) -> usize {
    let effects = std::fs::read_to_string(backend.dir().join("effects")).unwrap();
    effects.lines().filter(|line| *line == id).count()
}

/// Sends an event to an instance, as often as that asks for it, until it has come to where it pauses.
async fn pause(instance: &Arc<Instance>, id: &'static str) -> tokio::task::JoinHandle<Sent> {
    let sending = Arc::clone(instance);
    let sent = tokio::spawn(async move {
        loop {
            match sending.send(id).await {
                Sent::Answered(503) => tokio::time::sleep(Duration::from_millis(100)).await,
                sent => return sent,
            }
        }
    });
    instance.until_paused().await;
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_nothing_is_lost_or_stuck() {
    let mut kills = JoinSet::new();
    for kind in Kind::ALL {
        let backend = Arc::new(Backend::start(kind));
        std::fs::write(backend.dir().join("effects"), "").unwrap();
        for (point, expected) in POINTS {
            let backend = Arc::clone(&backend);
            kills.spawn(async move {
                let killed = Arc::new(instance(&backend, Some(point)));
                let sent = pause(&killed, point).await;
                killed.signal("KILL");
                assert_eq!(sent.await.unwrap(), Sent::Lost);
                let took = instance(&backend, None).send_until_acknowledged(point).await;
                assert!(took < LEASE * 2, "{kind:?}, killed when {point}: stuck for {took:?}");
                assert_eq!(effects(&backend, point), expected, "{kind:?}, killed when {point}");
                assert!(backend.stores().1.list("default", None, 10).await.unwrap().is_empty(), "{kind:?}: no letter");
            });
        }
    }
    kills.join_all().await;
}

/// The first owner is stopped for longer than its lease, and goes on when the second has handled the event.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_owner_changes_nothing() {
    let mut stops = JoinSet::new();
    for kind in Kind::ALL {
        for point in ["handled", "completing"] {
            stops.spawn(async move {
                let backend = Backend::start(kind);
                std::fs::write(backend.dir().join("effects"), "").unwrap();
                let late = Arc::new(instance(&backend, Some(point)));
                let sent = pause(&late, "evt_late").await;
                late.signal("STOP");
                let next = instance(&backend, None);
                next.send_until_acknowledged("evt_late").await;
                assert_eq!(effects(&backend, "evt_late"), 2, "{kind:?}: the effect of both");
                late.signal("USR1");
                late.signal("CONT");
                late.until_logged("another delivery took the event over").await;
                drop(sent);
                // Its failure is not the event's.
                let letters = backend.stores().1;
                let none = || async { letters.list("default", None, 10).await.unwrap().is_empty() };
                crate::support::eventually("the letter of the late owner is resolved", none).await;
                assert_eq!(next.send("evt_late").await, Sent::Answered(200));
                assert_eq!(late.send("evt_late").await, Sent::Answered(200));
                assert_eq!(effects(&backend, "evt_late"), 2, "{kind:?}: it is a duplicate for both");
            });
        }
    }
    stops.join_all().await;
}

fn transactional(store: &str, pause_at: Option<&str>) -> Instance {
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--store", store, "--lease", "5"];
    arguments.extend(pause_at.into_iter().flat_map(|step| ["--pause-at", step]));
    Instance::start("transactional", &arguments)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_completes_the_claim_is_made_once_wherever_it_is_killed() {
    let mut kills = JoinSet::new();
    for kind in [Kind::Sqlite, Kind::Postgres] {
        for step in ["started", "credited", "committed"] {
            kills.spawn(async move {
                let backend = Backend::start(kind);
                let killed = Arc::new(transactional(&backend.url(), Some(step)));
                let sent = pause(&killed, step).await;
                killed.signal("KILL");
                assert_eq!(sent.await.unwrap(), Sent::Lost);
                credited_once(&backend, step, step).await;
            });
        }
    }
    // What happens on the way to the server and back.
    for fault in [Fault::HeldBefore("COMMIT"), Fault::HeldAfter("COMMIT"), Fault::HeldAfter("SET state = 'completed'")]
    {
        kills.spawn(async move {
            let backend = Backend::start(Kind::Postgres);
            let proxy = Proxy::start(backend.addr()).await;
            let killed = Arc::new(transactional(&backend.url_at(proxy.port), None));
            // Its first event, so that the statements are sent with their texts.
            let what = format!("{fault:?}");
            proxy.set(fault);
            let sending = Arc::clone(&killed);
            let sent = tokio::spawn(async move { sending.send("evt_held").await });
            crate::support::eventually("it is held", || async { proxy.held() > 0 }).await;
            killed.signal("KILL");
            assert_eq!(sent.await.unwrap(), Sent::Lost);
            // The proxy lets go of both sides.
            drop(proxy);
            credited_once(&backend, "evt_held", &what).await;
        });
    }
    kills.join_all().await;
}

/// The process stops before its commit, with the event's row locked, and is not killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stops_before_its_commit_holds_others_up_for_seconds_at_most() {
    let backend = Backend::start(Kind::Postgres);
    let proxy = Proxy::start(backend.addr()).await;
    let stopped = Arc::new(transactional(&backend.url_at(proxy.port), None));
    proxy.set(Fault::HeldBefore("COMMIT"));
    let sending = Arc::clone(&stopped);
    let sent = tokio::spawn(async move { sending.send("evt_stopped").await });
    crate::support::eventually("it is held", || async { proxy.held() > 0 }).await;
    stopped.signal("STOP");
    credited_once(&backend, "evt_stopped", "the stop").await;
    // The rest arrives, and has come too late.
    drop(proxy);
    stopped.signal("CONT");
    assert_ne!(sent.await.unwrap(), Sent::Answered(200));
    assert_eq!(backend.sql("SELECT balance FROM balances WHERE address = 'evt_stopped'"), "1");
}

async fn credited_once(backend: &Backend, id: &str, what: &str) {
    let kind = backend.kind;
    let next = transactional(&backend.url(), None);
    let took = next.send_until_acknowledged(id).await;
    // The lease, or else what the server allows a transaction, and some time to notice.
    assert!(took < Duration::from_secs(15), "{kind:?}, killed at {what}: stuck for {took:?} with a lease of 5 s");
    let balance = backend.sql(&format!("SELECT balance FROM balances WHERE address = '{id}'"));
    assert_eq!(balance, "1", "{kind:?}, killed at {what}");
}

/// The reply to the commit is lost: the handler fails, and the event has been handled all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_reply_is_lost_is_found_out() {
    let backend = Backend::start(Kind::Postgres);
    let proxy = Proxy::start(backend.addr()).await;
    let instance = transactional(&backend.url_at(proxy.port), None);
    assert_eq!(instance.send("evt_before").await, Sent::Answered(200));
    proxy.set(Fault::ReplyLostTo("COMMIT"));
    assert_eq!(instance.send("evt_lost").await, Sent::Answered(503), "the handler has failed");
    proxy.set(Fault::None);
    assert_eq!(instance.send("evt_lost").await, Sent::Answered(200));
    assert_eq!(backend.sql("SELECT balance FROM balances WHERE address = 'evt_lost'"), "1");
    let start = Instant::now();
    let letters = backend.stores().1;
    while !letters.list("default", None, 10).await.unwrap().is_empty() {
        assert!(start.elapsed() < PATIENCE, "the letter of an event that was handled stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
