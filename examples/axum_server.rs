//! An axum application that receives Sendarix events and prints them.
//!
//! ```sh
//! cargo run --example axum_server
//! ```
//!
//! Standard output has one line an event, `handled TYPE EVENT_ID MESSAGE_ID RECIPIENT`; everything else goes to
//! standard error. `RUST_LOG` chooses what is logged.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::env;
use std::future::IntoFuture;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::post;
use clap::Parser;
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::verify::SECRET_VARIABLE;
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecret, SigningSecrets};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(args_override_self = true, about = "Receives Sendarix events and prints a line for each")]
struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// The file that keeps events that could not be handled
    #[arg(long, default_value = "axum_server.dead-letters.jsonl", value_name = "PATH")]
    dead_letters: PathBuf,
}

const PATH: &str = "/webhooks/sendarix";

async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
    let [id, message, recipient] = [&event.event_id, &event.message_id, &event.recipient].map(|text| one_word(text));
    let line = format!("handled {} {id} {message} {recipient}", one_word(event.type_name()));
    // Not on this thread: whoever reads the other end of the pipe may be slow. A closed pipe is an error like any other:
    // Sendarix delivers the event again.
    tokio::task::spawn_blocking(move || writeln!(std::io::stdout().lock(), "{line}")).await??;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();

    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
    let dead_letters = FileDeadLetters::open(&options.dead_letters)?;
    let terminated = terminated()?;
    // From here on it is ready, and says so.
    let secrets = secrets(&format!("http://{}{PATH}", listener.local_addr()?))?;
    let receiver = Receiver::builder(secrets).dead_letters(dead_letters).build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route(PATH, post(on_event).layer(layer));

    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        ended = &mut server => ended??,
        () = terminated => {
            // No new connections; then every handler to its end; then a moment for the answers to go out, which a
            // connection that never sends its request must not make longer.
            drop(stop);
            receiver.drain().await;
            drop(tokio::time::timeout(Duration::from_secs(1), server).await);
        }
    }
    // Rather than wait for a line that nobody reads.
    std::process::exit(0)
}

/// The secrets from the environment, or one for this run. Says how to send a first event to the URL.
fn secrets(url: &str) -> anyhow::Result<SigningSecrets> {
    let command = format!("cargo run --example trigger -- all --url {url}");
    if env::var_os(SECRET_VARIABLE).is_some() {
        let secrets = SigningSecrets::from_env()?;
        eprintln!("listening on {url}\n\nSend it a first event from another terminal:\n\n    {command}\n");
        return Ok(secrets);
    }
    let secret = format!("{:032x}", rand::random::<u128>());
    eprintln!("listening on {url}\n\n{SECRET_VARIABLE} is not set, so this run has a secret of its own.");
    eprintln!("Send it a first event from another terminal:\n\n    {SECRET_VARIABLE}={secret} {command}\n");
    Ok(SigningSecret::new(secret)?.into())
}

/// Catches the signals that tell the process to stop, at once, and waits for one of them.
fn terminated() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Keeps a text from being taken for two words or two lines.
fn one_word(text: &str) -> String {
    let escaped =
        |c: char| if c.is_whitespace() || c.is_control() { c.escape_unicode().collect() } else { String::from(c) };
    if text.is_empty() { "-".to_owned() } else { text.chars().map(escaped).collect() }
}
