//! Requests a second over loopback, keep-alive: a bare axum handler that reads `Bytes`, and the same handler behind the
//! layer.
//!
//! ```sh
//! cargo bench --bench http
//! ```
//!
//! The server has one thread and the load generator another. The requests are rendered and signed beforehand, every one
//! a new event; both servers get the same bytes. They take turns, and the ratio is the median of the ratios within a
//! round.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{EventType, Receiver, SendarixLayer, SigningSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

const ROUNDS: usize = 30;
const CONNECTIONS: usize = 32;
const REQUESTS: usize = 500;

async fn handler(body: Bytes) -> StatusCode {
    if body.is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::OK }
}

fn main() {
    let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = Builder::new_current_thread().enable_all().build().unwrap();
    let secret = SigningSecret::new("whsec_0123456789abcdef").unwrap();
    let receiver = Receiver::builder(secret.clone()).build().unwrap();
    let bare = server.block_on(serve(post(handler)));
    let layered = server.block_on(serve(post(handler).layer(SendarixLayer::new(receiver))));

    let mut rounds: Vec<[Duration; 2]> = Vec::new();
    for _ in 0..ROUNDS {
        let requests: Arc<Vec<Vec<u8>>> = Arc::new((0..CONNECTIONS * REQUESTS).map(|_| request(&secret)).collect());
        rounds.push([bare, layered].map(|addr| client.block_on(load(addr, &requests))));
    }

    let per_second = |server: usize| {
        median(rounds.iter().map(|round| (CONNECTIONS * REQUESTS) as f64 / round[server].as_secs_f64()))
    };
    println!("axum over loopback, {CONNECTIONS} connections of {REQUESTS} requests a round, {ROUNDS} rounds");
    println!("  bare handler                    {:>7.0} requests/s", per_second(0));
    println!("  the same behind the layer       {:>7.0} requests/s", per_second(1));
    let ratio = median(rounds.iter().map(|round| round[0].as_secs_f64() / round[1].as_secs_f64()));
    println!("  kept of bare axum               {ratio:>7.2}");
}

async fn serve(route: axum::routing::MethodRouter) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", route)).await.unwrap() });
    addr
}

fn request(secret: &SigningSecret) -> Vec<u8> {
    let body = Sample::new(EventType::Bounce).body();
    let mut request = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".to_vec();
    for (name, value) in signed_headers(secret, &body, SystemTime::now()) {
        request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(&body);
    request
}

async fn load(addr: SocketAddr, requests: &Arc<Vec<Vec<u8>>>) -> Duration {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        connections.push(stream);
    }
    let start = Instant::now();
    let mut senders = JoinSet::new();
    for (connection, mut stream) in connections.into_iter().enumerate() {
        let requests = Arc::clone(requests);
        senders.spawn(async move {
            let mut answer = [0; 1024];
            for request in &requests[connection * REQUESTS..][..REQUESTS] {
                stream.write_all(request).await.unwrap();
                // The answer is small and has no body: it comes in one piece.
                let read = stream.read(&mut answer).await.unwrap();
                assert!(answer.starts_with(b"HTTP/1.1 200") && answer[..read].ends_with(b"\r\n\r\n"));
            }
        });
    }
    senders.join_all().await;
    start.elapsed()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
