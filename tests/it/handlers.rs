//! Handlers that fail in every way, and clients that go away while they run.

use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use sendarix_webhooks::inbox::LocalTask;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{Delivery, EventType, HandlerError, Head, Outcome, Receiver, ReceiverBuilder, SendarixLayer};
use tokio::task::JoinSet;

use crate::support::{
    Connection, Departure, Endpoint, FaultyStores, Front, Gate, PATH, PATIENCE, Post, eventually, parity, secret, serve,
};

parity! {
    a_panic_in_the_call_of_the_handler,
    a_panic_before_the_first_await,
    a_panic_after_an_await,
    a_panic_in_the_text_of_an_error,
    a_panic_while_a_handler_is_stopped_at_its_limit,
    a_slow_handler_that_fails_in_the_end_leaves_a_letter_and_the_event,
    a_client_that_goes_away_in_its_body_leaves_nothing_behind,
    a_client_that_goes_away_cancels_nothing,
    a_client_that_goes_away_before_a_failure_leaves_the_event_redeliverable,
}

fn body() -> Vec<u8> {
    Sample::new(EventType::Bounce).body()
}

/// A panic answers 500 and names nothing; the next delivery is handled, and then it is a duplicate.
async fn assert_a_panic_is_redeliverable<H, F>(front: Front, handler: H)
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(front, |builder| builder.dead_letters(configured), handler).await;
    let (post, mut client) = (Post::signed(&body()), endpoint.connect().await);
    client.send(&post).await.assert_is(500, "not processed; deliver again");
    let letter = stores.letters().remove(0);
    assert!(letter.is_retrying() && letter.error.contains("broken at 10.0.0.7"), "{letter:?}");
    assert_eq!(client.send(&post).await.status, 200, "the connection goes on");
    assert_eq!(stores.letters(), []);
    client.send(&post).await.assert_is(200, "already processed");
}

async fn a_panic_in_the_call_of_the_handler(front: Front) {
    let handler = |delivery: Delivery| {
        assert!(delivery.attempt() > 1, "broken at 10.0.0.7");
        async {}
    };
    assert_a_panic_is_redeliverable(front, handler).await;
}

async fn a_panic_before_the_first_await(front: Front) {
    let handler = |delivery: Delivery| async move {
        assert!(delivery.attempt() > 1, "broken at 10.0.0.7");
    };
    assert_a_panic_is_redeliverable(front, handler).await;
}

async fn a_panic_after_an_await(front: Front) {
    let handler = |delivery: Delivery| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(delivery.attempt() > 1, "broken at 10.0.0.7");
    };
    assert_a_panic_is_redeliverable(front, handler).await;
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

async fn a_panic_in_the_text_of_an_error(front: Front) {
    let handler = |delivery: Delivery| async move {
        if delivery.attempt() == 1 { Err(HandlerError::retry(Unspeakable)) } else { Ok(()) }
    };
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(front, |builder| builder.dead_letters(configured), handler).await;
    let body = body();
    endpoint.post(&body).await.assert_is(503, "not processed; deliver again");
    assert_eq!(stores.letters()[0].error, "an error that panicked when it was written");
    assert_eq!(endpoint.post_until_settled(&body).await.body, "");
    assert_eq!((endpoint.handled(), stores.letters().len()), (2, 0));
}

async fn a_panic_while_a_handler_is_stopped_at_its_limit(front: Front) {
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
    let endpoint = Endpoint::start(front, configure, handler).await;
    let body = body();
    endpoint.post(&body).await.assert_is(500, "not processed; deliver again");
    assert!(stores.letters()[0].error.contains("broken at 10.0.0.7"));
    assert_eq!(endpoint.post_until_settled(&body).await.body, "");
    assert_eq!((endpoint.handled(), stores.letters().len()), (2, 0));
}

