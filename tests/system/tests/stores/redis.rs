//! What only Redis does: forget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sendarix_webhooks::dead_letter::DeadLetter;

use crate::support::{Backend, Fault, Instance, Kind, Proxy, Sent, eventually};

const EVENTS: usize = 1_000;
/// How many come after the replica has lost touch.
const UNSEEN: usize = 100;

async fn send_all(instance: &Instance, range: std::ops::Range<usize>) {
    for event in range {
        assert_eq!(instance.send(&format!("evt_{event:04}")).await, Sent::Answered(200));
    }
}

/// How often each event was handled, in the order of the events.
async fn times_handled(instance: &Instance) -> Vec<usize> {
    let mut times: HashMap<String, usize> = HashMap::new();
    for id in instance.all_handled().await {
        *times.entry(id).or_default() += 1;
    }
    let mut times: Vec<(String, usize)> = times.into_iter().collect();
    times.sort();
    times.into_iter().map(|(_, times)| times).collect()
}

/// Whatever the old primary had not sent on is forgotten, and handled again when it comes again. Nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_forgets_what_the_replica_had_not_seen() {
    let (mut primary, replica) = (Backend::start(Kind::Redis), Backend::start(Kind::Redis));
    let (proxy, replication) = (Proxy::start(primary.addr()).await, Proxy::start(primary.addr()).await);
    let instance = Instance::shared_store(&primary.url_at(proxy.port));
    replica.redis(&["REPLICAOF", "127.0.0.1", &replication.port.to_string()]).unwrap();
    send_all(&instance, 0..EVENTS - UNSEEN).await;
    let caught_up = || async { offset(&primary, "master_repl_offset") == offset(&replica, "slave_repl_offset") };
    eventually("the replica has caught up", caught_up).await;
    replication.set(Fault::Silence);
    send_all(&instance, EVENTS - UNSEEN..EVENTS).await;
    replica.redis(&["REPLICAOF", "NO", "ONE"]).unwrap();
    proxy.redirect(replica.addr());
    primary.kill();

    send_all(&instance, 0..EVENTS).await;
    let times = times_handled(&instance).await;
    let expected: Vec<usize> = (0..EVENTS).map(|event| if event < EVENTS - UNSEEN { 1 } else { 2 }).collect();
    assert_eq!(times, expected, "none is lost, and what the replica had not seen is handled twice");
}

/// How far the replication has come, by this server's own account.
fn offset(server: &Backend, field: &str) -> Option<u64> {
    let info = server.redis(&["INFO", "replication"]).unwrap();
    info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_forgets_everything_and_loses_nothing() {
    let backend = Backend::start(Kind::Redis);
    let instance = Instance::shared_store(&backend.url());
    send_all(&instance, 0..100).await;
    send_all(&instance, 0..100).await;
    assert_eq!(times_handled(&instance).await, [1; 100]);
    backend.redis(&["FLUSHALL"]).unwrap();
    backend.redis(&["SCRIPT", "FLUSH"]).unwrap();
    send_all(&instance, 0..100).await;
    assert_eq!(times_handled(&instance).await, [2; 100], "all of it is handled again");
}

/// The handler runs, the claim is forgotten, and another copy claims the event: the first owner cannot complete it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_takes_live_claims_with_it() {
    use sendarix_webhooks::store::{Claim, ClaimToken, EventKey};
    use std::time::Duration;

    let backend = Backend::start(Kind::Redis);
    let store = backend.store();
    let (key, first, second) = (EventKey::new("default", "evt_1"), ClaimToken::random(), ClaimToken::random());
    let lease = Duration::from_secs(60);
    assert_eq!(store.claim(&key, first, lease).await.unwrap(), Claim::Granted { attempt: 1 });
    backend.redis(&["FLUSHALL"]).unwrap();
    assert_eq!(store.claim(&key, second, lease).await.unwrap(), Claim::Granted { attempt: 1 });
    assert!(!store.complete(&key, first, lease).await.unwrap());
    assert!(store.complete(&key, second, lease).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_forget_is_warned_of_once() {
    let policy = "this Redis may evict events";
    let file = "this Redis has no append-only file";
    for (settings, warnings) in [
        (["--maxmemory-policy", "allkeys-lru", "--appendonly", "no"], [policy, file].as_slice()),
        (["--maxmemory-policy", "volatile-ttl", "--appendonly", "yes"], &[policy]),
        (["--maxmemory-policy", "noeviction", "--appendonly", "yes"], &[]),
    ] {
        let backend = Backend::with_settings(Kind::Redis, &settings);
        let instance = Instance::shared_store(&backend.url());
        for id in ["evt_1", "evt_2", "evt_3"] {
            assert_eq!(instance.send(id).await, Sent::Answered(200));
            assert_eq!(instance.send_body(b"no event").await, Sent::Answered(200));
        }
        for warning in warnings {
            instance.until_logged(warning).await;
        }
        let logged = instance.stderr();
        let of = |text| logged.iter().filter(|line| line.contains(text)).count();
        let counts = [policy, file].map(of);
        assert_eq!(counts, [policy, file].map(|text| usize::from(warnings.contains(&text))), "{settings:?}");
    }
}

/// The application's own connection breaks, and reconnecting is the application's part.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_asked_for_every_step() {
    use sendarix_webhooks::RedisStore;
    use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey};
    use std::time::Duration;

    let mut backend = Backend::start(Kind::Redis);
    let client = redis::Client::open(backend.url()).unwrap();
    let asked = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&asked);
    let store = RedisStore::with_connections(move || {
        *counted.lock().unwrap() += 1;
        let client = client.clone();
        async move { client.get_multiplexed_async_connection().await }
    });
    let (key, token, lease) = (EventKey::new("default", "evt_1"), ClaimToken::random(), Duration::from_secs(60));
    assert_eq!(store.claim(&key, token, lease).await.unwrap(), Claim::Granted { attempt: 1 });
    backend.kill();
    let error = store.claim(&key, token, lease).await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("refused"), "{error:?}");
    backend.start_again();
    assert_eq!(store.claim(&key, token, lease).await.unwrap(), Claim::Granted { attempt: 1 });
    assert!(*asked.lock().unwrap() >= 3);
}

/// Half of a letter was evicted. The others are still there to be redriven.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_gone_hides_no_other() {
    let backend = Backend::start(Kind::Redis);
    let instance = Instance::shared_store(&backend.url());
    for body in ["a", "b", "c"] {
        assert_eq!(instance.send_body(body.as_bytes()).await, Sent::Answered(200));
    }
    let letters = backend.stores().1;
    let list = async |limit| -> Vec<DeadLetter> {
        letters.list("default", None, limit).await.unwrap().into_iter().map(Result::unwrap).collect()
    };
    let listed = list(10).await;
    assert_eq!(listed.len(), 3);
    backend.redis(&["HDEL", "sendarix:letters:{default}", listed[0].key.event_id()]).unwrap();
    for limit in [1, 10] {
        let rest = list(limit).await;
        assert_eq!(rest, listed[1..][..rest.len()]);
        assert_eq!(rest.len(), limit.min(2));
    }
    assert_eq!(backend.redis(&["ZCARD", "sendarix:letter-ids:{default}"]).unwrap(), "2");
}
