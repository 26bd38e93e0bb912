//! What is actix-web's own: workers, extractors, payloads, middleware around and inside.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use actix_web::error::{ErrorForbidden, ErrorImATeapot, InternalError};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::{Compress, Next, from_fn};
use actix_web::{App, Error, HttpMessage, HttpRequest, HttpResponse, test, web};
use sendarix_webhooks::actix::MissingMiddleware;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{
    Delivery, EventType, HandlerError, Outcome, Receiver, RefusalKind, SendarixEvent, SendarixMiddleware,
};
use tokio::task::JoinSet;

use crate::support::{ActixServer, Connection, FaultyStores, PATH, PATIENCE, Post, Reply, eventually, secret};

fn receiver() -> Receiver {
    Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap()
}

fn sendarix() -> SendarixMiddleware {
    SendarixMiddleware::new(receiver())
}

fn body() -> Vec<u8> {
    Sample::new(EventType::Bounce).body()
}

async fn send(server: &ActixServer, post: &Post) -> Reply {
    Connection::open(server.addr).await.exchange(&post.bytes()).await
}

/// Answers with the id that the extractor saw and the body that the next extractor read.
async fn on_event(event: SendarixEvent, body: web::Bytes) -> String {
    assert_eq!(event.body(), &body, "the body is handed on as it was");
    format!("{} {}", event.event_id, body.len())
}

/// A request with a signature is handled, the same one is a duplicate, one without is refused.
async fn assert_protected(server: &ActixServer) {
    let body = Sample::new(EventType::Delivered).event_id("evt_1").body();
    let handled = send(server, &Post::signed(&body)).await;
    assert_eq!((handled.status, handled.body), (200, format!("evt_1 {}", body.len())));
    send(server, &Post::signed(&body)).await.assert_is(200, "already processed");
    let unsigned = Post::signed(&body).without("x-sendarix-signature");
    send(server, &unsigned).await.assert_is(401, "the X-Sendarix-Signature header is missing");
}

#[tokio::test]
async fn on_a_resource_beside_others() {
    let receiver = receiver();
    let server = ActixServer::start(2, move |config| {
        let sendarix = SendarixMiddleware::new(receiver.clone());
        config.service(web::resource(PATH).wrap(sendarix).route(web::post().to(on_event)));
        config.route("/health", web::get().to(|| async { "open" }));
    });
    assert_protected(&server).await;
    let elsewhere = Connection::open(server.addr).await.exchange(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!((elsewhere.status, elsewhere.body.as_str()), (200, "open"));
    let wrong_method = send(&server, &Post::signed(b"").method("GET")).await;
    assert_eq!((wrong_method.status, wrong_method.header("allow")), (405, Some("POST")));
}

/// Routing inside of the middleware changes the request, which must not be shared by then.
#[tokio::test]
async fn around_scopes_with_middleware_inside() {
    async fn wait(
        request: ServiceRequest,
        next: Next<impl MessageBody>,
    ) -> Result<ServiceResponse<impl MessageBody>, Error> {
        tokio::task::yield_now().await;
        next.call(request).await
    }
    let receiver = receiver();
    let server = ActixServer::start(2, move |config| {
        let inner = web::scope("/{service}").app_data(web::Data::new(7)).route("", web::post().to(on_event));
        let inner = web::scope("/webhooks").wrap(from_fn(wait)).service(inner);
        config.service(web::scope("").wrap(SendarixMiddleware::new(receiver.clone())).service(inner));
    });
    assert_protected(&server).await;
}

#[tokio::test]
async fn on_a_route_and_around_an_app() {
    let receiver = receiver();
    let server = ActixServer::start(1, move |config| {
        config.route(PATH, web::post().to(on_event).wrap(SendarixMiddleware::new(receiver.clone())));
    });
    assert_protected(&server).await;

    let app = test::init_service(App::new().wrap(sendarix()).route(PATH, web::post().to(on_event))).await;
    let body = body();
    let response = test::call_service(&app, request(&body).to_request()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.response().extensions().get(), Some(&Outcome::Processed));
}

fn request(body: &[u8]) -> test::TestRequest {
    let mut request = test::TestRequest::post().uri(PATH).set_payload(body.to_vec());
    for header in signed_headers(&secret(), body, std::time::SystemTime::now()) {
        request = request.insert_header(header);
    }
    request
}

#[tokio::test]
async fn the_body_can_be_extracted_in_any_way() {
    async fn json(event: SendarixEvent, json: web::Json<serde_json::Value>) -> &'static str {
        assert_eq!(json["event_id"], event.event_id.as_str());
        "json"
    }
    async fn text(delivery: Delivery, text: String) -> &'static str {
        assert_eq!(text.as_bytes(), delivery.event().body());
        "text"
    }
    async fn stream(event: SendarixEvent, payload: web::Payload) -> Result<&'static str, HandlerError> {
        let bytes = payload.to_bytes().await.map_err(|error| error.to_string())?;
        assert_eq!(&bytes, event.body());
        Ok("stream")
    }
    let receiver = receiver();
    let server = ActixServer::start(1, move |config| {
        let route = |path: &str| web::resource(path).wrap(SendarixMiddleware::new(receiver.clone()));
        let roomy = web::PayloadConfig::new(1 << 20);
        config.service(
            web::scope(PATH)
                .service(route("/json").route(web::post().to(json)))
                .service(route("/text").route(web::post().to(text)))
                .service(route("/stream").route(web::post().to(stream)))
                .service(route("/roomy").app_data(roomy).route(web::post().to(on_event)))
                .service(route("/tight").app_data(web::PayloadConfig::new(100)).route(web::post().to(on_event))),
        );
    });
    let send = async |path: &str, body: &[u8]| {
        let bytes = String::from_utf8(Post::signed(body).bytes()).unwrap();
        let bytes = bytes.replacen(PATH, &format!("{PATH}{path}"), 1);
        Connection::open(server.addr).await.exchange(bytes.as_bytes()).await
    };
    for path in ["json", "text", "stream"] {
        let reply = send(&format!("/{path}"), &body()).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, path));
    }
    // Each limit is its own: the receiver's comes first, and the handler's is asked with the exact body.
    let mut large = body();
    large.resize(256 * 1024, b' ');
    assert_eq!(send("/roomy", &large).await.status, 200);
    large.push(b' ');
    send("/roomy", &large).await.assert_is(413, "the body is too large");
    for _ in 0..2 {
        assert_eq!(send("/tight", &body()).await.status, 413, "and that is a failure of the handler's");
    }
}