/// Of axum alone, whose handlers make their response outside of what they do.
#[tokio::test]
async fn a_panic_in_the_making_of_a_response() {
    /// Succeeds, in a way that only panics when it is asked how.
    struct Riddle;
    impl IntoResponse for Riddle {
        fn into_response(self) -> Response {
            panic!("broken at 10.0.0.7")
        }
    }
    let handler = |delivery: Delivery| async move { if delivery.attempt() == 1 { Err(Riddle) } else { Ok(()) } };
    let layer = SendarixLayer::new(Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap());
    let addr = serve(Router::new().route(PATH, post(handler).layer(layer))).await;
    let (request, mut connection) = (Post::signed(&body()).bytes(), Connection::open(addr).await);
    connection.exchange(&request).await.assert_is(500, "not processed; deliver again");
    assert_eq!(connection.exchange(&request).await.body, "");
}

async fn a_slow_handler_that_fails_in_the_end_leaves_a_letter_and_the_event(front: Front) {
    for panics in [false, true] {
        let gate = Gate::default();
        let waits = gate.clone();
        let handler = move |delivery: Delivery| {
            let waits = waits.clone();
            async move {
                if delivery.attempt() > 1 {
                    return Ok(());
                }
                waits.pass().await;
                assert!(!panics, "after the deadline");
                Err(HandlerError::retry("after the deadline"))
            }
        };
        let stores = FaultyStores::default();
        let configured = stores.clone();
        let deadline = Duration::from_millis(500);
        let configure = |builder: ReceiverBuilder| {
            let builder = builder.acknowledgement_deadline(deadline).dead_letters(configured);
            builder.body_timeout(deadline / 2).store_timeout(deadline / 2)
        };
        let endpoint = Endpoint::start(front, configure, handler).await;
        let body = body();
        endpoint.post(&body).await.assert_is(503, "still processing");
        assert_eq!(stores.letters(), []);
        gate.open();
        eventually("the failure is kept", || stores.letters().len() == 1).await;
        assert!(stores.letters()[0].error.contains("after the deadline"));
        assert_eq!(endpoint.post_until_settled(&body).await.body, "");
        assert_eq!((endpoint.handled(), stores.letters().len()), (2, 0));
    }
}

/// Sends a request, waits until the handler has begun, and goes away. On actix-web over HTTP/2 that cancels nothing: each
/// stream is handled in a separate task, which goes on.
async fn begin_and_leave(endpoint: &Endpoint, body: &[u8], departure: Departure) {
    let begun = endpoint.handled() + 1;
    let exchange = endpoint.begin(&Post::signed(body)).await;
    eventually("the handler has begun", || endpoint.handled() == begun).await;
    exchange.leave(departure).await;
}

async fn a_client_that_goes_away_in_its_body_leaves_nothing_behind(front: Front) {
    for departure in Departure::ALL {
        let body_timeout = Duration::from_secs(8);
        let endpoint = Endpoint::start(front, |builder| builder.body_timeout(body_timeout), |_| async {}).await;
        let post = Post::signed(&body());
        let (first, _) = post.body.split_at(post.body.len() / 2);
        let part = Post { body: first.to_vec(), ..post.clone() };
        endpoint.connect().await.begin_open(&part).await.leave(departure).await;
        assert_eq!(endpoint.send(&post).await.body, "");
        assert_eq!(endpoint.handled(), 1, "{departure:?}");
        let drained = tokio::time::timeout(body_timeout / 2, endpoint.receiver.drain()).await;
        assert!(drained.is_ok(), "{departure:?}: the body is still waited for");
    }
}

