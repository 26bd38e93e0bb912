//! Sendarix events on AWS Lambda, behind a function URL or an HTTP API.
//!
//! ```sh
//! cargo build --release --package lambda-example   # for the function's target; upload it as `bootstrap`
//! ```
//!
//! Set the function's timeout to 15 s: with its default of 3 s Lambda would stop a slow handler, and its answer. The function
//! needs the variables `SENDARIX_WEBHOOK_SECRET` and `REDIS_URL`. Its instances share nothing else, and end at
//! any time, so events and dead letters are in Redis. An event that is handled is a line in the function's log.

use std::time::Duration;

use lambda_http::{Body, Error, Request, Response, run, service_fn};
use sendarix_webhooks::{Answer, Delivery, HandlerError, Head, Receiver, RedisStore, SigningSecrets};

async fn on_event(delivery: Delivery) -> Result<(), HandlerError> {
    let event = delivery.event();
    println!("{}: {} to {}", event.type_name(), event.message_id, event.recipient);
    Ok(())
}

/// From the request to the answer. `lambda_http` has decoded a body that came as base64: the signature is that of the bytes.
async fn receive(receiver: &Receiver, request: Request) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let admitted = receiver.admit(&Head::new(parts.method.as_str(), headers));
    let answer: Answer = match admitted.and_then(|admitted| admitted.verify(body.to_vec())) {
        Ok(verified) => verified.deliver(on_event).await.into_answer(),
        Err(refusal) => refusal.into(),
    };
    let response = Response::builder().status(answer.status());
    let response = answer.headers().fold(response, |response, (name, value)| response.header(name, &*value));
    Ok(response.body(answer.text().into())?)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(std::io::stderr).init();
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let store = RedisStore::open(&std::env::var("REDIS_URL")?)?;
    // Lambda stops a function once its answer is out. So no handler may run longer than that: the acknowledgement deadline
    // of 9 s, less two store timeouts of 2 s.
    let receiver = Receiver::builder(secrets).store(store).handler_limit(Duration::from_secs(5)).build()?;
    run(service_fn(|request| receive(&receiver, request))).await
}
