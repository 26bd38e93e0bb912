//! An actix-web application that receives Sendarix events and prints them.
//!
//! ```sh
//! cargo run --example actix_server
//! ```
//!
//! Standard output has one line an event, `handled TYPE EVENT_ID MESSAGE_ID RECIPIENT`; everything else goes to
//! standard error.

mod shared;

use std::net::TcpListener;

use actix_web::{App, HttpServer, web};
use anyhow::Context;
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixMiddleware};

async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
    shared::print(&event).await
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let options: shared::Options = shared::options();
    let listener = TcpListener::bind(options.listen).with_context(|| format!("listening on {}", options.listen))?;
    let dead_letters = FileDeadLetters::open(&options.dead_letters)?;
    let terminated = shared::terminated()?;
    // From here on it is ready, and says so.
    let secrets = shared::secrets(listener.local_addr()?)?;
    // Once for all workers: one that is built inside of the closure remembers only what its own worker handled.
    let receiver = Receiver::builder(secrets).dead_letters(dead_letters).build()?;
    let draining = receiver.clone();

    let server = HttpServer::new(move || {
        let sendarix = SendarixMiddleware::new(receiver.clone());
        App::new().service(web::resource(shared::PATH).wrap(sendarix).route(web::post().to(on_event)))
    });
    let server = server.listen(listener)?.shutdown_signal(async move {
        // Every handler to its end, and no new ones; then no more connections.
        terminated.await;
        draining.drain().await;
    });
    // A moment for the answers to go out, which a connection that never sends its request must not make longer.
    server.shutdown_timeout(1).run().await?;
    // Rather than wait for a reader that may never come.
    std::process::exit(0)
}
