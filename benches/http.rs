//! Requests a second over loopback, keep-alive: a bare handler that reads the body, and the same handler behind the
//! receiver, on axum and on actix-web.
//!
//! ```sh
//! cargo bench --bench http
//! ```
//!
//! Each server has one thread and the load generator another. The requests are rendered and signed beforehand, every one
//! a new event; all servers get the same bytes. They take turns, and a ratio is the median of the ratios within a round.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use actix_web::{App, HttpResponse, HttpServer, web};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, post};
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{EventType, Receiver, SendarixLayer, SendarixMiddleware, SigningSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

const ROUNDS: usize = 30;
const CONNECTIONS: usize = 32;
const REQUESTS: usize = 500;

async fn on_axum(body: Bytes) -> StatusCode {
    if body.is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::OK }
}

async fn on_actix(body: web::Bytes) -> HttpResponse {
    if body.is_empty() { HttpResponse::BadRequest().finish() } else { HttpResponse::Ok().finish() }
}

fn main() {
    let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = Builder::new_current_thread().enable_all().build().unwrap();
    let secret = SigningSecret::new("whsec_0123456789abcdef").unwrap();
    let receiver = || Receiver::builder(secret.clone()).build().unwrap();
    let (for_axum, for_actix) = (receiver(), receiver());
    let servers = [
        server.block_on(axum(post(on_axum))),
        server.block_on(axum(post(on_axum).layer(SendarixLayer::new(for_axum)))),
        actix(|config| {
            config.service(web::resource("/").route(web::post().to(on_actix)));
        }),
        actix(move |config| {
            let sendarix = SendarixMiddleware::new(for_actix.clone());
            config.service(web::resource("/").wrap(sendarix).route(web::post().to(on_actix)));
        }),
    ];

    let mut rounds: Vec<[Duration; 4]> = Vec::new();
    for _ in 0..ROUNDS {
        let requests: Arc<Vec<Vec<u8>>> = Arc::new((0..CONNECTIONS * REQUESTS).map(|_| request(&secret)).collect());
        rounds.push(servers.map(|addr| client.block_on(load(addr, &requests))));
    }

    let per_second = |server: usize| {
        median(rounds.iter().map(|round| (CONNECTIONS * REQUESTS) as f64 / round[server].as_secs_f64()))
    };
    println!("over loopback, {CONNECTIONS} connections of {REQUESTS} requests a round, {ROUNDS} rounds");
    for (name, bare, behind) in [("axum", 0, 1), ("actix-web", 2, 3)] {
        println!("  {:<32}{:>7.0} requests/s", format!("{name}, bare handler"), per_second(bare));
        println!("  {:<32}{:>7.0} requests/s", format!("{name}, behind the receiver"), per_second(behind));
        let ratio = median(rounds.iter().map(|round| round[bare].as_secs_f64() / round[behind].as_secs_f64()));
        println!("  {:<32}{ratio:>7.2}", format!("kept of bare {name}"));
    }
}

async fn axum(route: MethodRouter) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", route)).await.unwrap() });
    addr
}

/// In a thread that runs until the process ends, and has a worker of its own.
fn actix(configure: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static) -> SocketAddr {
    let (sender, bound) = mpsc::channel();
    std::thread::spawn(move || {
        let server = HttpServer::new(move || App::new().configure(configure.clone()));
        let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        sender.send(server.addrs()[0]).unwrap();
        actix_web::rt::System::new().block_on(server.run()).unwrap();
    });
    bound.recv().unwrap()
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
