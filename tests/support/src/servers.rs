//! One application on each server: a handler behind the receiver, at `PATH`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode as ActixStatus;
use actix_web::{App, HttpResponse, HttpServer, web};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::Version as HttpVersion;
use axum::response::Response;
use axum::routing::any;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use sendarix_webhooks::{Answer, Delivery, HandlerError, Head, Receiver, SendarixLayer, SendarixMiddleware};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceExt as _};

use super::PATH;
use super::front::{Given, Handler, Server};

impl Server {
    pub async fn start(self, receiver: Receiver, handler: Handler) -> (SocketAddr, Option<ActixServer>) {
        let layer = SendarixLayer::new(receiver.clone());
        let addr = match self {
            Self::AxumLayer => serve(Router::new().route(PATH, axum_route(handler)).layer(layer)).await,
            Self::AxumAround => {
                let app = layer.layer(Router::new().route(PATH, axum_route(handler)));
                let app = axum::ServiceExt::<Request>::into_make_service(app);
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let addr = listener.local_addr().unwrap();
                tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
                addr
            }
            Self::Hyper => {
                let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
                    let handling = handler({
                        let delivery = request.extensions().get::<Delivery>().unwrap();
                        delivery.take();
                        delivery.clone()
                    });
                    async move { handling.await.map(response::<Full<Bytes>>) }
                });
                let service = layer.request_body::<Full<Bytes>>().layer(service);
                accept(move |stream| {
                    let service = service.clone().map_request(|request: Request<Incoming>| request);
                    serve_connection(stream, TowerToHyperService::new(service))
                })
                .await
            }
            Self::Receiver => {
                accept(move |stream| {
                    let (receiver, handler) = (receiver.clone(), Arc::clone(&handler));
                    let service = service_fn(move |request| {
                        let (receiver, handler) = (receiver.clone(), Arc::clone(&handler));
                        async move { Ok::<_, Infallible>(by_hand(&receiver, handler, request).await) }
                    });
                    serve_connection(stream, service)
                })
                .await
            }
            Self::Actix => {
                let server = ActixServer::start(2, move |config| {
                    let handler = Arc::clone(&handler);
                    let on_event = move |delivery: Delivery| actix_handler(Arc::clone(&handler), delivery);
                    let sendarix = SendarixMiddleware::new(receiver.clone());
                    config.service(web::resource(PATH).wrap(sendarix).route(web::to(on_event)));
                });
                return (server.addr, Some(server));
            }
        };
        (addr, None)
    }
}

fn axum_route(handler: Handler) -> axum::routing::MethodRouter {
    any(move |delivery: Delivery| async move { handler(delivery).await.map(response::<Body>) })
}

fn response<B: From<Bytes>>(given: Given) -> Response<B> {
    let mut response = Response::builder().status(given.status);
    if let Some((name, value)) = given.header {
        response = response.header(name, value);
    }
    response.body(Bytes::from(given.body).into()).unwrap()
}

/// What one writes for a server that has no adapter.
async fn by_hand(receiver: &Receiver, handler: Handler, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, mut body) = request.into_parts();
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let admitted = match receiver.admit(&Head::new(parts.method.as_str(), headers)) {
        Ok(admitted) => admitted,
        Err(refusal) => return unread(answered(refusal.answer()), receiver, parts.version, body),
    };
    let bytes = match admitted.read(|cx| poll_data(&mut body, cx)).await {
        Ok(bytes) => bytes,
        Err(refusal) => return unread(answered(refusal.answer()), receiver, parts.version, body),
    };
    let verified = match admitted.verify(bytes) {
        Ok(verified) => verified,
        Err(refusal) => return answered(refusal.answer()),
    };
    match verified.deliver(move |delivery| handler(delivery)).await.into_response() {
        Ok(given) => response(given),
        Err(answer) => answered(&answer),
    }
}

fn poll_data(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
    let frame = std::pin::Pin::new(body).poll_frame(cx);
    frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())))
}

fn unread(
    mut response: Response<Full<Bytes>>,
    receiver: &Receiver,
    version: HttpVersion,
    mut body: Incoming,
) -> Response<Full<Bytes>> {
    if body.is_end_stream() {
        return response;
    }
    if version < HttpVersion::HTTP_2 {
        response.headers_mut().insert("connection", "close".parse().unwrap());
    }
    let poll_chunk = move |cx: &mut Context<'_>| poll_data(&mut body, cx);
    if version < HttpVersion::HTTP_2 {
        receiver.discard(poll_chunk).map(tokio::spawn);
    } else {
        receiver.discard_stream(poll_chunk).map(tokio::spawn);
    }
    response
}

fn answered(answer: &Answer) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        response = response.header(name, value.as_ref());
    }
    response.body(answer.text().into()).unwrap()
}

async fn actix_handler(handler: Handler, delivery: Delivery) -> Result<HttpResponse, HandlerError> {
    let given = handler(delivery).await?;
    let mut response = HttpResponse::build(ActixStatus::from_u16(given.status).unwrap());
    if let Some(header) = given.header {
        response.insert_header(header);
    }
    Ok(response.body(given.body))
}

/// Serves an axum application on a free port until the test's runtime ends.
pub async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    addr
}

async fn accept<F>(mut serve: impl FnMut(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    addr
}

async fn serve_connection<S>(stream: TcpStream, service: S)
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<Full<Bytes>>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().half_close(true);
    // A broken connection is the client's doing.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// An actix-web server in a separate thread, stopped when it is dropped.
pub struct ActixServer {
    pub addr: SocketAddr,
    handle: ServerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ActixServer {
    /// Serves an application on a free port, over HTTP/1.1 and HTTP/2.
    pub fn start<C>(workers: usize, configure: C) -> Self
    where
        C: Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
    {
        let (sender, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                let server = HttpServer::new(move || App::new().configure(configure.clone())).workers(workers);
                let server = server.disable_signals().bind_auto_h2c("127.0.0.1:0").unwrap();
                let addr = server.addrs()[0];
                let server = server.run();
                sender.send((addr, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (addr, handle) = started.recv().unwrap();
        Self { addr, handle, thread: Some(thread) }
    }

    /// Takes no new connections, and lets the requests that are under way end.
    pub async fn stop(&self) {
        self.handle.stop(true).await;
    }

    /// Drops what is under way.
    pub async fn kill(&self) {
        self.handle.stop(false).await;
    }
}

impl Drop for ActixServer {
    fn drop(&mut self) {
        // The command goes out at once; what is returned only waits for its end.
        drop(self.handle.stop(false));
        if let (Some(thread), false) = (self.thread.take(), std::thread::panicking()) {
            thread.join().unwrap();
        }
    }
}
