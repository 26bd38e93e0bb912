//! Every row of the outcome table, on every front.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use sendarix_webhooks::dead_letter::DeadLetterReason;
use sendarix_webhooks::testing::{ManualClock, Sample};
use sendarix_webhooks::verify::Clock;
use sendarix_webhooks::{EventKind, EventType, HandlerError, Outcome, RETRY_SCHEDULE, UnknownTypes};

use crate::support::{Endpoint, FaultyStores, Front, Gate, Given, INTERNAL, Post, parity};

parity! {
    processed,
    duplicate,
    in_flight,
    ignored,
    unknown_type,
    unknown_type_that_the_receiver_asks_for,
    malformed,
    expired,
    failed_permanently,
    failed_and_then_processed,
    failed_with_the_handlers_own_status,
    failed_by_running_past_its_limit,
    slow,
    method_not_allowed,
    unauthenticated_and_stale_and_too_large_touch_no_store,
    body_timeout,
    store_unavailable_when_the_claim_fails,
    store_unavailable_when_the_claim_hangs,
    a_claim_whose_reply_was_lost_is_released,
    store_unavailable_when_a_dead_letter_cannot_be_kept,
    a_success_that_cannot_be_recorded_is_acknowledged_and_recorded_later,
    draining,
    a_status_of_ones_own,
}

fn body() -> Vec<u8> {
    Sample::new(EventType::Bounce).body()
}

async fn processed(front: Front) {
    let endpoint = Endpoint::start(front, |builder| builder, |_| async { (202, "mine") }).await;
    let reply = endpoint.post(&body()).await;
    assert_eq!((reply.status, reply.body.as_str()), (202, "mine"));
    assert_eq!(endpoint.handled(), 1);
}

async fn duplicate(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    let body = body();
    assert_eq!(endpoint.post(&body).await.status, 200);
    for _ in 0..3 {
        endpoint.post(&body).await.assert_is(200, "already processed");
    }
    assert_eq!(endpoint.handled(), 1);
}

async fn in_flight(front: Front) {
    let gate = Gate::default();
    let endpoint = Endpoint::start(front, |builder| builder, gate.handler()).await;
    let body = body();
    let mut first = endpoint.begin(&Post::signed(&body)).await;
    gate.reached().await;

    let second = endpoint.post(&body).await;
    second.assert_is(503, "another delivery of this event is being processed");
    second.assert_retry_within(60);

    gate.open();
    assert_eq!(first.reply().await.status, 200);
    endpoint.post(&body).await.assert_is(200, "already processed");
    assert_eq!(endpoint.handled(), 1);
}

async fn ignored(front: Front) {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(
        front,
        |builder| builder.store(configured).events([EventType::Bounce, EventType::Complaint]),
        |_| async {},
    )
    .await;
    let open = Sample::new(EventType::Open).body();
    endpoint.post(&open).await.assert_is(200, "events of this type are not wanted here");
    assert_eq!((endpoint.handled(), stores.calls()), (0, 0));
    assert_eq!(endpoint.post(&body()).await.status, 200);
    assert_eq!(endpoint.handled(), 1);
}

async fn unknown_type(front: Front) {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(front, |builder| builder.dead_letters(configured), |_| async {}).await;
    let body = Sample::of_unknown_type("teleported").event_id("evt_new").body();
    endpoint.post(&body).await.assert_is(200, "acknowledged without processing");
    assert_eq!(endpoint.handled(), 0);
    let letters = stores.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, DeadLetterReason::UnknownType);
    assert_eq!((letters[0].key.endpoint(), letters[0].key.event_id()), ("default", "evt_new"));
    assert_eq!(letters[0].body, body);
    assert!(!letters[0].is_retrying());
}

async fn unknown_type_that_the_receiver_asks_for(front: Front) {
    let handler = |delivery: sendarix_webhooks::Delivery| async move {
        match &delivery.event().kind {
            EventKind::Unknown(unknown) => unknown.event_type.clone(),
            other => format!("{other:?}"),
        }
    };
    let endpoint = Endpoint::start(front, |builder| builder.unknown_types(UnknownTypes::Deliver), handler).await;
    let reply = endpoint.post(&Sample::of_unknown_type("teleported").body()).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "teleported"));
}

