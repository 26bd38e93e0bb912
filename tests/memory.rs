//! What a flood of forged requests costs: nothing that stays. In a separate process, whose memory it measures.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(target_os = "linux")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, StoreError, StoreFuture};
use sendarix_webhooks::testing::{Sample, signed_request};
use sendarix_webhooks::{EventType, Receiver, SendarixLayer, SigningSecret};
use tower::{Layer, ServiceExt, service_fn};

/// Counts every call, and fails it.
#[derive(Clone, Debug, Default)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn fail<'a, T: Send + 'a>(&self) -> StoreFuture<'a, T> {
        self.0.fetch_add(1, Ordering::SeqCst);
        StoreFuture::new(async { Err(StoreError::new("must not be called")) })
    }
}

impl DedupStore for Counted {
    fn claim<'a>(&'a self, _: &'a EventKey, _: ClaimToken, _: Duration) -> StoreFuture<'a, Claim> {
        self.fail()
    }

    fn complete<'a>(&'a self, _: &'a EventKey, _: ClaimToken, _: Duration) -> StoreFuture<'a, bool> {
        self.fail()
    }

    fn release<'a>(&'a self, _: &'a EventKey, _: ClaimToken) -> StoreFuture<'a, bool> {
        self.fail()
    }

    fn give_up<'a>(&'a self, _: &'a EventKey, _: ClaimToken, _: Duration) -> StoreFuture<'a, bool> {
        self.fail()
    }

    fn reopen<'a>(&'a self, _: &'a EventKey) -> StoreFuture<'a, ()> {
        self.fail()
    }

    fn is_completed<'a>(&'a self, _: &'a EventKey) -> StoreFuture<'a, bool> {
        self.fail()
    }
}

/// The default limit of a body.
const LIMIT: usize = 256 * 1024;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_million_forged_requests_touch_no_store_and_leave_no_memory() {
    let store = Counted::default();
    let secret = SigningSecret::new("a secret for tests").unwrap();
    let receiver =
        Receiver::builder(secret.clone()).store(store.clone()).dangerously_without_dead_letters().build().unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let handler = service_fn(move |_: Request| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    });
    let service = SendarixLayer::new(receiver).layer(handler);

    let thief = SigningSecret::new("not the secret").unwrap();
    let sample = Sample::new(EventType::Bounce).body();
    let forge = |number: usize| {
        let mut body = sample.clone();
        // Another event each time, as of one who hopes to fill a memory of ids.
        let digits = number.to_string();
        let end = body.len() - 1;
        body.splice(end..end, format!(",\"n\":{digits}").bytes());
        match number % 4 {
            0 => signed_request::<Body>(&thief, "/", body),
            1 => {
                let mut request = signed_request::<Body>(&secret, "/", sample.clone());
                *request.body_mut() = body.into();
                request
            }
            2 => {
                let mut request = signed_request::<Body>(&secret, "/", body);
                request.headers_mut().insert("x-sendarix-signature", digits.parse().unwrap());
                request
            }
            _ => {
                let mut request = signed_request::<Body>(&secret, "/", body);
                request.headers_mut().insert("x-sendarix-timestamp", digits.parse().unwrap());
                request
            }
        }
    };
    let mut settled = 0;
    for number in 0..1_000_000 {
        let response = service.clone().oneshot(forge(number)).await.unwrap();
        assert_eq!(response.status(), 401);
        if number == 100_000 {
            settled = resident_bytes();
        }
    }
    // Nor do bodies at the limit and one beyond it.
    for number in 0..400 {
        let (bytes, status) = if number % 2 == 0 { (LIMIT, 401) } else { (LIMIT + 1, 413) };
        let mut request = signed_request::<Body>(&thief, "/", Vec::new());
        *request.body_mut() = vec![b' '; bytes].into();
        assert_eq!(service.clone().oneshot(request).await.unwrap().status(), status);
    }
    let grown = resident_bytes().saturating_sub(settled);
    assert!(grown < 2 * 1024 * 1024, "forged requests left {grown} bytes");
    assert_eq!((handled.load(Ordering::SeqCst), store.0.load(Ordering::SeqCst)), (0, 0));
}