async fn a_client_that_goes_away_cancels_nothing(front: Front) {
    for departure in Departure::ALL {
        let (gate, effects) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
        let handler = {
            let (gate, effects) = (gate.clone(), Arc::clone(&effects));
            move |_| {
                let (gate, effects) = (gate.clone(), Arc::clone(&effects));
                async move {
                    gate.pass().await;
                    effects.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let endpoint = Endpoint::start(front, |builder| builder, handler).await;
        let body = body();
        begin_and_leave(&endpoint, &body, departure).await;
        let reply = endpoint.post(&body).await;
        reply.assert_is(503, "another delivery of this event is being processed");
        gate.open();
        endpoint.receiver.drain().await;
        assert_eq!(effects.load(Ordering::SeqCst), 1, "{departure:?}");
        assert_eq!(endpoint.handled(), 1, "{departure:?}");
    }
}

async fn a_client_that_goes_away_before_a_failure_leaves_the_event_redeliverable(front: Front) {
    for departure in Departure::ALL {
        let gate = Gate::default();
        let broken = Arc::new(AtomicBool::new(true));
        let handler = {
            let (gate, broken) = (gate.clone(), Arc::clone(&broken));
            move |_| {
                let (gate, broken) = (gate.clone(), Arc::clone(&broken));
                async move {
                    if !broken.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                    gate.pass().await;
                    broken.store(false, Ordering::SeqCst);
                    Err(HandlerError::retry("after the client has gone"))
                }
            }
        };
        let stores = FaultyStores::default();
        let configured = stores.clone();
        let endpoint = Endpoint::start(front, |builder| builder.dead_letters(configured), handler).await;
        let body = body();
        begin_and_leave(&endpoint, &body, departure).await;
        let is_kept = || stores.letters().iter().any(|letter| letter.error == "after the client has gone");
        assert!(!is_kept());
        endpoint.post(&body).await.assert_is(503, "another delivery of this event is being processed");
        gate.open();
        eventually("the failure is kept", is_kept).await;
        // The letter is kept before the claim is released.
        let reply = endpoint.post_until_settled(&body).await;
        assert_eq!((reply.body.as_str(), endpoint.handled()), ("", 2), "{departure:?}");
        assert!(!is_kept());
    }
}

/// On every front at the same time, since it takes seconds.
#[tokio::test]
async fn a_handler_of_12_seconds_has_one_effect_and_its_retry_is_a_duplicate() {
    let mut fronts = JoinSet::new();
    for front in Front::ALL {
        fronts.spawn(async move {
            let effects = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&effects);
            let handler = move |_| {
                let counted = Arc::clone(&counted);
                async move {
                    tokio::time::sleep(Duration::from_secs(12)).await;
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            };
            let endpoint = Endpoint::start(front, |builder| builder, handler).await;
            let body = body();
            let start = Instant::now();
            endpoint.post(&body).await.assert_is(503, "still processing");
            let answered = start.elapsed();
            assert!(answered >= Duration::from_secs(9), "{front:?} answered after {answered:?}");
            assert_eq!(effects.load(Ordering::SeqCst), 0, "{front:?} answered before the handler ended");
            eventually("the handler ends", || effects.load(Ordering::SeqCst) == 1).await;
            endpoint.post_until_settled(&body).await.assert_is(200, "already processed");
            assert_eq!((effects.load(Ordering::SeqCst), endpoint.handled()), (1, 1), "{front:?}");
        });
    }
    fronts.join_all().await;
}

/// On every front at the same time, since it takes seconds.
#[tokio::test]
async fn a_deadline_that_comes_before_the_handler_begins_takes_nothing_from_it() {
    let mut fronts = JoinSet::new();
    for front in Front::ALL {
        fronts.spawn(async move {
            let stores = FaultyStores::default();
            stores.claims_wait(true);
            let configured = stores.clone();
            let deadline = Duration::from_secs(5);
            let configure = |builder: ReceiverBuilder| {
                let limit = deadline - Duration::from_millis(500);
                let builder = builder.acknowledgement_deadline(deadline).store(configured.clone());
                let builder = builder.body_timeout(limit).store_timeout(limit).dead_letters(configured);
                builder.handler_limit(deadline)
            };
            let endpoint = Endpoint::start(front, configure, |_| async {}).await;
            // The body is complete after half of the time, so that the limit of the claim is not over at the deadline.
            let post = Post::signed(&body());
            let head = Post { body: Vec::new(), ..post.clone() };
            let mut exchange = endpoint.connect().await.begin_open(&head).await;
            tokio::time::sleep(deadline / 2).await;
            exchange.write(&post.body).await;
            exchange.finish();
            exchange.reply().await.assert_is(503, "still processing");
            stores.claims_wait(false);
            eventually("the handler has run", || endpoint.handled() == 1).await;
            endpoint.post_until_settled(&post.body).await.assert_is(200, "already processed");
            assert_eq!((endpoint.handled(), stores.letters()), (1, Vec::new()), "{front:?}");
        });
    }
    fronts.join_all().await;
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
        let endpoint = Endpoint::start(Front::ANY, configured(stores.clone()), |_| std::future::pending::<()>()).await;
        let mut connection = Connection::open(endpoint.addr).await;
        connection.write(&Post::signed(&body).bytes()).await;
        eventually("the handler has begun", || endpoint.handled() == 1).await;
    });
    drop(runtime);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let endpoint = Endpoint::start(Front::ANY, configured(stores), |_| async {}).await;
        let start = Instant::now();
        while endpoint.post(&body).await.status != 200 {
            assert!(start.elapsed() < Duration::from_secs(30), "stuck");
        }
        assert_eq!(endpoint.handled(), 1);
    });
}

