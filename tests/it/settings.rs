//! What the builder refuses, and what it says.

use std::time::Duration;

use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{ConfigError, EventType, Inbox, MAX_LEASE, Outcome, RETRY_SCHEDULE, Receiver, ReceiverBuilder};

use crate::support::{Endpoint, Front, secret};

fn refused(configure: impl FnOnce(ReceiverBuilder) -> ReceiverBuilder) -> String {
    configure(Receiver::builder(secret()).dangerously_without_dead_letters()).build().unwrap_err().to_string()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn settings_that_contradict_each_other_are_refused_by_name() {
    let longer = "it must be shorter than";
    let of_lease = "the lease less three store timeouts";
    assert_eq!(refused(|b| b.handler_limit(SECOND * 54)), format!("handler_limit is 54s; {longer} {of_lease}, 54s"));
    assert_eq!(refused(|b| b.lease(SECOND * 50)), format!("handler_limit is 50s; {longer} {of_lease}, 44s"));
    assert_eq!(
        refused(|b| b.acknowledgement_deadline(SECOND * 10)),
        format!("acknowledgement_deadline is 10s; {longer} what Sendarix waits, 10s")
    );
    assert_eq!(
        refused(|b| b.body_timeout(SECOND * 9)),
        format!("body_timeout is 9s; {longer} acknowledgement_deadline, 9s")
    );
    assert!(refused(|b| b.store_timeout(SECOND * 9)).starts_with("store_timeout is 9s"));
    let beyond = |b: ReceiverBuilder| b.acknowledgement_deadline(Duration::MAX).store_timeout(Duration::MAX / 2);
    assert!(refused(beyond).contains("handler_limit"));
    assert!(refused(|b| b.lease(Duration::MAX)).starts_with("lease is"));
    let long = |lease| move |b: ReceiverBuilder| b.lease(lease).handler_limit(SECOND);
    assert!(refused(long(MAX_LEASE + SECOND)).contains("it must be at most 330s (5 min 30 s)"));
    long(MAX_LEASE)(Receiver::builder(secret()).dangerously_without_dead_letters()).build().unwrap();
    assert!(refused(|b| b.retention(RETRY_SCHEDULE - SECOND)).contains("at least 27330s (7 h 35 min 30 s)"));
    assert!(refused(|b| b.max_event_age(RETRY_SCHEDULE - SECOND)).contains("max_event_age is 27329s"));
    assert!(refused(|b| b.max_event_age(SECOND * 86_101)).contains("at most the retention, 86400s, less 5 min"));
    assert!(refused(|b| b.lease(Duration::ZERO)).starts_with("lease is zero"));
    assert!(refused(|b| b.acknowledgement_deadline(Duration::ZERO)).starts_with("acknowledgement_deadline is zero"));
    assert!(refused(|b| b.body_limit(0)).starts_with("body_limit is zero"));
    assert!(refused(|b| b.events([])).starts_with("events is empty"));
    for name in ["", "a b", "a:b", "é", "a/b", &"x".repeat(65)] {
        assert!(refused(|b| b.endpoint(name)).starts_with("endpoint is"), "{name}");
    }
}

#[test]
fn a_status_that_would_lose_events_is_refused() {
    for &outcome in Outcome::ALL {
        let with =
            |status| Receiver::builder(secret()).dangerously_without_dead_letters().status(outcome, status).build();
        for nonsense in [0, 99, 100, 199, 600, 999, u16::MAX] {
            assert!(matches!(with(nonsense), Err(ConfigError::Status { .. })), "{outcome} {nonsense}");
        }
        for success in [200, 202, 204, 299] {
            let allowed = outcome.is_acknowledged() && outcome != Outcome::Processed;
            assert_eq!(with(success).is_ok(), allowed, "{outcome} {success}");
        }
        assert_eq!(with(500).is_ok(), outcome != Outcome::Processed, "{outcome}");
    }
}

#[test]
fn the_defaults_are_accepted() {
    Receiver::builder(secret()).dangerously_without_dead_letters().max_event_age(RETRY_SCHEDULE).build().unwrap();
    Receiver::builder(secret()).dangerously_without_dead_letters().max_event_age(SECOND * 86_100).build().unwrap();
    assert_eq!(RETRY_SCHEDULE, SECOND * (7 * 3600 + 35 * 60 + 30));
}

#[tokio::test]
async fn endpoints_of_different_names_share_nothing_in_one_store() {
    let store: std::sync::Arc<dyn sendarix_webhooks::store::DedupStore> =
        std::sync::Arc::new(sendarix_webhooks::store::MemoryStore::new());
    let body = Sample::new(EventType::Open).body();
    for name in ["staging", "production"] {
        let shared = std::sync::Arc::clone(&store);
        let endpoint = Endpoint::start(Front::ANY, |builder| builder.endpoint(name).store(shared), |_| async {}).await;
        assert_eq!(endpoint.post(&body).await.body, "");
        endpoint.post(&body).await.assert_is(200, "already processed");
        assert_eq!(endpoint.handled(), 1);
    }
}

/// Dead letters are a choice that is made, and not one that is forgotten.
#[test]
fn a_receiver_without_dead_letters_does_not_build() {
    let error = Receiver::builder(secret()).build().unwrap_err();
    assert!(matches!(error, ConfigError::NoDeadLetters), "{error}");
    for way_out in ["FileDeadLetters::open", "PostgresStore", "dangerously_without_dead_letters()"] {
        assert!(error.to_string().contains(way_out), "{error}");
    }
    assert!(matches!(Inbox::builder("jobs").build().unwrap_err(), ConfigError::NoDeadLetters));
}

/// An inbox alone has no sender whose patience limits the store.
#[test]
fn an_inbox_alone_is_not_held_to_an_acknowledgement_deadline() {
    let inbox = || Inbox::builder("jobs").dangerously_without_dead_letters().handler_limit(SECOND);
    inbox().store_timeout(SECOND * 15).build().unwrap();
    assert!(inbox().store_timeout(SECOND * 20).build().unwrap_err().to_string().starts_with("handler_limit is 1s"));
}
