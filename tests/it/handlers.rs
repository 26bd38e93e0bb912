//! Handlers that fail in every way, and clients that go away while they run.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sendarix_webhooks::testing::{Sample, signed_request};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Receiver, ReceiverBuilder, SendarixLayer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tower::{Layer, service_fn};

use crate::support::{Connection, Endpoint, FaultyStores, PATH, Post, eventually, secret, serve};

fn body() -> Vec<u8> {
    Sample::new(EventType::Bounce).body()
}

/// A panic answers 500 and names nothing; the next delivery is handled, and then it is a duplicate.
async fn assert_redeliverable(addr: SocketAddr, stores: &FaultyStores, body: &[u8]) {
    let mut connection = Connection::open(addr).await;
    let request = Post::signed(body).bytes();
    connection.exchange(&request).await.assert_is(500, "not processed; deliver again");
    let letter = stores.letters().remove(0);
    assert!(letter.is_retrying() && letter.error.contains("broken at 10.0.0.7"), "{letter:?}");
    assert_eq!(connection.exchange(&request).await.status, 200);
    assert_eq!(stores.letters(), []);
    connection.exchange(&request).await.assert_is(200, "already processed");
}

#[tokio::test]
async fn a_panic_before_the_first_await() {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let handler = |delivery: Delivery| async move {
        assert!(delivery.attempt() > 1, "broken at 10.0.0.7");
    };
    let endpoint = Endpoint::start(|builder| builder.dead_letters(configured), handler).await;
    assert_redeliverable(endpoint.addr, &stores, &body()).await;
}

#[tokio::test]
async fn a_panic_after_an_await() {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let handler = |delivery: Delivery| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(delivery.attempt() > 1, "broken at 10.0.0.7");
    };
    let endpoint = Endpoint::start(|builder| builder.dead_letters(configured), handler).await;
    assert_redeliverable(endpoint.addr, &stores, &body()).await;
}

#[tokio::test]
async fn a_panic_in_the_call_of_the_service() {
    let stores = FaultyStores::default();
    let receiver = Receiver::builder(secret()).dead_letters(stores.clone()).build().unwrap();
    let service = service_fn(|request: Request| {
        assert!(request.extensions().get::<Delivery>().unwrap().attempt() > 1, "broken at 10.0.0.7");
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    });
    let app = Router::new().route_service(PATH, SendarixLayer::new(receiver).layer(service));
    assert_redeliverable(serve(app).await, &stores, &body()).await;
}

/// An error whose text cannot be made.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("broken at 10.0.0.7")
    }
}

impl std::error::Error for Unspeakable {}

#[tokio::test]
async fn a_panic_in_the_text_of_an_error() {
    let handler = |delivery: Delivery| async move {
        if delivery.attempt() == 1 { Err(HandlerError::retry(Unspeakable)) } else { Ok(()) }
    };
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(|builder| builder.dead_letters(configured), handler).await;
    let body = body();
    endpoint.post(&body).await.assert_is(503, "not processed; deliver again");
    assert_eq!(stores.letters()[0].error, "an error that panicked when it was written");
    assert_eq!(endpoint.post_until_settled(&body).await.body, "");
    assert_eq!((endpoint.handled(), stores.letters().len()), (2, 0));
}

#[tokio::test]
async fn a_panic_while_a_handler_is_stopped_at_its_limit() {
    struct Fragile;
    impl Drop for Fragile {
        fn drop(&mut self) {
            panic!("broken at 10.0.0.7");
        }
    }
    let handler = |delivery: Delivery| async move {
        if delivery.attempt() == 1 {
            let _fragile = Fragile;
            std::future::pending::<()>().await;
        }
    };
    let limit = Duration::from_millis(50);
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let configure = |builder: ReceiverBuilder| builder.handler_limit(limit).dead_letters(configured);
    let endpoint = Endpoint::start(configure, handler).await;
    let body = body();
    endpoint.post(&body).await.assert_is(500, "not processed; deliver again");
    assert!(stores.letters()[0].error.contains("broken at 10.0.0.7"));
    assert_eq!(endpoint.post_until_settled(&body).await.body, "");
    assert_eq!((endpoint.handled(), stores.letters().len()), (2, 0));
}