/// As in a test of an actix-web application that runs in tokio's own runtime.
#[tokio::test]
async fn a_local_delivery_where_no_local_task_can_run_is_given_back_or_awaited() {
    let deadline = Duration::from_millis(100);
    let builder = Receiver::builder(secret()).dangerously_without_dead_letters().acknowledgement_deadline(deadline);
    let receiver = builder.body_timeout(deadline / 2).store_timeout(deadline / 2).build().unwrap();
    let post = Post::signed(&body());
    let verified = || {
        let headers = post.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        receiver.admit(&Head::new("POST", headers)).unwrap().verify(post.body.clone()).unwrap()
    };
    let spawn_local = |task: LocalTask| drop(tokio::task::spawn_local(task));
    let mut dropped = verified().deliver_local(spawn_local, |_| std::future::pending::<Result<(), HandlerError>>());
    assert!(std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut dropped).poll(cx).is_pending())).await);
    drop(dropped);
    let slow = verified().deliver_local(spawn_local, move |delivery| async move {
        assert_eq!(delivery.attempt(), 2);
        tokio::time::sleep(deadline * 2).await;
        Ok::<(), HandlerError>(())
    });
    assert_eq!(slow.await.outcome(), Outcome::Processed, "not `slow`, which would let go of it");
}

/// Outside of the server's runtime, whose timers may stand still meanwhile.
#[test]
fn a_handler_that_blocks_its_thread_does_not_hold_up_a_drain_for_ever() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Dropped before the runtime, which waits for its threads.
    let (unblock, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let lease = Duration::from_millis(500);
    let configure = |builder: ReceiverBuilder| {
        let builder = builder.handler_limit(lease / 5).lease(lease);
        builder.body_timeout(lease).store_timeout(lease / 10)
    };
    let (begun, has_begun) = mpsc::channel();
    let handler = move |_| {
        begun.send(()).unwrap();
        let _ = blocked.lock().unwrap().recv();
        async {}
    };
    let endpoint = runtime.block_on(Endpoint::start(Front::ANY, configure, handler));
    let mut client = std::net::TcpStream::connect(endpoint.addr).unwrap();
    client.write_all(&Post::signed(&body()).bytes()).unwrap();
    has_begun.recv_timeout(PATIENCE).unwrap();

    let receiver = endpoint.receiver;
    let (drained, has_drained) = mpsc::channel();
    std::thread::spawn(move || {
        // Nothing of it needs tokio's timers.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(receiver.drain());
        drained.send(()).unwrap();
    });
    has_drained.recv_timeout(PATIENCE).expect("the drain ends");
    drop(unblock);
}
