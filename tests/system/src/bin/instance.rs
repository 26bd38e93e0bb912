//! An instance of an application, for tests that kill it: its effect is a line in a file, and at the point that it is told
//! it waits for SIGUSR1. Standard output says what has been handled, and what is recorded as such.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use clap::{Parser, ValueEnum};
use sendarix_webhooks::dead_letter::DeadLetters;
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};
use sendarix_webhooks::{Delivery, HandlerError, Receiver, SendarixLayer};
use sendarix_webhooks_system_tests::{application, serve, store::Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Clone, Parser)]
struct Options {
    #[arg(long)]
    store: Store,
    /// Where effects are written, a line an effect.
    #[arg(long)]
    effects: PathBuf,
    #[arg(long)]
    lease_ms: u64,
    /// Where the first delivery stops.
    #[arg(long)]
    pause_at: Option<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Point {
    Claiming,
    Claimed,
    Handling,
    Handled,
    Completing,
    Completed,
}

impl Options {
    async fn at(&self, point: Point) {
        static PAUSED: AtomicBool = AtomicBool::new(false);
        if self.pause_at == Some(point) && !PAUSED.swap(true, Ordering::SeqCst) {
            let mut resumed = signal(SignalKind::user_defined1()).unwrap();
            println!("paused");
            resumed.recv().await;
        }
    }
}

async fn on_event(State(options): State<Options>, delivery: Delivery) -> Result<(), HandlerError> {
    let event = delivery.event();
    options.at(Point::Handling).await;
    match &*event.recipient {
        "fails at first" if delivery.attempt() == 1 => Err("as asked for")?,
        "fails for good" => return Err(HandlerError::permanent("as asked for")),
        _ => {}
    }
    let mut effects = OpenOptions::new().append(true).open(&options.effects)?;
    effects.write_all(format!("{}\n", event.event_id).as_bytes())?;
    options.at(Point::Handled).await;
    application::print(event).await
}

#[derive(Clone)]
struct Pausing {
    store: Arc<dyn DedupStore>,
    options: Options,
}

impl std::fmt::Debug for Pausing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

impl DedupStore for Pausing {
    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        self.store.dead_letters()
    }

    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        StoreFuture::new(async move {
            self.options.at(Point::Claiming).await;
            let claim = self.store.claim(key, token, lease).await;
            self.options.at(Point::Claimed).await;
            claim
        })
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            self.options.at(Point::Completing).await;
            let completed = self.store.complete(key, token, retention).await;
            if matches!(completed, Ok(true)) {
                println!("completed {}", key.event_id());
            }
            self.options.at(Point::Completed).await;
            completed
        })
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        self.store.release(key, token)
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        self.store.give_up(key, token, retention)
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        self.store.reopen(key)
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        self.store.is_completed(key)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options: Options = application::options();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let terminated = application::terminated()?;
    let secrets = application::secrets(listener.local_addr()?)?;
    let lease = Duration::from_millis(options.lease_ms);
    let store = Pausing { store: options.store.events(), options: options.clone() };
    let receiver = Receiver::builder(secrets)
        .lease(lease)
        .store_timeout((lease / 5).min(Duration::from_secs(2)))
        .handler_limit(lease / 3)
        .store(store)
        .build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route(application::PATH, post(on_event).layer(layer)).with_state(options);
    serve::until(terminated, listener, app, receiver).await
}