/// It throws an empty body away, and with it what the body holds.
#[tokio::test]
async fn a_refused_body_that_goes_on_ends_with_its_connection_inside_of_compress_too() {
    let receiver = receiver();
    let server = ActixServer::start(1, move |config| {
        let resource = web::resource(PATH).wrap(SendarixMiddleware::new(receiver.clone())).wrap(Compress::default());
        config.service(resource.route(web::post().to(on_event)));
    });
    for (method, status) in [("HEAD", 405), ("POST", 401)] {
        let mut post = Post::signed(&body()).chunked(100).method(method).without("x-sendarix-signature");
        post.body.truncate(50);
        let mut connection = Connection::open(server.addr).await;
        assert_eq!(connection.exchange(&post.bytes()).await.status, status);
        assert!(connection.try_read().await.is_none(), "{status}: and then the end of the connection");
    }
}

/// Nothing signs that header.
#[tokio::test]
async fn a_content_encoding_that_the_signed_bytes_contradict_is_not_believed() {
    async fn json(event: SendarixEvent, json: web::Json<serde_json::Value>) -> &'static str {
        assert_eq!(json["event_id"], event.event_id.as_str());
        "read"
    }
    let receiver = receiver();
    let server = ActixServer::start(1, move |config| {
        let sendarix = SendarixMiddleware::new(receiver.clone());
        config.service(web::resource(PATH).wrap(sendarix).route(web::post().to(json)));
    });
    let reply = send(&server, &Post::signed(&body()).with("content-encoding", "gzip")).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "read"));
}

#[tokio::test]
async fn an_error_with_a_status_of_success_is_an_error() {
    let receiver = receiver();
    let server = ActixServer::start(1, move |config| {
        let sendarix = SendarixMiddleware::new(receiver.clone());
        let fail = || async { Err::<&str, _>(InternalError::new("at 10.0.0.7", StatusCode::OK)) };
        config.service(web::resource(PATH).wrap(sendarix).route(web::post().to(fail)));
    });
    let post = Post::signed(&body());
    for _ in 0..2 {
        send(&server, &post).await.assert_is(503, "not processed; deliver again");
    }
}