#[tokio::test]
async fn a_panic_outside_of_the_handler_is_answered_and_releases_the_claim() {
    /// Succeeds, in a way that only panics when it is asked how.
    struct Riddle;
    impl axum::response::IntoResponse for Riddle {
        fn into_response(self) -> Response {
            panic!("broken at 10.0.0.7")
        }
    }
    let handler = |delivery: Delivery| async move { if delivery.attempt() == 1 { Err(Riddle) } else { Ok(()) } };
    let endpoint = Endpoint::start(|builder| builder, handler).await;
    let body = body();
    endpoint.post(&body).await.assert_is(500, "not processed; deliver again");
    assert_eq!(endpoint.post_until_settled(&body).await.body, "");
}

#[tokio::test]
async fn a_slow_handler_that_fails_in_the_end_leaves_a_letter_and_the_event() {
    for panics in [false, true] {
        let finish = Arc::new(Notify::new());
        let waits = Arc::clone(&finish);
        let handler = move |delivery: Delivery| {
            let waits = Arc::clone(&waits);
            async move {
                if delivery.attempt() > 1 {
                    return Ok(());
                }
                waits.notified().await;
                assert!(!panics, "after the deadline");
                Err(HandlerError::retry("after the deadline"))
            }
        };
        let stores = FaultyStores::default();
        let configured = stores.clone();
        let deadline = Duration::from_millis(200);
        let configure = |builder: ReceiverBuilder| {
            let builder = builder.acknowledgement_deadline(deadline).dead_letters(configured);
            builder.body_timeout(deadline / 2).store_timeout(deadline / 2)
        };
        let endpoint = Endpoint::start(configure, handler).await;
        let body = body();
        endpoint.post(&body).await.assert_is(503, "still processing");
        assert_eq!(stores.letters(), []);
        finish.notify_one();
        eventually("the failure is kept", || stores.letters().len() == 1).await;
        assert!(stores.letters()[0].error.contains("after the deadline"));
        assert_eq!(endpoint.post_until_settled(&body).await.body, "");
        assert_eq!((endpoint.handled(), stores.letters().len()), (2, 0));
    }
}

/// How a client goes away while its request is handled.
#[derive(Clone, Copy, Debug)]
enum Departure {
    Http1Fin,
    Http1Rst,
    Http2Rst,
}

