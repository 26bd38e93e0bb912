//! Serving until the process is told to stop.

use std::future::IntoFuture;
use std::time::Duration;

use axum::Router;
use sendarix_webhooks::Receiver;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// No new connections then; every handler to its end; and a moment for the answers to go out.
pub async fn until(
    terminated: impl Future<Output = ()>,
    listener: TcpListener,
    app: Router,
    receiver: Receiver,
) -> anyhow::Result<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        ended = &mut server => ended??,
        () = terminated => {
            drop(stop);
            receiver.drain().await;
            drop(tokio::time::timeout(Duration::from_secs(1), server).await);
        }
    }
    // Rather than wait for a reader that may never come.
    std::process::exit(0)
}