/// Each connection goes to the next worker.
#[tokio::test]
async fn a_duplicate_on_another_of_four_workers_is_suppressed() {
    let receiver = receiver();
    let handled: Arc<Mutex<HashMap<String, Vec<ThreadId>>>> = Arc::default();
    let threads = Arc::clone(&handled);
    let server = ActixServer::start(4, move |config| {
        let threads = Arc::clone(&threads);
        let on_event = move |event: SendarixEvent| {
            let thread = std::thread::current().id();
            threads.lock().unwrap().entry(event.event_id.clone()).or_default().push(thread);
            async { "" }
        };
        let sendarix = SendarixMiddleware::new(receiver.clone());
        config.service(web::resource(PATH).wrap(sendarix).route(web::post().to(on_event)));
    });
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(Connection::open(server.addr).await);
    }
    for first in 0..connections.len() {
        let post = Post::signed(&body()).bytes();
        assert_eq!(connections[first].exchange(&post).await.body, "");
        for connection in &mut connections {
            connection.exchange(&post).await.assert_is(200, "already processed");
        }
    }
    let handled = handled.lock().unwrap();
    assert!(handled.len() == 8 && handled.values().all(|threads| threads.len() == 1), "{handled:?}");
    assert_eq!(handled.values().flatten().collect::<HashSet<_>>().len(), 4, "all workers had a part");
}

#[tokio::test]
async fn without_the_middleware_nothing_passes_for_verified() {
    async fn optional(event: Option<SendarixEvent>) -> &'static str {
        if event.is_some() { "verified" } else { "none" }
    }
    async fn named(event: Result<SendarixEvent, MissingMiddleware>) -> String {
        event.map_or_else(|error| error.to_string(), |_| "verified".to_owned())
    }
    async fn any(event: Result<Delivery, Error>) -> Result<&'static str, Error> {
        event.map(|_| "verified")
    }
    let receiver = receiver();
    let server = ActixServer::start(1, move |config| {
        let sendarix = SendarixMiddleware::new(receiver.clone());
        let other = web::resource("/other").wrap(sendarix).route(web::post().to(on_event));
        let by_header = |kind| actix_web::guard::Header("x-kind", kind);
        let protected = web::resource(PATH).route(web::post().guard(by_header("plain")).to(on_event));
        let protected = protected.route(web::post().guard(by_header("optional")).to(optional));
        let protected = protected.route(web::post().guard(by_header("named")).to(named));
        config.service(other).service(protected.route(web::post().guard(by_header("any")).to(any)));
    });
    for (kind, status, text) in [
        ("plain", 500, "misconfigured"),
        ("optional", 200, "none"),
        ("named", 200, "nothing has verified the request"),
        ("any", 500, "misconfigured"),
    ] {
        // On the same connection after an event that was verified, of which nothing must be left.
        let mut connection = Connection::open(server.addr).await;
        let verified = String::from_utf8(Post::signed(&body()).bytes()).unwrap().replacen(PATH, "/other", 1);
        assert_eq!(connection.exchange(verified.as_bytes()).await.status, 200);
        let reply = connection.exchange(&Post::signed(&body()).with("x-kind", kind).bytes()).await;
        assert_eq!(reply.status, status, "{kind}");
        assert!(reply.body.contains(text) && !reply.body.starts_with("verified"), "{kind}: {}", reply.body);
    }
}

#[tokio::test]
async fn a_handler_error_without_the_middleware_names_nothing() {
    let server = ActixServer::start(1, |config| {
        config.route(PATH, web::post().to(|| async { Err::<&str, _>(HandlerError::permanent("at 10.0.0.7")) }));
    });
    send(&server, &Post::signed(b"")).await.assert_is(503, "not processed; deliver again");
}

#[tokio::test]
async fn twice_on_one_resource_is_a_mistake_that_is_named() {
    let receiver = receiver();
    let server = ActixServer::start(1, move |config| {
        let sendarix = SendarixMiddleware::new(receiver.clone());
        let resource = web::resource(PATH).wrap(sendarix.clone()).route(web::post().to(on_event));
        config.service(web::scope("").wrap(sendarix).service(resource));
    });
    send(&server, &Post::signed(&body())).await.assert_is(500, "misconfigured");
}

/// Marks every `Ok` response, as CORS does.
fn marking<S, B>(
    request: ServiceRequest,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse<B>, Error>> + use<S, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    let handling = service.call(request);
    async move {
        let mut response = handling.await?;
        let outcome = response.response().extensions().get::<Outcome>().map_or("none", |outcome| outcome.as_str());
        response.headers_mut().insert(HeaderName::from_static("x-outcome"), HeaderValue::from_static(outcome));
        Ok(response)
    }
}

