//! A server for the open Internet: axum on hyper, with the limits that `axum::serve` does not set.

#![allow(unreachable_pub)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::middleware::map_response;
use axum::response::Response;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use sendarix_webhooks::Receiver;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

/// A connection costs memory. More of them wait in the system's queue until others end.
pub const MAX_CONNECTIONS: usize = 12_000;

/// How long a connection may take for the head of its next request, or be idle. Longer than a proxy in front keeps its own
/// connections, or that would send requests into closed ones.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may leave an answer unread.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The head of a request, and what is read ahead of its body. hyper allows 400 KiB by itself.
pub const MAX_BUFFER: usize = 16 * 1024;

/// Serves until the process is told to stop: no new connections then, and every handler to its end.
pub async fn serve(
    terminated: impl Future<Output = ()>,
    listener: TcpListener,
    app: Router,
    receiver: Receiver,
) -> anyhow::Result<()> {
    // To tell HTTP/2 by its first bytes, hyper-util would wait for them without a limit. Where it is needed it comes with TLS,
    // which says so before.
    let mut server = Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_BUFFER);
    // A client may close its sending side once the request is out. hyper would then drop the request, unnoticed.
    server.http1().half_close(true);
    let (connections, places) = (GracefulShutdown::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let service = TowerToHyperService::new(app.layer(map_response(close_after_refusal)));
    tokio::pin!(terminated);
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
            () = &mut terminated => break,
        };
        // An answer is one small packet, and should not wait for more.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let connection = server.serve_connection(TokioIo::new(Box::pin(stream)), service.clone()).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // A connection that breaks off is its client's affair.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    receiver.drain().await;
    drop(timeout(Duration::from_secs(1), connections.shutdown()).await);
    // Rather than wait for a reader that may never come.
    std::process::exit(0)
}

/// A sender that is refused has to connect again: else a request that costs nothing would keep its place, and answers to many at
/// once, none of them read, would pile up here.
async fn close_after_refusal(mut response: Response) -> Response {
    let status = response.status();
    if !status.is_success() && status != StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
