//! An endpoint on a real socket, and a client that can say what no well-behaved client says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::any;
use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetterError, DeadLetterFuture, DeadLetters};
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore, StoreError, StoreFuture};
use sendarix_webhooks::testing::signed_headers;
use sendarix_webhooks::{Delivery, Receiver, ReceiverBuilder, SendarixLayer, SigningSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const PATH: &str = "/webhooks/sendarix";

/// The longest that a test waits for a condition before it fails. It is well below the default lease of 60 s, whose end
/// would make good what should have been made good before.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub fn secret() -> SigningSecret {
    SigningSecret::new("a secret for tests").unwrap()
}

/// An axum application with one route behind the layer.
pub struct Endpoint {
    pub addr: SocketAddr,
    pub receiver: Receiver,
    handled: Arc<AtomicUsize>,
}

impl Endpoint {
    pub async fn start<H, F, R>(configure: impl FnOnce(ReceiverBuilder) -> ReceiverBuilder, handler: H) -> Self
    where
        H: Fn(Delivery) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = R> + Send + 'static,
        R: IntoResponse + 'static,
    {
        let receiver = configure(Receiver::builder(secret())).build().unwrap();
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        let on_event = move |delivery: Delivery| {
            count.fetch_add(1, Ordering::SeqCst);
            handler(delivery)
        };
        let layer = SendarixLayer::new(receiver.clone());
        let app = Router::new().route(PATH, any(on_event).layer(layer));
        Self { addr: serve(app).await, receiver, handled }
    }

    /// An endpoint whose handler succeeds.
    pub async fn succeeding() -> Self {
        Self::start(|builder| builder, |_| async {}).await
    }

    /// How often the handler was called.
    pub fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
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
        Connection::open(self.addr).await.exchange(&post.bytes()).await
    }
}

/// Serves an application on a free port until the test's runtime ends.
pub async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    addr
}

/// A request, to be bent in every direction.
#[derive(Clone)]
pub struct Post {
    pub method: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Post {
    /// As Sendarix would send it now.
    pub fn signed(body: &[u8]) -> Self {
        let mut post = Self { method: "POST".to_owned(), headers: Vec::new(), body: body.to_vec() };
        post = post.with("host", "localhost").with("content-type", "application/json");
        for (name, value) in signed_headers(&secret(), body, SystemTime::now()) {
            post = post.with(name, value);
        }
        post.with("content-length", body.len().to_string())
    }

    pub fn method(self, method: &str) -> Self {
        Self { method: method.to_owned(), ..self }
    }

    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(header, _)| header != name);
        self
    }

    pub fn replacing(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.without(name).with(name, value)
    }

    pub fn head(&self) -> Vec<u8> {
        let mut bytes = format!("{} {PATH} HTTP/1.1\r\n", self.method).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.body.clone()].concat()
    }
}

/// A bare HTTP/1.1 connection.
///
/// It keeps what it has read of the next answer, for requests that are sent without waiting.
pub struct Connection(pub TcpStream, Vec<u8>);

