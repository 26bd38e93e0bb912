//! Everywhere that the layer can stand.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::ServiceExt;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use sendarix_webhooks::testing::{Sample, signed_request};
use sendarix_webhooks::{Delivery, EventType, Outcome, Receiver, RefusalKind, SendarixEvent, SendarixLayer};
use tokio::net::TcpListener;
use tower::{Layer, ServiceBuilder, ServiceExt as _, service_fn};

use crate::support::{Connection, PATH, Post, secret, serve};

fn layer() -> SendarixLayer {
    SendarixLayer::new(Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap())
}

/// Answers with the id that the extractor saw and the body that the next extractor read.
async fn on_event(event: SendarixEvent, body: Bytes) -> String {
    assert_eq!(event.body(), &body, "the body is handed on as it was");
    format!("{} {}", event.event_id, body.len())
}

/// A request with a signature is handled, the same one is a duplicate, one without is refused.
async fn assert_protected(addr: SocketAddr) {
    let body = Sample::new(EventType::Delivered).event_id("evt_1").body();
    let mut connection = Connection::open(addr).await;
    let handled = connection.exchange(&Post::signed(&body).bytes()).await;
    assert_eq!((handled.status, handled.body), (200, format!("evt_1 {}", body.len())));
    connection.exchange(&Post::signed(&body).bytes()).await.assert_is(200, "already processed");
    let unsigned = Post::signed(&body).without("x-sendarix-signature");
    connection.exchange(&unsigned.bytes()).await.assert_is(401, "the X-Sendarix-Signature header is missing");
}

#[tokio::test]
async fn on_a_router() {
    let app = Router::new().route(PATH, post(on_event)).layer(layer());
    assert_protected(serve(app).await).await;
}

#[tokio::test]
async fn on_the_routes_of_a_router() {
    let app = Router::new().route(PATH, post(on_event)).route_layer(layer()).fallback(|| async { "open" });
    let addr = serve(app).await;
    assert_protected(addr).await;
    let elsewhere = Connection::open(addr).await.exchange(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!((elsewhere.status, elsewhere.body.as_str()), (200, "open"));
    let wrong_method = Connection::open(addr).await.exchange(&Post::signed(b"").method("GET").bytes()).await;
    assert_eq!((wrong_method.status, wrong_method.header("allow")), (405, Some("POST")));
}

#[tokio::test]
async fn on_a_method_router() {
    let app = Router::new().route(PATH, post(on_event).layer(layer())).route("/health", get(|| async { "open" }));
    let addr = serve(app).await;
    assert_protected(addr).await;
    let elsewhere = Connection::open(addr).await.exchange(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!((elsewhere.status, elsewhere.body.as_str()), (200, "open"));
}

#[tokio::test]
async fn in_a_service_builder_between_other_middleware() {
    async fn pass(request: Request, next: Next) -> Response {
        next.run(request).await
    }
    let stack = ServiceBuilder::new().layer(from_fn(pass)).layer(layer()).layer(from_fn(pass));
    let app = Router::new().route(PATH, post(on_event).layer(stack));
    assert_protected(serve(app).await).await;
}

#[tokio::test]
async fn around_a_whole_router() {
    let app = layer().layer(Router::new().route(PATH, post(on_event)));
    let app = ServiceExt::<Request>::into_make_service(app);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    assert_protected(addr).await;
}

#[tokio::test]
async fn on_plain_hyper() {
    let handler = service_fn(|request: Request<Full<Bytes>>| async move {
        let event = request.extensions().get::<Delivery>().unwrap().take().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(on_event(event, body).await))))
    });
    let service = layer().request_body::<Full<Bytes>>().layer(handler);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone().map_request(|request: Request<Incoming>| request));
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(stream), service).await
            });
        }
    });
    assert_protected(addr).await;
}

#[tokio::test]
async fn the_body_can_be_extracted_in_any_way() {
    let app = Router::new().route(
        PATH,
        post(|event: SendarixEvent, Json(json): Json<serde_json::Value>| async move {
            assert_eq!(json["event_id"], event.event_id.as_str());
            "equal"
        })
        .layer(layer()),
    );
    let body = Sample::new(EventType::Click).body();
    let reply = Connection::open(serve(app).await).await.exchange(&Post::signed(&body).bytes()).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "equal"));
}

/// Nothing signs that header, and the signed bytes have been read as JSON.
#[tokio::test]
async fn a_content_encoding_is_not_handed_on() {
    let handler =
        |_: SendarixEvent, headers: HeaderMap| async move { format!("{}", headers.contains_key("content-encoding")) };
    let app = Router::new().route(PATH, post(handler).layer(layer()));
    let request = Post::signed(&Sample::new(EventType::Click).body()).with("content-encoding", "gzip");
    let reply = Connection::open(serve(app).await).await.exchange(&request.bytes()).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "false"));
}

#[tokio::test]
async fn a_handler_without_the_layer_answers_500_and_names_nothing() {
    let app = Router::new().route(PATH, post(on_event));
    let body = Sample::new(EventType::Click).body();
    let reply = Connection::open(serve(app).await).await.exchange(&Post::signed(&body).bytes()).await;
    assert_eq!((reply.status, reply.body.as_str()), (500, "misconfigured"));
}

#[tokio::test]
async fn outer_layers_see_the_outcome() {
    let service = layer().layer(service_fn(|request: Request| async move {
        request.extensions().get::<Delivery>().unwrap().take();
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let request = || signed_request::<Body>(&secret(), PATH, Sample::new(EventType::Open).event_id("evt_1").body());
    let mut forged = request();
    forged.headers_mut().insert("x-sendarix-signature", "0".repeat(64).parse().unwrap());
    let response = service.clone().oneshot(forged).await.unwrap();
    assert_eq!(response.extensions().get(), Some(&Outcome::Unauthenticated));
    assert_eq!(response.extensions().get(), Some(&RefusalKind::SignatureMismatch));
    let response = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(response.extensions().get(), Some(&Outcome::Processed));
}

#[tokio::test]
async fn twice_on_one_route_is_a_mistake_that_is_named() {
    let layer = layer();
    let app = Router::new().route(PATH, post(on_event).layer(layer.clone())).layer(layer);
    let body = Sample::new(EventType::Open).body();
    let reply = Connection::open(serve(app).await).await.exchange(&Post::signed(&body).bytes()).await;
    assert_eq!((reply.status, reply.body.as_str()), (500, "misconfigured"));
}

/// A service that has no capacity at all.
#[derive(Clone)]
struct NeverReady;

impl tower::Service<Request> for NeverReady {
    type Response = Response;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Response, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), std::io::Error>> {
        std::task::Poll::Ready(Err(std::io::Error::other("no capacity at 10.0.0.7")))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        unreachable!("it was never ready")
    }
}

#[tokio::test]
async fn an_error_of_the_wrapped_service_is_a_failed_delivery() {
    let service = layer().layer(NeverReady);
    for _ in 0..2 {
        let body = Sample::new(EventType::Open).event_id("evt_1").body();
        let response = service.clone().oneshot(signed_request::<Body>(&secret(), PATH, body)).await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(response.extensions().get(), Some(&Outcome::Failed));
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "not processed; deliver again");
    }
}
