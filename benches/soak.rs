//! A campaign: 10,000 events a minute from a simulated Sendarix that loses 5 % of the answers.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench soak -- --minutes 10
//! ```
//!
//! Sender and server share this machine. Retries come 60 times faster than on Sendarix's schedule, so that the last of them
//! are part of it. Fails if an event was lost or handled twice, or if one answer in a hundred took 50 ms.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use clap::Parser;
use sendarix_webhooks::testing::{Sample, SimulatedRequest, Simulation};
use sendarix_webhooks::{EventType, HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecret};
use tokio::net::TcpListener;

const PER_MINUTE: usize = 10_000;
/// Events of a campaign begin together.
const BURST: usize = 50;
const LOST_ANSWERS: f64 = 0.05;
const DUPLICATES: f64 = 0.01;
const COMPRESSION: f64 = 60.0;
const SHARE: f64 = 0.99;
const LONGEST: Duration = Duration::from_millis(50);

#[derive(Parser)]
struct Options {
    /// For how long events begin
    #[arg(long, default_value_t = 1)]
    minutes: usize,
    /// As cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

type Effects = Arc<Mutex<HashMap<String, usize>>>;

async fn on_event(State(effects): State<Effects>, event: SendarixEvent) -> Result<(), HandlerError> {
    *effects.lock().unwrap().entry(event.event_id.clone()).or_default() += 1;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let secret = SigningSecret::new("whsec_0123456789abcdef").unwrap();
    let receiver = Receiver::builder(secret.clone()).dangerously_without_dead_letters().build().unwrap();
    let effects = Effects::default();
    let layer = SendarixLayer::new(receiver);
    let app = Router::new().route("/", post(on_event).layer(layer)).with_state(Arc::clone(&effects));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await.unwrap() });

    let client = reqwest::Client::new();
    let send = move |request: SimulatedRequest| {
        let post = client.post(&url).body(request.body);
        let post = request.headers.into_iter().fold(post, |post, (name, value)| post.header(name, value));
        async move { Ok::<u16, reqwest::Error>(post.send().await?.status().as_u16()) }
    };
    let bodies = (0..options.minutes * PER_MINUTE).map(|number| {
        let types = EventType::ALL;
        Sample::new(*types.iter().cycle().nth(number % types.len()).unwrap()).body()
    });
    let simulation = Simulation::new(secret)
        .compress(COMPRESSION)
        .jitter(0.1)
        .lose_answers(LOST_ANSWERS)
        .duplicate(DUPLICATES)
        .pace(PER_MINUTE as f64 / 60.0, BURST)
        .connections(64);
    let ledger = simulation.run(bodies, send).await;

    let effects = effects.lock().unwrap();
    let lost = ledger.events().iter().filter(|event| !effects.contains_key(&event.event_id)).count();
    let doubled = effects.values().filter(|count| **count > 1).count();
    println!("{ledger}");
    let p99 = ledger.answer_time(SHARE).unwrap_or_default();
    println!(
        "lost {lost}, doubled {doubled}, p99 {p99:?} of at most {LONGEST:?}, from a free connection to the answer"
    );
    if lost + doubled == 0 && p99 <= LONGEST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
