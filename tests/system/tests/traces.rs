//! A job's span links to that of the delivery that put it in, as the guide shows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::error::Error;

use apalis::prelude::{BoxDynError, Data, WorkerBuilder};
use apalis_core::task::metadata::MetadataStore;
use apalis_sqlite::{Config, SqliteStorage};
use opentelemetry::global::{get_text_map_propagator, set_text_map_propagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use sendarix_webhooks::destination::Enqueue;
use sendarix_webhooks::store::MemoryStore;
use sendarix_webhooks::{Delivery, HandlerError, Inbox, Outcome, Receiver, SendarixEvent};
use sendarix_webhooks_system_tests::{TempDir, deliver, eventually, secret};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

fn trace_context() -> HashMap<String, String> {
    let (context, mut fields) = (tracing::Span::current().context(), HashMap::new());
    get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut fields));
    fields
}

async fn on_job(event: SendarixEvent, metadata: MetadataStore, inbox: Data<Inbox>) -> Result<(), BoxDynError> {
    let sent = get_text_map_propagator(|propagator| propagator.extract(metadata.as_map()));
    let handler = move |_: Delivery| {
        let sent = sent.clone();
        async move {
            tracing::Span::current().add_link(sent.span().span_context().clone());
            Ok::<(), HandlerError>(())
        }
    };
    Ok(inbox.process(event, handler).await.map(drop)?)
}

#[tokio::test]
async fn a_jobs_span_links_to_the_delivery_that_put_it_into_the_queue() -> Result<(), Box<dyn Error>> {
    set_text_map_propagator(TraceContextPropagator::new());
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let dir = TempDir::new();
    let options = SqliteConnectOptions::new().filename(dir.path().join("jobs.sqlite")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await?;
    SqliteStorage::setup(&pool).await?;
    let queue = SqliteStorage::<SendarixEvent>::new(&pool).with_config(Config::default().queue("sendarix"));
    let enqueue = Enqueue::new(queue.clone()).trace_context(trace_context).handler();
    let receiver = Receiver::builder(secret()).store(MemoryStore::new()).dangerously_without_dead_letters().build()?;
    assert_eq!(deliver(&receiver, "evt_1", enqueue).await, Outcome::Processed);

    let jobs = Inbox::builder("default.jobs").store(MemoryStore::new()).dangerously_without_dead_letters().build()?;
    let worker = WorkerBuilder::new("worker-1").backend(queue).data(jobs).build(on_job);
    let delivery_of = |endpoint: &str| {
        let spans = exporter.get_finished_spans().unwrap();
        spans.into_iter().find(|span| {
            let destination = span.attributes.iter().find(|one| one.key.as_str() == "messaging.destination.name");
            destination.is_some_and(|found| found.value.as_str() == endpoint)
        })
    };
    tokio::select! {
        ended = worker.run() => ended?,
        _ = eventually("the job is done", || async { delivery_of("default.jobs").is_some() }) => {}
    }
    let (sent, job) = (delivery_of("default").unwrap(), delivery_of("default.jobs").unwrap());
    let links: Vec<_> =
        job.links.iter().map(|link| (link.span_context.trace_id(), link.span_context.span_id())).collect();
    assert_eq!(links, [(sent.span_context.trace_id(), sent.span_context.span_id())]);
    assert_ne!(job.span_context.trace_id(), sent.span_context.trace_id());
    Ok(())
}