impl Connection {
    pub async fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream, Vec::new())
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    pub async fn exchange(&mut self, request: &[u8]) -> Reply {
        // A server that refuses early may stop reading before everything is written.
        let _ = self.0.write_all(request).await;
        self.read_answer(request.starts_with(b"HEAD ")).await
    }

    pub async fn read(&mut self) -> Reply {
        self.read_answer(false).await
    }

    async fn read_answer(&mut self, to_head: bool) -> Reply {
        let read = tokio::time::timeout(PATIENCE, self.try_read(to_head)).await;
        read.expect("an answer in time").expect("an answer before the end of the connection")
    }

    async fn try_read(&mut self, to_head: bool) -> Option<Reply> {
        // What has been read stays, should this be cancelled.
        let Self(stream, bytes) = self;
        let head_end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(bytes).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, length)| if to_head { 0 } else { length.parse().unwrap() });
        while bytes.len() < head_end + length {
            if stream.read_buf(bytes).await.ok()? == 0 {
                return None;
            }
        }
        let rest = bytes.split_off(head_end + length);
        let body = String::from_utf8(bytes.split_off(head_end)).unwrap();
        *bytes = rest;
        Some(Reply { status, headers, body })
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Asserts that this is an answer of the receiver itself: one short line of plain text.
    #[track_caller]
    pub fn assert_is(&self, status: u16, text: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, text));
        assert_eq!(self.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(text.len() < 80 && !text.contains('\n'));
    }

    /// Asserts that the sender is asked to come again, within so many seconds.
    #[track_caller]
    pub fn assert_retry_within(&self, seconds: u64) {
        let retry_after: u64 = self.header("retry-after").expect("a Retry-After header").parse().unwrap();
        assert!((1..=seconds).contains(&retry_after), "Retry-After: {retry_after}");
    }
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Both stores in one, to be broken from outside and counted.
#[derive(Clone, Debug, Default)]
pub struct FaultyStores(Arc<Faults>);

#[derive(Debug, Default)]
struct Faults {
    memory: MemoryStore,
    letters: std::sync::Mutex<std::collections::BTreeMap<EventKey, DeadLetter>>,
    pub claims_fail: AtomicBool,
    pub claims_hang: AtomicBool,
    pub claim_replies_lost: AtomicBool,
    pub completions_fail: AtomicBool,
    pub letters_fail: AtomicBool,
    pub calls: AtomicUsize,
}

macro_rules! switches {
    ($($name:ident),*) => { impl FaultyStores { $(
        pub fn $name(&self, on: bool) {
            self.0.$name.store(on, Ordering::SeqCst);
        }
    )* } };
}
switches!(claims_fail, claims_hang, claim_replies_lost, completions_fail, letters_fail);

impl FaultyStores {
    /// How often any of them was asked for anything.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    pub fn letters(&self) -> Vec<DeadLetter> {
        self.0.letters.lock().unwrap().values().cloned().collect()
    }

    fn is(&self, switch: &AtomicBool) -> bool {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        switch.load(Ordering::SeqCst)
    }
}

/// An error whose text must never reach a sender.
pub const INTERNAL: &str = "postgres://user:password@10.0.0.7 refused";

impl DedupStore for FaultyStores {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        Box::pin(async move {
            if self.0.claims_hang.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.is(&self.0.claims_fail) {
                return Err(StoreError::new(INTERNAL));
            }
            let claim = self.0.memory.claim(key, token, lease).await;
            if self.0.claim_replies_lost.load(Ordering::SeqCst) { Err(StoreError::new(INTERNAL)) } else { claim }
        })
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            if self.is(&self.0.completions_fail) {
                return Err(StoreError::new(INTERNAL));
            }
            self.0.memory.complete(key, token, retention).await
        })
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        self.0.memory.release(key, token)
    }
}

impl DeadLetters for FaultyStores {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> DeadLetterFuture<'a, ()> {
        Box::pin(async move {
            if self.is(&self.0.letters_fail) {
                return Err(DeadLetterError::new(INTERNAL));
            }
            let mut letters = self.0.letters.lock().unwrap();
            let mut letter = letter.clone();
            if let Some(earlier) = letters.get(&letter.key) {
                letter.first_at = earlier.first_at.min(letter.first_at);
                letter.attempts = earlier.attempts.max(letter.attempts);
            }
            letters.insert(letter.key.clone(), letter);
            Ok(())
        })
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> DeadLetterFuture<'a, ()> {
        Box::pin(async move {
            self.0.letters.lock().unwrap().remove(key);
            Ok(())
        })
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> DeadLetterFuture<'a, Option<DeadLetter>> {
        Box::pin(async move { Ok(self.0.letters.lock().unwrap().get(key).cloned()) })
    }
}
