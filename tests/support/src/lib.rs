//! An endpoint on a real socket, and a client that can say what no well-behaved client says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::missing_panics_doc)]
#![allow(missing_docs, missing_debug_implementations, clippy::missing_errors_doc)]

mod client;
mod fill;
mod front;
mod gate;
mod servers;
mod stores;
mod temp_file;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sendarix_webhooks::inbox::{RedriveError, Redrives};
use sendarix_webhooks::store::EventKey;
use sendarix_webhooks::{Delivery, Outcome, Receiver, ReceiverBuilder, SigningSecret};

pub use self::client::{Client, Connection, Departure, Exchange, Post, Reply};
pub use self::fill::fill;
pub use self::front::{Front, Given, Handler, Returned, Server, Version};
pub use self::gate::Gate;
pub use self::servers::{ActixServer, serve};
pub use self::stores::{FaultyStores, INTERNAL};
pub use self::temp_file::TempFile;

pub const PATH: &str = "/webhooks/sendarix";

/// The longest that a test waits for a condition before it fails. It is well below the default lease of 60 s, whose end
/// would make good what should have been made good before.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub fn secret() -> SigningSecret {
    SigningSecret::new("a secret for tests").unwrap()
}

/// An application with one handler behind the receiver.
pub struct Endpoint {
    pub front: Front,
    pub addr: SocketAddr,
    pub receiver: Receiver,
    handled: Arc<AtomicUsize>,
    /// Stops the server when it is dropped, if that does not run in the test's own runtime.
    _actix: Option<ActixServer>,
}

impl Endpoint {
    pub async fn start<H, F>(
        front: Front,
        configure: impl FnOnce(ReceiverBuilder) -> ReceiverBuilder,
        handler: H,
    ) -> Self
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output: Returned> + Send + 'static,
    {
        Self::of_receiver(
            front,
            configure(Receiver::builder(secret()).dangerously_without_dead_letters()).build().unwrap(),
            handler,
        )
        .await
    }

    /// Over a receiver that exists already.
    pub async fn of_receiver<H, F>(front: Front, receiver: Receiver, handler: H) -> Self
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output: Returned> + Send + 'static,
    {
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        let handler: Handler = Arc::new(move |delivery| {
            count.fetch_add(1, Ordering::SeqCst);
            let handling = handler(delivery);
            Box::pin(async move { handling.await.given() })
        });
        let (addr, actix) = front.server.start(receiver.clone(), handler).await;
        Self { front, addr, receiver, handled, _actix: actix }
    }

    /// An endpoint whose handler succeeds.
    pub async fn succeeding(front: Front) -> Self {
        Self::start(front, |builder| builder, |_| async {}).await
    }

    /// How often the handler was called.
    pub fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }

    pub async fn connect(&self) -> Client {
        Client::open(self.addr, self.front.version).await
    }

    pub async fn post(&self, body: &[u8]) -> Reply {
        self.send(&Post::signed(body)).await
    }

    /// Sends an event until it is not in flight any more, which must be long before its lease is over.
    pub async fn post_until_settled(&self, body: &[u8]) -> Reply {
        let start = Instant::now();
        loop {
            let reply = self.post(body).await;
            if reply.status == 200 {
                return reply;
            }
            reply.assert_is(503, "another delivery of this event is being processed");
            assert!(start.elapsed() < PATIENCE, "in flight for {:?}", start.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn send(&self, post: &Post) -> Reply {
        self.connect().await.send(post).await
    }

    /// Sends a request and does not wait for its answer.
    pub async fn begin(&self, post: &Post) -> Exchange {
        self.connect().await.begin(post).await
    }
}

/// Redrives them all.
pub async fn redrive_all(redrives: Result<Redrives, RedriveError>) -> Vec<(EventKey, Outcome)> {
    let mut redrives = redrives.unwrap();
    let mut outcomes = Vec::new();
    while let Some(redriven) = redrives.next().await.unwrap() {
        outcomes.push((redriven.key, redriven.result.unwrap()));
    }
    outcomes
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