#[tokio::test]
async fn middleware_outside_sees_every_response_but_those_whose_request_is_gone() {
    async fn handle(delivery: Delivery, request: HttpRequest) -> Result<HttpResponse, HandlerError> {
        assert_eq!(request.path(), PATH);
        match delivery.event().kind.event_type() {
            Some(EventType::Open) => Ok(HttpResponse::TooManyRequests().finish()),
            Some(EventType::Click) => Err(HandlerError::retry("later")),
            Some(EventType::Complaint) => Err(HandlerError::permanent("never")),
            Some(EventType::Unsubscribe) => panic!("broken"),
            Some(EventType::Deferred) => std::future::pending().await,
            _ => Ok(HttpResponse::Accepted().finish()),
        }
    }
    let deadline = Duration::from_millis(500);
    let builder = Receiver::builder(secret()).dangerously_without_dead_letters().acknowledgement_deadline(deadline);
    let receiver = builder.body_timeout(deadline / 2).store_timeout(deadline / 2).build().unwrap();
    let server = ActixServer::start(1, move |config| {
        let resource = web::resource(PATH).wrap(SendarixMiddleware::new(receiver.clone())).wrap_fn(marking);
        config.service(resource.route(web::post().to(handle)));
    });
    let bounce = Sample::new(EventType::Bounce).event_id("evt_1").body();
    let forged = Post::signed(&bounce).replacing("x-sendarix-signature", "0".repeat(64));
    for (post, status, outcome) in [
        (Post::signed(&bounce).method("GET"), 405, Some("method_not_allowed")),
        (forged, 401, Some("unauthenticated")),
        (Post::signed(&bounce), 202, Some("processed")),
        (Post::signed(&bounce), 200, Some("duplicate")),
        (Post::signed(b"{}"), 200, Some("malformed")),
        (Post::signed(&Sample::new(EventType::Open).body()), 429, Some("failed")),
        (Post::signed(&Sample::new(EventType::Click).body()), 503, Some("failed")),
        (Post::signed(&Sample::new(EventType::Complaint).body()), 200, Some("failed_permanently")),
        (Post::signed(&Sample::new(EventType::Unsubscribe).body()), 500, None),
        (Post::signed(&Sample::new(EventType::Deferred).body()), 503, None),
    ] {
        let reply = send(&server, &post).await;
        assert_eq!((reply.status, reply.header("x-outcome")), (status, outcome), "{}", reply.body);
    }
}

#[tokio::test]
async fn outer_middleware_can_tell_why_a_request_was_refused() {
    let app = test::init_service(App::new().wrap(sendarix()).route(PATH, web::post().to(on_event))).await;
    let forged = request(&body()).insert_header(("x-sendarix-signature", "0".repeat(64)));
    let response = test::call_service(&app, forged.to_request()).await;
    assert_eq!(response.response().extensions().get(), Some(&Outcome::Unauthenticated));
    assert_eq!(response.response().extensions().get(), Some(&RefusalKind::SignatureMismatch));
}

#[tokio::test]
async fn an_error_of_middleware_inside_is_a_failure_of_the_handler() {
    async fn fail(request: ServiceRequest, _: Next<impl MessageBody>) -> Result<ServiceResponse, Error> {
        let kind = request.extensions().get::<Delivery>().unwrap().event().kind.event_type();
        match kind {
            Some(EventType::Open) => Err(ErrorForbidden("at 10.0.0.7")),
            // A status that would acknowledge what has not been handled.
            Some(EventType::Click) => Err(InternalError::new("", StatusCode::OK).into()),
            Some(EventType::Bounce) => Err(HandlerError::permanent("never").into()),
            _ => Err(ErrorImATeapot("")),
        }
    }
    let stores = FaultyStores::default();
    let receiver = Receiver::builder(secret()).dead_letters(stores.clone()).build().unwrap();
    let server = ActixServer::start(1, move |config| {
        let resource = web::resource(PATH).wrap(from_fn(fail)).wrap(SendarixMiddleware::new(receiver.clone()));
        config.service(resource.route(web::post().to(on_event)));
    });
    for (event_type, status, text) in [
        (EventType::Open, 503, "not processed; deliver again"),
        (EventType::Click, 503, "not processed; deliver again"),
        (EventType::Bounce, 200, "acknowledged without processing"),
    ] {
        let reply = send(&server, &Post::signed(&Sample::new(event_type).body())).await;
        reply.assert_is(status, text);
    }
    let retrying = stores.letters().iter().filter(|letter| letter.is_retrying()).count();
    assert_eq!((stores.letters().len(), retrying), (3, 2));
}

