//! An application as it is operated: its secret is a file that it reads again, it has metrics, and a deploy can break its
//! handler, or put a page in front of it.

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use clap::Parser;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use sendarix_webhooks::telemetry::metrics::{EVENT_LAG, REQUEST_DURATION};
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecrets};
use sendarix_webhooks_system_tests::{application, serve, store::Store};
use tokio::net::TcpListener;

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[derive(Parser)]
struct Options {
    #[arg(long)]
    store: Store,
    /// The file with the signing secret.
    #[arg(long)]
    secret: PathBuf,
    /// While this file is there, the handler fails.
    #[arg(long)]
    broken: PathBuf,
    /// While this file is there, a page answers in place of the handler.
    #[arg(long)]
    hidden: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options: Options = application::options();
    let buckets = [0.001, 0.005, 0.02, 0.1, 1.0, 10.0];
    let exporter = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(REQUEST_DURATION.into()), &buckets)?
        .set_buckets_for_metric(Matcher::Full(EVENT_LAG.into()), &[1.0, 10.0, 60.0, 300.0, 3600.0])?
        .install_recorder()?;
    let terminated = application::terminated()?;
    let secrets = SigningSecrets::from_file(&options.secret)?;
    let file = options.secret;
    let _refresh = secrets.refresh(Duration::from_secs(1), move || {
        let secrets = SigningSecrets::from_file(&file);
        async move { secrets }
    });
    let receiver = Receiver::builder(secrets)
        .store(options.store.events())
        .retention(WEEK + Duration::from_secs(5 * 60))
        .max_event_age(WEEK)
        .build()?;

    let handler = move |event: SendarixEvent| {
        let broken = options.broken.exists();
        async move {
            if broken {
                return Err(HandlerError::retry("broken by a deploy"));
            }
            application::print(&event).await
        }
    };
    let inbox = receiver.inbox().clone();
    let metrics = move || {
        let (inbox, exporter) = (inbox.clone(), exporter.clone());
        async move {
            // Without its store, the application has the counters that it keeps itself.
            let _ = inbox.count_letters().await;
            exporter.render()
        }
    };
    let page = move |request: Request, next: Next| {
        let hidden = options.hidden.exists();
        async move { if hidden { "a page".into_response() } else { next.run(request).await } }
    };
    let app = Router::new()
        .route(application::PATH, post(handler))
        .route_layer(from_fn(page))
        .route_layer(SendarixLayer::new(receiver.clone()))
        .route("/metrics", get(metrics));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    application::listening(listener.local_addr()?);
    serve::until(terminated, listener, app, receiver).await
}