async fn malformed(front: Front) {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(front, |builder| builder.dead_letters(configured), |_| async {}).await;
    let body = b"{\"event_type\": \"bounce\",\n  oops";
    endpoint.post(body).await.assert_is(200, "acknowledged without processing");
    endpoint.post(body).await.assert_is(200, "acknowledged without processing");
    assert_eq!(endpoint.handled(), 0);
    let letters = stores.letters();
    assert_eq!(letters.len(), 1, "the same body is the same letter");
    assert_eq!(letters[0].reason, DeadLetterReason::Malformed);
    assert_eq!(letters[0].body.as_ref(), body);
    assert_eq!(letters[0].place.map(|place| (place.line, place.column)), Some((2, 3)));
    assert!(letters[0].error.contains("line 2 column 3"), "{}", letters[0].error);
}

async fn expired(front: Front) {
    let clock = ManualClock::at(SystemTime::now());
    let stores = FaultyStores::default();
    let (configured, set) = (stores.clone(), clock.clone());
    let endpoint = Endpoint::start(
        front,
        |builder| {
            let builder = builder.clock(set).dead_letters(configured).max_event_age(RETRY_SCHEDULE);
            builder.dangerously_ignore_timestamps()
        },
        |_| async {},
    )
    .await;
    let captured = body();
    assert_eq!(endpoint.post(&captured).await.status, 200);
    let forgotten = body();
    clock.advance(RETRY_SCHEDULE + Duration::from_secs(60));
    // What is still remembered is a duplicate, and makes no letter of an event that was handled.
    endpoint.post(&captured).await.assert_is(200, "already processed");
    assert_eq!(stores.letters(), []);
    endpoint.post(&forgotten).await.assert_is(200, "acknowledged without processing");
    assert_eq!(stores.letters()[0].reason, DeadLetterReason::Expired);
    assert_eq!(stores.letters()[0].body, forgotten);
    endpoint.post(&forgotten).await.assert_is(200, "already processed");
    let just_young_enough = Sample::new(EventType::Open).timestamp(clock.now() - RETRY_SCHEDULE);
    assert_eq!(endpoint.post(&just_young_enough.body()).await.status, 200);
    let of_tomorrow = Sample::new(EventType::Open).timestamp(SystemTime::now() + Duration::from_secs(86_400));
    endpoint.post(&of_tomorrow.body()).await.assert_is(200, "acknowledged without processing");
    assert_eq!(endpoint.handled(), 2);
}

async fn failed_permanently(front: Front) {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(
        front,
        |builder| builder.dead_letters(configured),
        |_| async { Err::<(), _>(HandlerError::permanent(INTERNAL)) },
    )
    .await;
    let body = body();
    endpoint.post(&body).await.assert_is(200, "acknowledged without processing");
    assert_eq!(stores.letters()[0].reason, DeadLetterReason::FailedPermanently);
    assert_eq!(stores.letters()[0].error, INTERNAL);
    endpoint.post(&body).await.assert_is(200, "already processed");
    assert_eq!(endpoint.handled(), 1);
}

async fn failed_and_then_processed(front: Front) {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    let handler = move |delivery: sendarix_webhooks::Delivery| {
        let is_broken = Arc::clone(&is_broken);
        async move {
            if is_broken.load(Ordering::SeqCst) {
                std::fs::read(INTERNAL)?;
            }
            Ok::<_, HandlerError>(delivery.attempt().to_string())
        }
    };
    let endpoint = Endpoint::start(front, |builder| builder.dead_letters(configured), handler).await;
    let body = body();
    for attempt in 1..=2 {
        endpoint.post(&body).await.assert_is(503, "not processed; deliver again");
        let letters = stores.letters();
        assert_eq!((letters.len(), letters[0].attempts), (1, attempt));
        assert!(letters[0].is_retrying() && letters[0].error.contains("No such file"), "{:?}", letters[0]);
    }
    broken.store(false, Ordering::SeqCst);
    let reply = endpoint.post(&body).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "3"));
    assert_eq!(stores.letters(), [], "the success resolves the letter");
    endpoint.post(&body).await.assert_is(200, "already processed");
}

