//! A server that has no adapter, plain hyper, with a [`Receiver`] wired into it by hand.
//!
//! ```sh
//! cargo run --example hyper_server
//! ```
//!
//! Standard output has one line an event, `handled TYPE EVENT_ID MESSAGE_ID RECIPIENT`; everything else goes to
//! standard error.

mod shared;

use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::Context;
use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::{Answer, Delivery, HandlerError, Head, Receiver};
use tokio::net::TcpListener;

async fn on_event(delivery: Delivery) -> Result<(), HandlerError> {
    shared::print(delivery.event()).await
}

/// From the request to the answer. These are the steps on every server; only the types are hyper's.
async fn receive(receiver: &Receiver, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, mut body) = request.into_parts();
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let admitted = match receiver.admit(&Head::new(parts.method.as_str(), headers)) {
        Ok(admitted) => admitted,
        Err(refusal) => return unread(response(refusal.answer()), receiver, body),
    };
    let bytes = match admitted.read(|cx| poll_data(&mut body, cx)).await {
        Ok(bytes) => bytes,
        Err(refusal) => return unread(response(refusal.answer()), receiver, body),
    };
    let verified = match admitted.verify(bytes) {
        Ok(verified) => verified,
        Err(refusal) => return response(refusal.answer()),
    };
    response(&verified.deliver(on_event).await.into_answer())
}

fn poll_data(body: &mut Incoming, cx: &mut task::Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
    let frame = Pin::new(body).poll_frame(cx);
    frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())))
}

/// The answer to a request whose body has not been read to its end. To close the connection now would reset it, and a proxy
/// would never see the answer.
fn unread(mut response: Response<Full<Bytes>>, receiver: &Receiver, mut body: Incoming) -> Response<Full<Bytes>> {
    if !body.is_end_stream() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        receiver.discard(move |cx| poll_data(&mut body, cx)).map(tokio::spawn);
    }
    response
}

fn response(answer: &Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.text()));
    *response.status_mut() = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in answer.headers() {
        response
            .headers_mut()
            .extend(HeaderValue::from_str(&value).map(|value| (HeaderName::from_static(name), value)));
    }
    response
}

async fn serve(receiver: Receiver, request: Request<Incoming>) -> http::Result<Response<Full<Bytes>>> {
    if request.uri().path() != shared::PATH {
        return Response::builder().status(StatusCode::NOT_FOUND).body(Full::default());
    }
    Ok(receive(&receiver, request).await)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options: shared::Options = shared::options();
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
    let dead_letters = FileDeadLetters::open(&options.dead_letters)?;
    let terminated = shared::terminated()?;
    // From here on it is ready, and says so.
    let secrets = shared::secrets(listener.local_addr()?)?;
    let receiver = Receiver::builder(secrets).dead_letters(dead_letters).build()?;

    let (mut server, connections) = (Builder::new(TokioExecutor::new()).http1_only(), GracefulShutdown::new());
    // How long the head of a request may take, which the receiver cannot limit; of the body it does. Telling HTTP/2 by its
    // first bytes would have no limit.
    server.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5));
    // A client may close its sending side once the request is out. hyper would then drop the request, unnoticed.
    server.http1().half_close(true);
    tokio::pin!(terminated);
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
            () = &mut terminated => break,
        };
        let receiver = receiver.clone();
        let service = service_fn(move |request| serve(receiver.clone(), request));
        let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
        tokio::spawn(connections.watch(connection));
    }
    // No new connections; then every handler to its end; then a moment for the answers to go out, which a connection
    // that never sends its request must not make longer.
    drop(listener);
    receiver.drain().await;
    drop(tokio::time::timeout(Duration::from_secs(1), connections.shutdown()).await);
    // Rather than wait for a reader that may never come.
    std::process::exit(0)
}
