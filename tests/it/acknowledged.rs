//! An event is acknowledged once it has been handled or is kept, and not because a service answered 2xx.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use actix_web::web;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use axum::routing::post;
use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters};
use sendarix_webhooks::destination::FanOut;
use sendarix_webhooks::inbox::RedriveErrorKind;
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore};
use sendarix_webhooks::testing::{ManualClock, Sample, signed_headers, signed_request};
use sendarix_webhooks::{
    Delivery, EventType, HandlerError, Head, Outcome, Receiver, ReceiverBuilder, SendarixEvent, SendarixLayer,
    SendarixMiddleware, UnknownTypes,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    ActixServer, Connection, Endpoint, FaultyStores, Front, PATH, Post, eventually, parity, redrive_all, secret, serve,
};

parity! {
    every_delivery_can_run_in_a_task_from_the_start,
}

fn event(id: &str) -> Vec<u8> {
    Sample::new(EventType::Bounce).event_id(id).body()
}

fn receiver(stores: &FaultyStores) -> Receiver {
    Receiver::builder(secret()).store(stores.clone()).dead_letters(stores.clone()).build().unwrap()
}

async fn deliver<F>(receiver: &Receiver, body: &[u8], handler: impl FnOnce(Delivery) -> F + Send + 'static) -> Outcome
where
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let headers = signed_headers(&secret(), body, std::time::SystemTime::now());
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    let verified = receiver.admit(&Head::new("POST", headers)).unwrap().verify(body.to_vec()).unwrap();
    verified.deliver(handler).await.outcome()
}

/// Posts to another path than that of the handler.
async fn post_to(addr: std::net::SocketAddr, path: &str, body: &[u8]) -> (u16, String) {
    let bytes = Post::signed(body).bytes();
    let text = String::from_utf8(bytes).unwrap().replacen(PATH, path, 1);
    let reply = Connection::open(addr).await.exchange(text.as_bytes()).await;
    (reply.status, reply.body)
}

/// A trailing slash, and a page for whatever has no route: the handler never runs.
#[tokio::test]
async fn a_page_that_answers_200_for_everything_acknowledges_nothing() {
    let (stores, handled) = (FaultyStores::default(), Arc::new(AtomicUsize::new(0)));
    let receiver = receiver(&stores);
    let on_event = {
        let handled = Arc::clone(&handled);
        move |_: SendarixEvent| async move {
            handled.fetch_add(1, Ordering::SeqCst);
        }
    };
    let app = Router::new().route(PATH, post(on_event)).fallback(|| async { "the index page" });
    let axum = serve(app.layer(SendarixLayer::new(receiver.clone()))).await;

    let count = Arc::clone(&handled);
    let actix = ActixServer::start(1, move |config| {
        let count = Arc::clone(&count);
        let on_event = move |_: SendarixEvent| {
            count.fetch_add(1, Ordering::SeqCst);
            async { "handled" }
        };
        let scope = web::scope("").wrap(SendarixMiddleware::new(receiver.clone()));
        let page = web::to(|| async { "the index page" });
        config.service(scope.route(PATH, web::post().to(on_event)).default_service(page));
    });
    for (number, addr) in [axum, actix.addr].into_iter().enumerate() {
        let body = event(&format!("evt_{number}"));
        for path in ["/webhooks/sendarix/", "/elsewhere"] {
            assert_eq!(post_to(addr, path, &body).await, (500, "misconfigured".to_owned()), "{path}");
        }
        let letter = stores.letters().remove(0);
        assert!(letter.is_retrying() && letter.error.contains("no handler took the event"), "{}", letter.error);
        assert_eq!(letter.attempts, 2);
        assert_eq!(post_to(addr, PATH, &body).await.0, 200);
        assert_eq!((handled.load(Ordering::SeqCst), stores.letters()), (number + 1, Vec::new()));
    }
}

/// It reads the body by itself, and says that it takes the event.
#[tokio::test]
async fn a_handler_that_reads_the_body_itself_takes_the_event_by_its_delivery() {
    let layer = SendarixLayer::new(receiver(&FaultyStores::default()));
    let app = Router::new()
        .route(PATH, post(|_: Delivery, body: Bytes| async move { body.len().to_string() }))
        .route("/untaken", post(|body: Bytes| async move { body.len().to_string() }))
        .layer(layer);
    let addr = serve(app).await;
    let body = event("evt_1");
    assert_eq!(post_to(addr, "/untaken", &body).await, (500, "misconfigured".to_owned()));
    assert_eq!(post_to(addr, PATH, &body).await, (200, body.len().to_string()));
}