async fn failed_with_the_handlers_own_status(front: Front) {
    let handler = |_| async { Given { status: 429, header: Some(("retry-after", "7")), body: "slow down".to_owned() } };
    let endpoint = Endpoint::start(front, |builder| builder.status(Outcome::Failed, 500), handler).await;
    let body = body();
    for _ in 0..2 {
        let reply = endpoint.post(&body).await;
        assert_eq!((reply.status, reply.body.as_str()), (429, "slow down"));
        assert_eq!(reply.header("retry-after"), Some("7"));
    }
    assert_eq!(endpoint.handled(), 2);
}

async fn failed_by_running_past_its_limit(front: Front) {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(
        front,
        |builder| builder.handler_limit(Duration::from_millis(100)).dead_letters(configured),
        |_| std::future::pending::<()>(),
    )
    .await;
    endpoint.post(&body()).await.assert_is(503, "not processed; deliver again");
    assert!(stores.letters()[0].error.contains("limit of 100ms"), "{:?}", stores.letters());
}

async fn slow(front: Front) {
    let gate = Gate::default();
    let deadline = Duration::from_millis(300);
    let endpoint = Endpoint::start(
        front,
        |builder| {
            let builder = builder.acknowledgement_deadline(deadline);
            builder.body_timeout(deadline / 2).store_timeout(deadline / 2)
        },
        gate.handler(),
    )
    .await;
    let body = body();
    let reply = endpoint.post(&body).await;
    reply.assert_is(503, "still processing");
    reply.assert_retry_within(50);
    endpoint.post(&body).await.assert_is(503, "another delivery of this event is being processed");
    gate.open();
    endpoint.post_until_settled(&body).await.assert_is(200, "already processed");
    assert_eq!(endpoint.handled(), 1);
}

async fn method_not_allowed(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "post", "BREW"] {
        let reply = endpoint.send(&Post::signed(&body()).method(method)).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(endpoint.handled(), 0);
}

async fn unauthenticated_and_stale_and_too_large_touch_no_store(front: Front) {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(
        front,
        |builder| builder.store(configured.clone()).dead_letters(configured).body_limit(1000),
        |_| async {},
    )
    .await;
    let post = Post::signed(&body());
    let forged = post.clone().replacing("x-sendarix-signature", "0".repeat(64));
    endpoint.send(&forged).await.assert_is(401, "the signature does not match the body");
    let stale = post.replacing("x-sendarix-timestamp", "1710000000");
    endpoint.send(&stale).await.assert_is(401, "the timestamp is too old");
    endpoint.post(&[b' '; 1001]).await.assert_is(413, "the body is too large");
    assert_eq!((endpoint.handled(), stores.calls()), (0, 0));
}

async fn body_timeout(front: Front) {
    let endpoint =
        Endpoint::start(front, |builder| builder.body_timeout(Duration::from_millis(200)), |_| async {}).await;
    let head = Post { body: Vec::new(), ..Post::signed(&body()) };
    let mut stalled = endpoint.connect().await.begin_open(&head).await;
    stalled.reply().await.assert_is(408, "the body did not arrive in time");
    assert_eq!(endpoint.handled(), 0);
}

async fn store_unavailable_when_the_claim_fails(front: Front) {
    let stores = FaultyStores::default();
    stores.claims_fail(true);
    let configured = stores.clone();
    let endpoint = Endpoint::start(front, |builder| builder.store(configured), |_| async {}).await;
    let body = body();
    let reply = endpoint.post(&body).await;
    reply.assert_is(503, "unavailable; deliver again");
    reply.assert_retry_within(30);
    assert_eq!(endpoint.handled(), 0);
    stores.claims_fail(false);
    assert_eq!(endpoint.post(&body).await.status, 200);
    assert_eq!(endpoint.handled(), 1);
}

async fn store_unavailable_when_the_claim_hangs(front: Front) {
    let stores = FaultyStores::default();
    stores.claims_hang(true);
    let configured = stores.clone();
    let endpoint = Endpoint::start(
        front,
        |builder| builder.store(configured).store_timeout(Duration::from_millis(100)),
        |_| async {},
    )
    .await;
    endpoint.post(&body()).await.assert_is(503, "unavailable; deliver again");
    assert_eq!(endpoint.handled(), 0);
}

