//! Where the time of an event goes among all that a server does: axum with layers that do more and more of what the
//! receiver does.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench layers
//! ```
//!
//! As in `http`, the server has one thread and the load generator another. Each line but the first is what a
//! request takes more than on the line above.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use axum::routing::post;
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};
use sendarix_webhooks::{Head, Receiver, SendarixEvent, SendarixLayer};
use sendarix_webhooks_benches::load::{TIMED_REQUESTS, load, requests};
use sendarix_webhooks_benches::server::{on_delivery, on_event, serve};
use sendarix_webhooks_benches::{Rounds, secret};
use tokio::runtime::Builder;
use tower::{Layer, Service};

const ROUNDS: usize = 300;

fn main() {
    let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let receiver = || Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap();
    let forgetful = Receiver::builder(secret()).store(Forgetful).dangerously_without_dead_letters().build().unwrap();
    let up_to = |last| post(on_event).layer(UpTo { last, receiver: receiver() });
    let servers = [
        ("a bare handler", post(on_event)),
        ("a layer that collects the body", up_to(Step::Collect)),
        ("judge the head", up_to(Step::Admit)),
        ("verify the signature", up_to(Step::Verify)),
        ("decode the event, and put it into the extensions", up_to(Step::Decode)),
        ("run a delivery, with a store that forgets", post(on_delivery).layer(SendarixLayer::new(forgetful))),
        ("claim and complete in `MemoryStore`", post(on_delivery).layer(SendarixLayer::new(receiver()))),
    ];
    let servers = servers.map(|(name, route)| (name, server.block_on(serve(route))));

    let mut rounds = Rounds::<7>::default();
    for round in 0..ROUNDS {
        let requests = requests(round);
        rounds.add_turns(|server| load(servers[server].1, &requests, std::process::id()).took);
    }
    for (candidate, (name, _)) in servers.into_iter().enumerate() {
        let more = match candidate.checked_sub(1) {
            Some(before) => rounds.more_seconds(candidate, before),
            None => rounds.seconds(candidate),
        };
        println!("  {name:<50}{:>6.2} µs", more * 1e6 / TIMED_REQUESTS as f64);
    }
}

/// Does what the receiver does up to a step, and lets every request through.
#[derive(Clone)]
struct UpTo {
    last: Step,
    receiver: Receiver,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Step {
    Collect,
    Admit,
    Verify,
    Decode,
}

impl<S> Layer<S> for UpTo {
    type Service = Through<S>;

    fn layer(&self, inner: S) -> Through<S> {
        Through { inner, up_to: self.clone() }
    }
}

#[derive(Clone)]
struct Through<S> {
    inner: S,
    up_to: UpTo,
}

impl<S> Service<Request<Body>> for Through<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { mut inner, up_to: UpTo { last, receiver } } = self.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let admitted = (last >= Step::Admit).then(|| {
                let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
                receiver.admit(&Head::new(parts.method.as_str(), headers)).unwrap()
            });
            let body = to_bytes(body, usize::MAX).await.unwrap();
            if let Some(admitted) = admitted.filter(|_| last >= Step::Verify) {
                let verified = admitted.verify(body.clone()).unwrap();
                if last >= Step::Decode {
                    parts.extensions.insert(SendarixEvent::decode(verified.body().clone()).unwrap());
                }
            }
            inner.call(Request::from_parts(parts, body.into())).await
        })
    }
}

/// Grants every claim.
#[derive(Debug)]
struct Forgetful;

impl DedupStore for Forgetful {
    fn claim<'a>(&'a self, _: &'a EventKey, _: ClaimToken, _: Duration) -> StoreFuture<'a, Claim> {
        StoreFuture::ready(Ok(Claim::Granted { attempt: 1 }))
    }

    fn complete<'a>(&'a self, _: &'a EventKey, _: ClaimToken, _: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(true))
    }

    fn release<'a>(&'a self, _: &'a EventKey, _: ClaimToken) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(true))
    }

    fn give_up<'a>(&'a self, _: &'a EventKey, _: ClaimToken, _: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(true))
    }

    fn reopen<'a>(&'a self, _: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::ready(Ok(()))
    }

    fn is_completed<'a>(&'a self, _: &'a EventKey) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(false))
    }
}
