//! What the servers of `src/bin` have in common: their command line, their log, and the line for an event.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;

use clap::Parser;
use sendarix_webhooks::{HandlerError, SendarixEvent, SigningSecrets};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub const PATH: &str = "/webhooks/sendarix";

/// Reads the command line, and sends the log to standard error. `RUST_LOG` chooses what is logged.
pub fn options<O: Parser>() -> O {
    let options = O::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    options
}

/// The secrets from the environment. Says where the server listens.
pub fn secrets(listening: SocketAddr) -> anyhow::Result<SigningSecrets> {
    let secrets = SigningSecrets::from_env()?;
    self::listening(listening);
    Ok(secrets)
}

/// Says where the server listens.
pub fn listening(addr: SocketAddr) {
    eprintln!("listening on http://{addr}{PATH}");
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