/// Sends a request, waits until the handler has begun, and goes away.
async fn begin_and_leave(endpoint: &Endpoint, body: &[u8], departure: Departure) {
    let begun = endpoint.handled() + 1;
    match departure {
        Departure::Http1Fin | Departure::Http1Rst => {
            let mut connection = Connection::open(endpoint.addr).await;
            connection.write(&Post::signed(body).bytes()).await;
            eventually("the handler has begun", || endpoint.handled() == begun).await;
            if matches!(departure, Departure::Http1Rst) {
                connection.0.set_zero_linger().unwrap();
            }
        }
        Departure::Http2Rst => {
            let stream = TcpStream::connect(endpoint.addr).await.unwrap();
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut client, connection) = handshake.unwrap();
            let connection = tokio::spawn(connection);
            let request = |body: &[u8]| {
                let mut request = signed_request::<Full<Bytes>>(&secret(), PATH, body.to_vec());
                *request.uri_mut() = format!("http://localhost{PATH}").parse().unwrap();
                request
            };
            {
                let response = client.send_request(request(body));
                tokio::select! {
                    response = response => panic!("{response:?}"),
                    () = eventually("the handler has begun", || endpoint.handled() == begun) => {}
                }
                // The response is dropped here: the stream is reset, and the connection stays.
            }
            assert_eq!(client.send_request(request(b"{}")).await.unwrap().status(), 200, "the connection goes on");
            drop(client);
            connection.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_nothing() {
    for departure in [Departure::Http1Fin, Departure::Http1Rst, Departure::Http2Rst] {
        let (finish, effects) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let handler = {
            let (finish, effects) = (Arc::clone(&finish), Arc::clone(&effects));
            move |_| {
                let (finish, effects) = (Arc::clone(&finish), Arc::clone(&effects));
                async move {
                    finish.notified().await;
                    effects.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let endpoint = Endpoint::start(|builder| builder, handler).await;
        let body = body();
        begin_and_leave(&endpoint, &body, departure).await;
        let reply = endpoint.post(&body).await;
        reply.assert_is(503, "another delivery of this event is being processed");
        finish.notify_one();
        endpoint.receiver.drain().await;
        assert_eq!(effects.load(Ordering::SeqCst), 1, "{departure:?}");
        assert_eq!(endpoint.handled(), 1, "{departure:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_before_a_failure_leaves_the_event_redeliverable() {
    for departure in [Departure::Http1Fin, Departure::Http1Rst, Departure::Http2Rst] {
        let finish = Arc::new(Notify::new());
        let broken = Arc::new(AtomicBool::new(true));
        let handler = {
            let (finish, broken) = (Arc::clone(&finish), Arc::clone(&broken));
            move |_| {
                let (finish, broken) = (Arc::clone(&finish), Arc::clone(&broken));
                async move {
                    if !broken.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                    finish.notified().await;
                    broken.store(false, Ordering::SeqCst);
                    Err(HandlerError::retry("after the client has gone"))
                }
            }
        };
        let stores = FaultyStores::default();
        let configured = stores.clone();
        let endpoint = Endpoint::start(|builder| builder.dead_letters(configured), handler).await;
        let body = body();
        begin_and_leave(&endpoint, &body, departure).await;
        let is_kept = || stores.letters().iter().any(|letter| letter.error == "after the client has gone");
        assert!(!is_kept());
        finish.notify_one();
        eventually("the failure is kept", is_kept).await;
        // The letter is kept before the claim is released.
        let reply = endpoint.post_until_settled(&body).await;
        assert_eq!((reply.body.as_str(), endpoint.handled()), ("", 2), "{departure:?}");
        assert!(!is_kept());
    }
}

#[tokio::test]
async fn a_handler_of_12_seconds_has_one_effect_and_its_retry_is_a_duplicate() {
    let effects = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&effects);
    let handler = move |_| {
        let counted = Arc::clone(&counted);
        async move {
            tokio::time::sleep(Duration::from_secs(12)).await;
            counted.fetch_add(1, Ordering::SeqCst);
        }
    };
    let endpoint = Endpoint::start(|builder| builder, handler).await;
    let body = body();
    let start = Instant::now();
    endpoint.post(&body).await.assert_is(503, "still processing");
    let answered = start.elapsed();
    assert!(answered >= Duration::from_secs(9), "answered after {answered:?}");
    assert_eq!(effects.load(Ordering::SeqCst), 0, "answered before the handler ended");
    eventually("the handler ends", || effects.load(Ordering::SeqCst) == 1).await;
    endpoint.post_until_settled(&body).await.assert_is(200, "already processed");
    assert_eq!((effects.load(Ordering::SeqCst), endpoint.handled()), (1, 1));
}

/// The lease is the backstop of a process, or a runtime, that ends in the middle.
#[test]
fn a_runtime_that_ends_leaves_the_event_to_the_end_of_the_lease() {
    let stores = FaultyStores::default();
    let lease = Duration::from_millis(300);
    let body = body();
    let configured = |stores: FaultyStores| {
        move |builder: ReceiverBuilder| {
            builder.store(stores).handler_limit(lease / 2).store_timeout(lease / 10).lease(lease)
        }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::start(configured(stores.clone()), |_| std::future::pending::<()>()).await;
        let mut connection = Connection::open(endpoint.addr).await;
        connection.write(&Post::signed(&body).bytes()).await;
        eventually("the handler has begun", || endpoint.handled() == 1).await;
    });
    drop(runtime);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let endpoint = Endpoint::start(configured(stores), |_| async {}).await;
        let start = Instant::now();
        while endpoint.post(&body).await.status != 200 {
            assert!(start.elapsed() < Duration::from_secs(30), "stuck");
        }
        assert_eq!(endpoint.handled(), 1);
    });
}