#[tokio::test]
async fn a_tower_service_takes_the_event_or_is_told() {
    let stores = FaultyStores::default();
    let layer = SendarixLayer::new(receiver(&stores));
    let service = layer.layer(service_fn(|request: Request| async move {
        let delivery = request.extensions().get::<Delivery>().unwrap();
        // To look at it, as a layer that logs may do, is not to take it.
        if delivery.event().event_id == "evt_taken" {
            delivery.take();
        }
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    for (id, status, outcome) in [("evt_taken", 200, Outcome::Processed), ("evt_looked_at", 500, Outcome::NotTaken)] {
        let response = service.clone().oneshot(signed_request::<Body>(&secret(), PATH, event(id))).await.unwrap();
        assert_eq!((response.status().as_u16(), response.extensions().get()), (status, Some(&outcome)));
    }
    assert_eq!(stores.letters().len(), 1);
}

/// A part of a fan-out fails, and its letter cannot be kept: then nothing says that the whole is kept either.
#[tokio::test]
async fn a_failed_part_whose_letter_cannot_be_kept_is_not_taken_for_kept() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    let builder = FanOut::builder(receiver.inbox());
    let failing = |stores: FaultyStores| {
        move |_: Delivery| {
            let stores = stores.clone();
            async move {
                // Just for the part: the letters are back for the whole.
                stores.letters_fail(true);
                let back = stores.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    back.letters_fail(false);
                });
                Err(HandlerError::retry("it fails"))
            }
        }
    };
    let slow = |_: Delivery| async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        Ok(())
    };
    let fan_out = builder.to("failing", failing(stores.clone())).to("slow", slow).build().unwrap();
    let handler = fan_out.handler();
    let outcome = deliver(&receiver, &event("evt_1"), handler).await;
    assert_eq!(outcome, Outcome::Failed);
    let letters = stores.letters();
    assert_eq!(letters.len(), 1, "the whole is kept instead: {letters:?}");
    assert_eq!(letters[0].key, EventKey::new("default", "evt_1"));
}

#[tokio::test]
async fn an_unknown_type_that_no_destination_wants_is_kept() {
    let stores = FaultyStores::default();
    let builder = Receiver::builder(secret()).store(stores.clone()).dead_letters(stores.clone());
    let receiver = builder.unknown_types(UnknownTypes::Deliver).build().unwrap();
    let never = |_: Delivery| async { panic!("it is for bounces") as Result<(), HandlerError> };
    let fan_out = FanOut::builder(receiver.inbox()).to_types("bounces", [EventType::Bounce], never).build().unwrap();
    let deliver_it = async |body: Vec<u8>| deliver(&receiver, &body, fan_out.handler()).await;
    let unknown = Sample::of_unknown_type("teleported").event_id("evt_1").body();
    assert_eq!(deliver_it(unknown.clone()).await, Outcome::UnknownType);
    assert_eq!(stores.letters()[0].reason, DeadLetterReason::UnknownType);
    assert_eq!(deliver_it(unknown).await, Outcome::Duplicate);
    // A documented type that no destination wants is another matter.
    assert_eq!(deliver_it(Sample::new(EventType::Open).body()).await, Outcome::Processed);
    assert_eq!(stores.letters().len(), 1);
}

/// An old version and a new one run side by side, as in a rolling deploy.
#[tokio::test]
async fn letters_of_unknown_types_are_written_under_the_claim() {
    let unknown = |id: &str| Sample::of_unknown_type("teleported").event_id(id).body();
    let (stores, handled) = (FaultyStores::default(), Arc::new(AtomicUsize::new(0)));
    let old = receiver(&stores);
    let builder = Receiver::builder(secret()).store(stores.clone()).dead_letters(stores.clone());
    let new = builder.unknown_types(UnknownTypes::Deliver).build().unwrap();
    let by_new = async |id: &str| {
        let handled = Arc::clone(&handled);
        let handler = move |_: Delivery| async move {
            handled.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        deliver(&new, &unknown(id), handler).await
    };
    let by_old = async |id: &str| deliver(&old, &unknown(id), |_| async { Ok(()) }).await;

    assert_eq!(by_new("evt_1").await, Outcome::Processed);
    assert_eq!(by_old("evt_1").await, Outcome::Duplicate, "and no letter of an event that was handled");
    assert_eq!(stores.letters(), []);

    assert_eq!(by_old("evt_2").await, Outcome::UnknownType);
    assert_eq!(by_old("evt_2").await, Outcome::Duplicate);
    assert_eq!(by_new("evt_2").await, Outcome::Duplicate, "not a second time without knowing of the letter");
    assert_eq!((handled.load(Ordering::SeqCst), stores.letters().len()), (1, 1));
    // The operator redrives it with the new version.
    let count = Arc::clone(&handled);
    let redriven = new.inbox().redrive_all(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    });
    assert_eq!(redrive_all(redriven).await.len(), 1);
    assert_eq!((handled.load(Ordering::SeqCst), stores.letters()), (2, Vec::new()));
}