async fn a_claim_whose_reply_was_lost_is_released(front: Front) {
    let stores = FaultyStores::default();
    stores.claim_replies_lost(true);
    let configured = stores.clone();
    let endpoint = Endpoint::start(front, |builder| builder.store(configured), |_| async {}).await;
    let body = body();
    endpoint.post(&body).await.assert_is(503, "unavailable; deliver again");
    stores.claim_replies_lost(false);
    assert_eq!(endpoint.post_until_settled(&body).await.body, "");
    assert_eq!(endpoint.handled(), 1);
}

async fn store_unavailable_when_a_dead_letter_cannot_be_kept(front: Front) {
    let stores = FaultyStores::default();
    stores.letters_fail(true);
    let configured = stores.clone();
    let endpoint = Endpoint::start(
        front,
        |builder| builder.dead_letters(configured),
        |_| async { Err::<(), _>(HandlerError::permanent("never")) },
    )
    .await;
    let (permanent, malformed) = (body(), b"{}");
    let unknown = Sample::of_unknown_type("teleported").body();
    for body in [permanent.as_slice(), malformed, &unknown] {
        endpoint.post(body).await.assert_is(503, "unavailable; deliver again");
    }
    assert_eq!(stores.letters(), []);
    stores.letters_fail(false);
    for body in [permanent.as_slice(), malformed, &unknown] {
        endpoint.post(body).await.assert_is(200, "acknowledged without processing");
    }
    assert_eq!(stores.letters().len(), 3);
    assert_eq!(endpoint.handled(), 2, "the claim was given back when the letter could not be kept");
}

async fn a_success_that_cannot_be_recorded_is_acknowledged_and_recorded_later(front: Front) {
    let stores = FaultyStores::default();
    stores.completions_fail(true);
    let configured = stores.clone();
    let endpoint = Endpoint::start(
        front,
        |builder| {
            let builder = builder.acknowledgement_deadline(Duration::from_millis(500)).store(configured);
            builder.body_timeout(Duration::from_millis(100)).store_timeout(Duration::from_millis(100))
        },
        |_| async { "mine" },
    )
    .await;
    let body = body();
    let reply = endpoint.post(&body).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "mine"), "the handler has succeeded: no `slow`");
    endpoint.post(&body).await.assert_is(503, "another delivery of this event is being processed");
    stores.completions_fail(false);
    endpoint.post_until_settled(&body).await.assert_is(200, "already processed");
    assert_eq!(endpoint.handled(), 1);
}

async fn draining(front: Front) {
    let gate = Gate::default();
    let endpoint = Endpoint::start(front, |builder| builder, gate.handler()).await;
    let body = body();
    let mut running = endpoint.begin(&Post::signed(&body)).await;
    gate.reached().await;

    let receiver = endpoint.receiver.clone();
    let drained = tokio::spawn(async move { receiver.drain().await });
    loop {
        // Until the drain has begun, a second delivery of the same event is in flight.
        let reply = endpoint.post(&body).await;
        assert_eq!(reply.status, 503);
        if reply.body == "unavailable; deliver again" {
            break reply.assert_retry_within(30);
        }
    }
    assert!(!drained.is_finished(), "a handler is running");
    gate.open();
    assert_eq!(running.reply().await.status, 200);
    drained.await.unwrap();
}

async fn a_status_of_ones_own(front: Front) {
    let endpoint = Endpoint::start(
        front,
        |builder| {
            let builder = builder.status(Outcome::Unauthenticated, 404).status(Outcome::Duplicate, 204);
            builder.status(Outcome::Malformed, 422).status(Outcome::Failed, 500)
        },
        |_| async {},
    )
    .await;
    let body = body();
    assert_eq!(endpoint.send(&Post::signed(&body).without("x-sendarix-signature")).await.status, 404);
    assert_eq!(endpoint.post(b"{}").await.status, 422);
    assert_eq!(endpoint.post(&body).await.status, 200);
    assert_eq!(endpoint.post(&body).await.status, 204);
}
