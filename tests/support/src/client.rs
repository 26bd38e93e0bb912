//! A client that can say what no well-behaved client says, over HTTP/1.1 and HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use axum::body::Bytes;
use axum::http::{Request, Response, Version as HttpVersion};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sendarix_webhooks::SigningSecret;
use sendarix_webhooks::testing::signed_headers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{PATH, PATIENCE, Version, secret};

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
        Self::signed_by(&secret(), body)
    }

    pub fn signed_by(secret: &SigningSecret, body: &[u8]) -> Self {
        let mut post = Self { method: "POST".to_owned(), headers: Vec::new(), body: body.to_vec() };
        post = post.with("host", "localhost").with("content-type", "application/json");
        for (name, value) in signed_headers(secret, body, SystemTime::now()) {
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

    /// The head alone, in HTTP/1.1.
    pub fn head(&self) -> Vec<u8> {
        let mut bytes = format!("{} {PATH} HTTP/1.1\r\n", self.method).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// All of it, in HTTP/1.1.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.body.clone()].concat()
    }

    /// The same request with its body in pieces of this many bytes, in HTTP/1.1.
    pub fn chunked(&self, size: usize) -> Self {
        let post = self.clone().without("content-length").with("transfer-encoding", "chunked");
        let chunk = |chunk: &[u8]| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
        let body = self.body.chunks(size).flat_map(chunk).chain(*b"0\r\n\r\n").collect();
        Self { body, ..post }
    }
}

/// A connection to a server.
pub enum Client {
    Http1(Connection),
    Http2(Http2),
}

impl Client {
    pub async fn open(addr: SocketAddr, version: Version) -> Self {
        match version {
            Version::Http1 => Self::Http1(Connection::open(addr).await),
            Version::Http2 => Self::Http2(Http2::open(addr).await),
        }
    }

    /// Sends a request and waits for its answer.
    pub async fn send(&mut self, post: &Post) -> Reply {
        match self {
            Self::Http1(connection) => connection.exchange(&post.bytes()).await,
            Self::Http2(connection) => connection.begin(post).finish().reply().await.expect("an answer"),
        }
    }

    /// Sends many requests without waiting, and then waits for their answers: pipelined, or each in its stream.
    pub async fn send_all(&mut self, posts: &[Post]) -> Vec<Reply> {
        let mut replies = Vec::new();
        match self {
            Self::Http1(connection) => {
                connection.write(&posts.iter().map(Post::bytes).collect::<Vec<_>>().concat()).await;
                for _ in posts {
                    replies.push(connection.read().await);
                }
            }
            Self::Http2(connection) => {
                let begun: Vec<Http2Exchange> = posts.iter().map(|post| connection.begin(post).finish()).collect();
                for mut exchange in begun {
                    replies.push(exchange.reply().await.expect("an answer"));
                }
            }
        }
        replies
    }

    /// Sends a request and does not wait for its answer.
    pub async fn begin(self, post: &Post) -> Exchange {
        let mut exchange = self.begin_open(post).await;
        exchange.finish();
        exchange
    }

    /// Sends the head of a request and what body it has, and leaves the body open.
    pub async fn begin_open(self, post: &Post) -> Exchange {
        match self {
            Self::Http1(mut connection) => {
                connection.write(&post.bytes()).await;
                Exchange::Http1(connection)
            }
            Self::Http2(mut connection) => {
                let exchange = connection.begin(post);
                Exchange::Http2(connection, exchange)
            }
        }
    }

    /// Sends a body in pieces of this many bytes, without telling its length.
    pub async fn send_in_pieces(self, post: &Post, size: usize) -> Reply {
        match self {
            Self::Http1(mut connection) => connection.exchange(&post.chunked(size).bytes()).await,
            Self::Http2(mut connection) => {
                let head = Post { body: Vec::new(), ..post.clone().without("content-length") };
                let exchange = connection.begin(&head);
                post.body.chunks(size).for_each(|piece| exchange.write(piece));
                exchange.finish().reply().await.expect("an answer")
            }
        }
    }
}

/// How a client goes away in the middle.
#[derive(Clone, Copy, Debug)]
pub enum Departure {
    /// It closes the connection.
    Closed,
    /// It resets the connection, or in HTTP/2 the one stream.
    Reset,
}

impl Departure {
    pub const ALL: [Self; 2] = [Self::Closed, Self::Reset];
}

/// A request under way.
pub enum Exchange {
    Http1(Connection),
    Http2(Http2, Http2Exchange),
}

impl Exchange {
    /// Sends more of the body. The server may have stopped reading.
    pub async fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Http1(connection) => drop(connection.0.write_all(bytes).await),
            Self::Http2(_, exchange) => exchange.write(bytes),
        }
    }

    /// The body is complete.
    pub fn finish(&mut self) {
        if let Self::Http2(_, exchange) = self {
            exchange.body = None;
        }
    }

    /// Waits for the answer. Nothing is lost if this is dropped before its end.
    pub async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("an answer")
    }

    /// Waits for the answer, or for the end of the request without one.
    pub async fn try_reply(&mut self) -> Option<Reply> {
        match self {
            Self::Http1(connection) => connection.try_read().await,
            Self::Http2(_, exchange) => exchange.reply().await,
        }
    }

    /// Ends the body before it is complete, without going away.
    pub async fn break_off(&mut self) {
        match self {
            Self::Http1(connection) => connection.0.shutdown().await.unwrap(),
            Self::Http2(_, exchange) => {
                exchange.body.take().unwrap().send(Err(io::Error::other("broken off"))).unwrap();
            }
        }
    }

    /// Goes away without waiting for the answer.
    pub async fn leave(self, departure: Departure) {
        match (self, departure) {
            (Self::Http1(connection), Departure::Closed) => drop(connection),
            (Self::Http1(connection), Departure::Reset) => connection.0.set_zero_linger().unwrap(),
            (Self::Http2(connection, _), Departure::Closed) => connection.task.abort(),
            (Self::Http2(mut connection, exchange), Departure::Reset) => {
                exchange.response.abort();
                assert!(exchange.response.await.unwrap_err().is_cancelled());
                let mut other = connection.begin(&Post::signed(b"{}")).finish();
                assert_eq!(other.reply().await.expect("the connection goes on").status, 200);
            }
        }
    }
}