fn letter(id: &str, last_at: sendarix_webhooks::Timestamp) -> DeadLetter {
    let body = event(id);
    DeadLetter::new(EventKey::new("default", id), body, DeadLetterReason::Failed, last_at)
}

/// The event was handled, and the process died before the letter was resolved.
#[tokio::test]
async fn a_letter_that_was_left_behind_is_resolved_by_the_next_copy() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    assert_eq!(deliver(&receiver, &event("evt_1"), |_| async { Ok(()) }).await, Outcome::Processed);
    let letter = letter("evt_1", std::time::SystemTime::now().into());
    for reason in [DeadLetterReason::Failed, DeadLetterReason::FailedPermanently] {
        let mut letter = letter.clone();
        letter.reason = reason;
        stores.record(&letter).await.unwrap();
        assert_eq!(deliver(&receiver, &event("evt_1"), |_| async { Ok(()) }).await, Outcome::Duplicate);
        assert_eq!(stores.letters(), []);
    }
}

/// The handler says that the event can never be handled, and another delivery has handled it meanwhile.
#[tokio::test]
async fn a_refused_give_up_resolves_the_letter_of_an_event_that_was_handled() {
    let stores = FaultyStores::default();
    let builder = Receiver::builder(secret()).store(stores.clone()).dead_letters(stores.clone());
    let lease = Duration::from_millis(100);
    let builder = builder.lease(lease).handler_limit(lease / 2).store_timeout(lease / 10);
    let receiver = builder.build().unwrap();
    let store = stores.clone();
    let body = event("evt_1");
    let outcome = deliver(&receiver, &body, move |delivery: Delivery| async move {
        let key = delivery.claim().key().clone();
        std::thread::sleep(lease);
        let token = ClaimToken::random();
        assert_eq!(store.claim(&key, token, lease).await.unwrap(), Claim::Granted { attempt: 2 });
        assert!(store.complete(&key, token, Duration::from_secs(60)).await.unwrap());
        Err(HandlerError::permanent("never"))
    });
    assert_eq!(outcome.await, Outcome::FailedPermanently);
    assert_eq!(stores.letters(), []);
}

/// The memory that would stop a second effect may be gone.
#[tokio::test]
async fn a_letter_beyond_the_retention_is_redriven_only_by_name() {
    let stores = FaultyStores::default();
    let clock = ManualClock::at(std::time::SystemTime::now());
    let builder = Receiver::builder(secret()).store(stores.clone()).dead_letters(stores.clone());
    let receiver = builder.clock(clock.clone()).build().unwrap();
    let day = Duration::from_secs(24 * 3600);
    stores.record(&letter("evt_old", std::time::SystemTime::now().into())).await.unwrap();
    clock.advance(day + Duration::from_secs(1));
    stores.record(&letter("evt_young", (std::time::SystemTime::now() + day).into())).await.unwrap();

    let error = receiver.inbox().redrive(letter("evt_old", std::time::SystemTime::now().into())).unwrap_err();
    assert_eq!(error.kind(), RedriveErrorKind::BeyondRetention);
    assert!(error.to_string().contains("redrive_beyond_retention"), "{error}");
    let mut redrives = receiver.inbox().redrive_all(|_| async { Ok(()) }).unwrap();
    let old = redrives.next().await.unwrap().unwrap();
    assert_eq!(old.result.unwrap_err().kind(), RedriveErrorKind::BeyondRetention);
    let young = redrives.next().await.unwrap().unwrap();
    assert_eq!((young.key.event_id(), young.result.unwrap()), ("evt_young", Outcome::Processed));
    assert!(redrives.next().await.unwrap().is_none());

    let old = stores.letters().remove(0);
    let outcome = receiver.inbox().redrive_beyond_retention(old).unwrap().deliver(|_| async { Ok(()) }).await.outcome();
    assert_eq!((outcome, stores.letters()), (Outcome::Processed, Vec::new()));
}

