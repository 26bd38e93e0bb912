//! Requests a second over loopback, keep-alive: a bare handler that reads the body, and the same handler behind the
//! receiver, on axum and on actix-web; and what the vendor's page tells an Express application to do, on Node.js.
//!
//! ```sh
//! npm ci --prefix benches/node
//! cargo bench --package sendarix-webhooks-benches --bench http
//! ```
//!
//! Each server has one thread that handles requests, and the load generator another; how busy the server was is printed,
//! and close to 100 % it is the server that is measured. The requests are rendered and signed beforehand, every one a new
//! event; all servers get the same bytes. They take turns, and a ratio is the median of the ratios within a round.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use actix_web::{App, HttpResponse, HttpServer, web};
use axum::routing::post;
use sendarix_webhooks::{Delivery, Receiver, SendarixLayer, SendarixMiddleware};
use sendarix_webhooks_benches::Target::AtLeast;
use sendarix_webhooks_benches::load::{CONNECTIONS, TIMED_REQUESTS, load, requests};
use sendarix_webhooks_benches::server::{on_delivery, on_event, serve};
use sendarix_webhooks_benches::{Rounds, SECRET, median, row, secret};
use tokio::runtime::Builder;

const ROUNDS: usize = 150;

async fn on_actix(body: web::Bytes) -> HttpResponse {
    if body.is_empty() { HttpResponse::BadRequest().finish() } else { HttpResponse::Ok().finish() }
}

fn main() {
    let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let receiver = || Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap();
    let (for_axum, for_actix) = (receiver(), receiver());
    let node = Node::start();
    let servers = [
        server.block_on(serve(post(on_event))),
        server.block_on(serve(post(on_delivery).layer(SendarixLayer::new(for_axum)))),
        actix(|config| {
            config.service(web::resource("/").route(web::post().to(on_actix)));
        }),
        actix(move |config| {
            let taken = |_: Delivery, body: web::Bytes| on_actix(body);
            let sendarix = SendarixMiddleware::new(for_actix.clone());
            config.service(web::resource("/").wrap(sendarix).route(web::post().to(taken)));
        }),
        node.addr,
    ];

    let mut rounds = Rounds::<5>::default();
    let mut busy_shares = [const { Vec::new() }; 5];
    for round in 0..ROUNDS {
        let requests = requests(round);
        rounds.add_turns(|server| {
            let process = if servers[server] == node.addr { node.process.id() } else { std::process::id() };
            let turn = load(servers[server], &requests, process);
            busy_shares[server].push(turn.server_ran.as_secs_f64() / turn.took.as_secs_f64());
            turn.took
        });
    }

    println!("over loopback, {CONNECTIONS} connections, {TIMED_REQUESTS} requests a turn, {ROUNDS} rounds");
    let names = [
        "axum, bare handler",
        "axum, behind the receiver",
        "actix-web, bare",
        "actix-web, behind",
        "Express on Node.js",
    ];
    for (server, name) in names.into_iter().enumerate() {
        let (rate, busy) = (TIMED_REQUESTS as f64 / rounds.seconds(server), median(busy_shares[server].drain(..)));
        println!("  {name:<32}{rate:>7.0} requests/s, its server busy for {:.0} % of the time", busy * 100.0);
    }
    let handler = "the same handler bare";
    row("requests/s on axum, HTTP/1.1 keep-alive, 32 connections", handler, AtLeast(0.90), rounds.ratio(0, 1));
    row("the same on actix-web", handler, AtLeast(0.90), rounds.ratio(2, 3));
    row("the same on axum", "the vendor's steps in Express on Node.js", AtLeast(15.0), rounds.ratio(4, 1));
}

/// In a thread that runs until the process ends, with its worker.
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

/// `benches/node/server.mjs`, in a separate process, with one thread for JavaScript as always.
struct Node {
    process: Child,
    addr: SocketAddr,
}

impl Node {
    fn start() -> Self {
        let mut process = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/node/server.mjs"))
            .env("SENDARIX_WEBHOOK_SECRET", str::from_utf8(SECRET).unwrap())
            .env("NODE_ENV", "production")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port: u16 = port.trim().parse().expect("a port; has `npm ci --prefix benches/node` been run?");
        Self { process, addr: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
