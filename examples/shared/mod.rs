//! What the example servers have in common: their flags, their log, a secret for a first try, and the line for an event.

#![allow(clippy::print_stderr, unreachable_pub)]

use std::env;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Parser;
use sendarix_webhooks::verify::SECRET_VARIABLE;
use sendarix_webhooks::{HandlerError, SendarixEvent, SigningSecret, SigningSecrets};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub const PATH: &str = "/webhooks/sendarix";

#[derive(Parser)]
#[command(args_override_self = true, about = "Receives Sendarix events and prints a line for each")]
pub struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// The file that keeps events that could not be handled
    #[arg(long, default_value = concat!(env!("CARGO_BIN_NAME"), ".dead-letters.jsonl"), value_name = "PATH")]
    pub dead_letters: PathBuf,
}

/// Reads the command line, and sends the log to standard error. `RUST_LOG` chooses what is logged.
pub fn options<O: Parser>() -> O {
    let options = O::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    options
}

/// The secrets from the environment, or one for this run. Says how to send a first event to the server.
pub fn secrets(listening: SocketAddr) -> anyhow::Result<SigningSecrets> {
    let url = format!("http://{listening}{PATH}");
    let command = format!("cargo run --example trigger -- all --url {url}");
    if env::var_os(SECRET_VARIABLE).is_some() {
        let secrets = SigningSecrets::from_env()?;
        eprintln!("listening on {url}\n\nSend it a first event from another terminal:\n\n    {command}\n");
        return Ok(secrets);
    }
    let secret = format!("{:032x}", rand::random::<u128>());
    eprintln!("listening on {url}\n\n{SECRET_VARIABLE} is not set, so this run uses a new one.");
    eprintln!("Send it a first event from another terminal:\n\n    {SECRET_VARIABLE}={secret} {command}\n");
    Ok(SigningSecret::new(secret)?.into())
}

/// Catches the signals that tell the process to stop, at once, and waits for one of them. The next one ends the process
/// whatever is still under way.
pub fn terminated() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut signalled = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(async move {
        signalled().await;
        tokio::spawn(async move {
            signalled().await;
            std::process::exit(1);
        });
    })
}

/// Prints one line, `handled TYPE EVENT_ID MESSAGE_ID RECIPIENT`.
pub async fn print(event: &SendarixEvent) -> Result<(), HandlerError> {
    let [id, message, recipient] = [&event.event_id, &event.message_id, &event.recipient].map(|text| one_word(text));
    let line = format!("handled {} {id} {message} {recipient}\n", one_word(event.type_name()));
    // Not on this thread: the reader of the pipe may be slow. A closed pipe is an error like any other:
    // Sendarix delivers the event again. Without std's buffer, which would keep the line and write it later all the same.
    let write = move || File::from(std::io::stdout().as_fd().try_clone_to_owned()?).write_all(line.as_bytes());
    tokio::task::spawn_blocking(write).await??;
    Ok(())
}

/// Keeps a text from being taken for two words or two lines.
fn one_word(text: &str) -> String {
    let escaped =
        |c: char| if c.is_whitespace() || c.is_control() { c.escape_unicode().collect() } else { String::from(c) };
    if text.is_empty() { "-".to_owned() } else { text.chars().map(escaped).collect() }
}