/// An HTTP/2 connection.
pub struct Http2 {
    client: SendRequest<Pieces>,
    task: JoinHandle<hyper::Result<()>>,
}

impl Http2 {
    async fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        Self { client, task: tokio::spawn(connection) }
    }

    /// Begins a request with what body it has, and leaves the body open.
    fn begin(&mut self, post: &Post) -> Http2Exchange {
        let (body, pieces) = mpsc::unbounded_channel();
        let mut request = Request::builder().method(post.method.as_str());
        request = request.uri(format!("http://localhost{PATH}")).version(HttpVersion::HTTP_2);
        for (name, value) in post.headers.iter().filter(|(name, _)| name != "host") {
            request = request.header(name, value.as_slice());
        }
        let response = self.client.send_request(request.body(Pieces(pieces)).unwrap());
        let exchange = Http2Exchange { body: Some(body), response: tokio::spawn(response) };
        exchange.write(&post.body);
        exchange
    }
}

/// A request in a separate stream.
pub struct Http2Exchange {
    body: Option<mpsc::UnboundedSender<Result<Bytes, io::Error>>>,
    response: JoinHandle<hyper::Result<Response<Incoming>>>,
}

impl Http2Exchange {
    fn write(&self, bytes: &[u8]) {
        // The other end goes away when the server has answered.
        let _ = self.body.as_ref().unwrap().send(Ok(Bytes::copy_from_slice(bytes)));
    }

    fn finish(self) -> Self {
        Self { body: None, ..self }
    }

    async fn reply(&mut self) -> Option<Reply> {
        let response = timeout(PATIENCE, &mut self.response).await.expect("an answer in time").unwrap();
        let (parts, body) = response.ok()?.into_parts();
        let headers = parts.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        let body = timeout(PATIENCE, body.collect()).await.expect("a body in time").ok()?.to_bytes();
        Some(Reply { status: parts.status.as_u16(), headers, body: String::from_utf8(body.into()).unwrap() })
    }
}

/// A body as it is written.
pub(crate) struct Pieces(mpsc::UnboundedReceiver<Result<Bytes, io::Error>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
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

    /// Writes unless the server has gone.
    pub async fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
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
        let read = timeout(PATIENCE, self.try_read_answer(to_head)).await;
        read.expect("an answer in time").expect("an answer before the end of the connection")
    }

    /// The next answer, or nothing if the connection ends first.
    pub async fn try_read(&mut self) -> Option<Reply> {
        timeout(PATIENCE, self.try_read_answer(false)).await.expect("an answer in time, or an end")
    }

    async fn try_read_answer(&mut self, to_head: bool) -> Option<Reply> {
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

    /// Asserts that the sender is asked to come again, within this many seconds.
    #[track_caller]
    pub fn assert_retry_within(&self, seconds: u64) {
        let retry_after: u64 = self.header("retry-after").expect("a Retry-After header").parse().unwrap();
        assert!((1..=seconds).contains(&retry_after), "Retry-After: {retry_after}");
    }
}
