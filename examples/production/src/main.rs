//! An axum application for the open Internet, or behind a proxy that sets no limits: axum on hyper, with the limits that
//! `axum::serve` does not set.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=… cargo run --release --package production-example
//! ```
//!
//! It listens at `LISTEN`, else at `127.0.0.1:3000`, and prints a line for each event that it has handled. Send it some with
//! `sendarix trigger` (`cargo install --path cli`). `cargo bench --package sendarix-webhooks-benches --bench hostile` attacks it.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header::CONNECTION};
use axum::{Router, middleware::map_response, response::Response, routing::post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecrets};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

/// A connection costs memory. More of them wait in the system's queue until others end.
const MAX_CONNECTIONS: usize = 12_000;

/// How long a connection may take for the head of its next request, or be idle. Longer than a proxy in front keeps its own
/// connections, or that would send requests into closed ones.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may leave an answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The head of a request, and what is read ahead of its body. hyper allows 400 KiB by itself.
const MAX_BUFFER: usize = 16 * 1024;

async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
    println!("{}: {} to {}", event.type_name(), event.message_id, event.recipient);
    Ok(())
}

/// A sender that is refused has to connect again: else a request that costs nothing would keep its place, and unread answers to
/// many of them would pile up in memory.
async fn close_after_refusal(mut response: Response) -> Response {
    let status = response.status();
    if !status.is_success() && status != StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let receiver = Receiver::builder(secrets)
        .dead_letters(FileDeadLetters::open("production-example.dead-letters.jsonl")?)
        .build()?;
    let app = Router::new().route("/webhooks/sendarix", post(on_event).layer(SendarixLayer::new(receiver.clone())));
    let service = TowerToHyperService::new(app.layer(map_response(close_after_refusal)));

    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("listening on http://{}/webhooks/sendarix", listener.local_addr()?);

    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_BUFFER);
    // A client may close its sending side once the request is out. hyper would then drop the request, unnoticed.
    server.half_close(true);
    let (connections, places) = (GracefulShutdown::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let mut terminate = signal(SignalKind::terminate())?; // systemd, Docker, Kubernetes
    let mut interrupt = signal(SignalKind::interrupt())?; // Ctrl-C
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            listener.accept().await.map(|(stream, _)| (stream, place))
        };
        let (stream, place) = tokio::select! {
            accepted = accept => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most likely too many open files, which will pass.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        // An answer is one small packet, and should not wait for more.
        stream.set_nodelay(true).ok();
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let connection = connections.watch(server.serve_connection(TokioIo::new(Box::pin(stream)), service.clone()));
        tokio::spawn(async move {
            // A connection that breaks off is its client's affair.
            connection.await.ok();
            drop(place);
        });
    }
    // No new connections; on those that there are, deliveries are answered 503; and every handler runs to its end. Then the last
    // answers go out.
    drop(listener);
    receiver.drain().await;
    timeout(Duration::from_secs(1), connections.shutdown()).await.ok();
    Ok(())
}