/// What was redriven before is with the caller, whatever stops the rest.
#[tokio::test]
async fn a_redrive_that_is_stopped_returns_what_it_has_done() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    for id in ["evt_1", "evt_2", "evt_3"] {
        stores.record(&letter(id, std::time::SystemTime::now().into())).await.unwrap();
    }
    let mut redrives = receiver.inbox().redrive_all(|_| async { Ok(()) }).unwrap();
    assert_eq!(redrives.next().await.unwrap().unwrap().key.event_id(), "evt_1");
    receiver.drain().await;
    assert_eq!(redrives.next().await.unwrap_err().kind(), RedriveErrorKind::Draining);
    assert!(redrives.next().await.unwrap().is_none());
    assert_eq!(stores.letters().len(), 2);
}

#[tokio::test]
async fn a_malformed_event_that_comes_again_counts_its_attempts() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    for attempts in 1..=3 {
        assert_eq!(deliver(&receiver, b"no event", |_| async { Ok(()) }).await, Outcome::Malformed);
        assert_eq!(stores.letters()[0].attempts, attempts);
    }
}

tokio::task_local! {
    static TRACE: u32;
}

/// Whatever a middleware outside sets is gone in a task, from the first delivery on; what one inside sets is there.
#[tokio::test]
async fn with_the_switch_task_locals_of_outer_middleware_are_never_there() {
    let seen = |in_tasks: bool, inside: bool| async move {
        let builder = Receiver::builder(secret()).dangerously_without_dead_letters().deliver_in_tasks(in_tasks);
        let layer = SendarixLayer::new(builder.build().unwrap());
        let handler = service_fn(|request: Request| async move {
            request.extensions().get::<Delivery>().unwrap().take();
            let text = TRACE.try_with(|trace| trace.to_string()).unwrap_or_default();
            Ok::<_, Infallible>(Response::new(Body::from(text)))
        });
        let request = signed_request::<Body>(&secret(), PATH, event("evt_1"));
        let response = if inside {
            let traced = service_fn(move |request: Request| TRACE.scope(7, handler.oneshot(request)));
            layer.layer(traced).oneshot(request).await
        } else {
            TRACE.scope(7, layer.layer(handler).oneshot(request)).await
        };
        let bytes = axum::body::to_bytes(response.unwrap().into_body(), 100).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    assert_eq!(seen(false, false).await, "7");
    assert_eq!(seen(true, false).await, "");
    assert_eq!(seen(false, true).await, "7");
    assert_eq!(seen(true, true).await, "7");
}

async fn every_delivery_can_run_in_a_task_from_the_start(front: Front) {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(
        front,
        |builder: ReceiverBuilder| builder.deliver_in_tasks(true).dead_letters(configured),
        |delivery: Delivery| async move {
            match &*delivery.event().event_id {
                "evt_fails" => Err(HandlerError::retry("not now")),
                "evt_never" => Err(HandlerError::permanent("never")),
                "evt_panics" => panic!("here"),
                id => Ok(id.to_owned()),
            }
        },
    )
    .await;
    let reply = endpoint.post(&event("evt_1")).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "evt_1"));
    for (id, status) in [("evt_1", 200), ("evt_fails", 503), ("evt_never", 200), ("evt_panics", 500)] {
        assert_eq!(endpoint.post(&event(id)).await.status, status, "{id}");
    }
    assert_eq!((endpoint.handled(), stores.letters().len()), (4, 3));
}

/// The store refuses at once to take the claim back, and is mended long before the lease is over.
#[tokio::test]
async fn a_release_that_fails_at_once_is_tried_again() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    stores.releases_fail(true);
    assert_eq!(deliver(&receiver, &event("evt_1"), |_| async { Err("not now".into()) }).await, Outcome::Failed);
    assert_eq!(deliver(&receiver, &event("evt_1"), |_| async { Ok(()) }).await, Outcome::InFlight);
    stores.releases_fail(false);
    let start = Instant::now();
    while deliver(&receiver, &event("evt_1"), |_| async { Ok(()) }).await != Outcome::Processed {
        assert!(start.elapsed() < Duration::from_secs(30), "still in flight, half of the lease later");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("the letter is resolved", || stores.letters().is_empty()).await;
}

