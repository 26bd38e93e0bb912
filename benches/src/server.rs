//! The bare server that others are measured against.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::MethodRouter;
use sendarix_webhooks::Delivery;
use tokio::net::TcpListener;

/// A handler that does nothing but take the body.
pub async fn on_event(body: Bytes) -> StatusCode {
    if body.is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::OK }
}

/// The same behind the receiver, whose delivery it takes.
pub async fn on_delivery(_: Delivery, body: Bytes) -> StatusCode {
    on_event(body).await
}

/// Serves the route at `/`, on the runtime that this is called on.
pub async fn serve(route: MethodRouter) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", route)).await.unwrap() });
    addr
}
