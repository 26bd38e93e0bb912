//! Sendarix events on plain hyper: a `Receiver` wired in by hand, as on any server without an adapter.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out cargo run --package hyper-example
//! ```
//!
//! It prints a `curl` command that sends a first event. Run that command in another terminal, and the application prints the
//! event.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::testing::{Sample, curl};
use sendarix_webhooks::{Answer, Delivery, EventType, HandlerError, Head, Receiver, SigningSecrets};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

async fn on_event(delivery: Delivery) -> Result<(), HandlerError> {
    let event = delivery.event();
    println!("{}: {} to {}", event.type_name(), event.message_id, event.recipient);
    Ok(())
}

/// From the request to the answer. These steps are the same on every server.
async fn receive(receiver: Receiver, request: Request<Incoming>) -> hyper::http::Result<Response<Full<Bytes>>> {
    if request.uri().path() != "/webhooks/sendarix" {
        return Response::builder().status(StatusCode::NOT_FOUND).body(Full::default());
    }
    let (parts, mut body) = request.into_parts();
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let admitted = match receiver.admit(&Head::new(parts.method.as_str(), headers)) {
        Ok(admitted) => admitted,
        Err(refusal) => return unread(refusal.answer(), &receiver, body),
    };
    let bytes = match admitted.read(|cx| poll_data(&mut body, cx)).await {
        Ok(bytes) => bytes,
        Err(refusal) => return unread(refusal.answer(), &receiver, body),
    };
    match admitted.verify(bytes) {
        Ok(verified) => respond(&verified.deliver(on_event).await.into_answer()),
        Err(refusal) => respond(refusal.answer()),
    }
}

fn poll_data(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
    let frame = Pin::new(body).poll_frame(cx);
    frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())))
}

/// Answers before the body was read to its end. To close the connection now would reset it, and a proxy in front would never
/// see the answer.
fn unread(answer: &Answer, receiver: &Receiver, mut body: Incoming) -> hyper::http::Result<Response<Full<Bytes>>> {
    let mut response = respond(answer)?;
    if !body.is_end_stream() {
        response.headers_mut().insert("connection", hyper::header::HeaderValue::from_static("close"));
        receiver.discard(move |cx| poll_data(&mut body, cx)).map(tokio::spawn);
    }
    Ok(response)
}

fn respond(answer: &Answer) -> hyper::http::Result<Response<Full<Bytes>>> {
    let response = Response::builder().status(answer.status());
    let response = answer.headers().fold(response, |response, (name, value)| response.header(name, &*value));
    response.body(Full::from(answer.text()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let letters = FileDeadLetters::open("hyper-example.dead-letters.jsonl")?;
    let receiver = Receiver::builder(secrets.clone()).dead_letters(letters).build()?;

    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    let url = format!("http://{}/webhooks/sendarix", listener.local_addr()?);
    println!("listening on {url}\n\n    {}\n", curl(&secrets, &url, &Sample::new(EventType::Delivered)));

    let mut server = http1::Builder::new();
    // The receiver limits the body. A client may close its sending side once the request is out.
    server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5)).half_close(true);
    let mut terminate = signal(SignalKind::terminate())?; // systemd, Docker, Kubernetes
    let mut interrupt = signal(SignalKind::interrupt())?; // Ctrl-C
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely too many open files, which will pass.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let receiver = receiver.clone();
        let service = service_fn(move |request| receive(receiver.clone(), request));
        tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
    }
    // No new connections, and every handler runs to its end. Then the last answers go out.
    drop(listener);
    receiver.drain().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}