/// It goes on until some time after the lease's end, and then says that it has given up.
#[tokio::test(start_paused = true)]
async fn a_release_that_goes_on_failing_ends() {
    let stores = FaultyStores::default();
    let receiver = receiver(&stores);
    stores.releases_fail(true);
    assert_eq!(deliver(&receiver, &event("evt_1"), |_| async { Err("not now".into()) }).await, Outcome::Failed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let calls = stores.calls();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!((1..=12).contains(&(stores.calls() - calls)), "tried {} times in 30 s", stores.calls() - calls);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let calls = stores.calls();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(stores.calls(), calls, "it has given up");
}

/// As every future of `std` and tower-http, they say whose mistake it is.
#[tokio::test]
async fn futures_that_are_polled_after_their_end_panic() {
    let service = SendarixLayer::new(receiver(&FaultyStores::default()))
        .layer(service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::empty())) }));
    let mut refused = signed_request::<Body>(&secret(), PATH, event("evt_1"));
    refused.headers_mut().clear();
    let mut response = Box::pin(service.oneshot(refused));
    std::future::poll_fn(|cx| response.as_mut().poll(cx).map(drop)).await;

    let (receiver, body) = (receiver(&FaultyStores::default()), event("evt_1"));
    let headers = signed_headers(&secret(), &body, std::time::SystemTime::now());
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    let verified = receiver.admit(&Head::new("POST", headers)).unwrap().verify(body).unwrap();
    let mut delivering = Box::pin(verified.deliver(|_| async { Ok(()) }));
    std::future::poll_fn(|cx| delivering.as_mut().poll(cx).map(drop)).await;
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        delivering.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).map(drop)
    }));
    let message = again.map(|poll: Poll<()>| format!("{poll:?}")).unwrap_err();
    assert_eq!(message.downcast_ref::<&str>(), Some(&"`Delivering` was polled after it was ready"));
}

/// The suite that stores must pass finds one that forgets too early.
#[tokio::test]
async fn a_store_that_forgets_after_some_seconds_fails_the_conformance_suite() {
    #[derive(Debug, Default)]
    struct Forgetful {
        memory: MemoryStore,
        forgets_given_up: bool,
    }
    impl DedupStore for Forgetful {
        fn claim<'a>(
            &'a self,
            key: &'a EventKey,
            token: ClaimToken,
            lease: Duration,
        ) -> sendarix_webhooks::store::StoreFuture<'a, Claim> {
            self.memory.claim(key, token, lease)
        }
        fn complete<'a>(
            &'a self,
            key: &'a EventKey,
            token: ClaimToken,
            retention: Duration,
        ) -> sendarix_webhooks::store::StoreFuture<'a, bool> {
            let kept = if self.forgets_given_up { retention } else { retention.min(Duration::from_secs(8)) };
            self.memory.complete(key, token, kept)
        }
        fn release<'a>(
            &'a self,
            key: &'a EventKey,
            token: ClaimToken,
        ) -> sendarix_webhooks::store::StoreFuture<'a, bool> {
            self.memory.release(key, token)
        }
        fn give_up<'a>(
            &'a self,
            key: &'a EventKey,
            token: ClaimToken,
            retention: Duration,
        ) -> sendarix_webhooks::store::StoreFuture<'a, bool> {
            let kept = if self.forgets_given_up { retention.min(Duration::from_secs(8)) } else { retention };
            self.memory.give_up(key, token, kept)
        }
        fn reopen<'a>(&'a self, key: &'a EventKey) -> sendarix_webhooks::store::StoreFuture<'a, ()> {
            self.memory.reopen(key)
        }
        fn is_completed<'a>(&'a self, key: &'a EventKey) -> sendarix_webhooks::store::StoreFuture<'a, bool> {
            self.memory.is_completed(key)
        }
    }
    let suite = |forgets_given_up| {
        let store = Forgetful { memory: MemoryStore::new(), forgets_given_up };
        tokio::spawn(sendarix_webhooks::testing::conformance::dedup_store(Arc::new(store)))
    };
    for (suite, what) in
        [(suite(false), "a completed event is forgotten"), (suite(true), "a given up event is forgotten")]
    {
        let panic = suite.await.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains(what), "{message}");
    }
}
