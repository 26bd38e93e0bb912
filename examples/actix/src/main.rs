//! An actix-web application that receives Sendarix events and prints them.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out cargo run --package actix-example
//! ```
//!
//! It prints a `curl` command that sends a first event. Run that command in another terminal: it is answered 204, and the
//! application prints `delivered: msg_… to user@example.com`. Run it again: the copy is answered 200, and not handled.

use std::net::TcpListener;

use actix_web::{App, HttpServer, web};
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::testing::{Sample, curl};
use sendarix_webhooks::{
    EventKind, EventType, HandlerError, Receiver, SendarixEvent, SendarixMiddleware, SigningSecrets,
};
use tokio::signal::unix::{SignalKind, signal};

async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
    match &event.kind {
        EventKind::Delivered(_) => println!("delivered: {} to {}", event.message_id, event.recipient),
        EventKind::Bounce(bounce) if bounce.is_permanent() => println!("never mail {} again", event.recipient),
        _ => println!("{}: {} to {}", event.type_name(), event.message_id, event.recipient),
    }
    Ok(())
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    // Outside of the closure: a receiver for each worker would remember only what that worker has handled.
    let receiver = Receiver::builder(secrets.clone())
        .dead_letters(FileDeadLetters::open("actix-example.dead-letters.jsonl")?)
        .build()?;
    let draining = receiver.clone();
    let server = HttpServer::new(move || {
        let sendarix = SendarixMiddleware::new(receiver.clone());
        App::new().service(web::resource("/webhooks/sendarix").wrap(sendarix).route(web::post().to(on_event)))
    });

    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address)?;
    let url = format!("http://{}/webhooks/sendarix", listener.local_addr()?);
    println!("listening on {url}\n\n    {}\n", curl(&secrets, &url, &Sample::new(EventType::Delivered)));

    let server = server.listen(listener)?.shutdown_signal(async move {
        terminated().await;
        // New deliveries are answered 503, and every handler runs to its end.
        draining.drain().await;
    });
    // A connection that never sends its request must not hold up the end.
    Ok(server.shutdown_timeout(1).run().await?)
}

/// Waits for Ctrl-C or for SIGTERM, by which systemd, Docker and Kubernetes stop a process.
async fn terminated() {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