/// A middleware outside keeps a clone of the request, as one that logs at the end may do. The event is handled all the same.
#[tokio::test]
async fn a_request_that_is_shared_outside_is_handled_though_it_has_a_content_encoding() {
    async fn keep(
        request: ServiceRequest,
        next: Next<impl MessageBody>,
    ) -> Result<ServiceResponse<impl MessageBody>, Error> {
        let kept = request.request().clone();
        let response = next.call(request).await;
        assert_eq!(kept.path(), PATH);
        response
    }
    let stores = FaultyStores::default();
    let receiver = Receiver::builder(secret()).dead_letters(stores.clone()).build().unwrap();
    let server = ActixServer::start(1, move |config| {
        let resource = web::resource(PATH).wrap(SendarixMiddleware::new(receiver.clone())).wrap(from_fn(keep));
        config.service(resource.route(web::post().to(async |_: SendarixEvent| "")));
    });
    for encoding in [None, Some("gzip")] {
        let post = Post::signed(&Sample::new(EventType::Open).body());
        let post = encoding.into_iter().fold(post, |post, encoding| post.with("content-encoding", encoding));
        let reply = send(&server, &post).await;
        assert_eq!(reply.status / 100, 2, "{encoding:?}: {reply:?}");
    }
    assert_eq!(stores.letters(), []);
}

/// How a server ends while it is busy.
#[derive(Clone, Copy, Debug)]
enum End {
    /// As on SIGTERM: `drain`, and then no more requests.
    Drained,
    /// What is under way is dropped.
    Killed,
}

#[tokio::test]
async fn workers_that_are_shut_down_under_load_lose_nothing_and_leave_nothing_stuck() {
    for end in [End::Drained, End::Killed] {
        let receiver = receiver();
        let effects: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let start = |receiver: Receiver| {
            let effects = Arc::clone(&effects);
            ActixServer::start(4, move |config| {
                let effects = Arc::clone(&effects);
                let on_event = move |event: SendarixEvent| {
                    let effects = Arc::clone(&effects);
                    async move {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        *effects.lock().unwrap().entry(event.event_id.clone()).or_default() += 1;
                        ""
                    }
                };
                let sendarix = SendarixMiddleware::new(receiver.clone());
                config.service(web::resource(PATH).wrap(sendarix).route(web::post().to(on_event)));
            })
        };
        let first = start(receiver.clone());
        let mut senders = JoinSet::new();
        for sender in 0..16 {
            let addr = first.addr;
            senders.spawn(async move {
                let mut connection = Connection::open(addr).await;
                let mut sent = Vec::new();
                for number in 0.. {
                    let id = format!("evt_{sender}_{number}");
                    let post = Post::signed(&Sample::new(EventType::Open).event_id(&id).body()).bytes();
                    let written = connection.try_write(&post).await;
                    let reply = if written { connection.try_read().await } else { None };
                    let acknowledged = reply.as_ref().is_some_and(|reply| reply.status == 200);
                    sent.push((id, acknowledged));
                    if !acknowledged {
                        break;
                    }
                }
                sent
            });
        }
        eventually("all are busy", || effects.lock().unwrap().len() > 100).await;
        match end {
            End::Drained => {
                receiver.drain().await;
                first.stop().await;
            }
            End::Killed => first.kill().await,
        }
        let sent: Vec<(String, bool)> = senders.join_all().await.into_iter().flatten().collect();
        drop(first);
        for (id, acknowledged) in &sent {
            let effects = effects.lock().unwrap().get(id).copied().unwrap_or(0);
            assert!(effects == 1 || (!acknowledged && effects == 0), "{end:?} {id}: {effects}");
        }

        // What was not acknowledged comes again. A receiver that drains takes nothing, and the next process has another.
        let receiver = if matches!(end, End::Drained) { self::receiver() } else { receiver };
        let second = start(receiver);
        for (id, _) in sent.iter().filter(|(_, acknowledged)| !acknowledged) {
            let post = Post::signed(&Sample::new(EventType::Open).event_id(id).body());
            let start = Instant::now();
            while send(&second, &post).await.status != 200 {
                // A worker that was killed may take a moment to end; the lease would be a minute.
                assert!(start.elapsed() < PATIENCE, "{end:?} {id} is stuck");
            }
            assert_eq!(effects.lock().unwrap()[id], 1, "{end:?} {id}");
        }
    }
}
