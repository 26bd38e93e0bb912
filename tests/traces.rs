//! What an OpenTelemetry collector receives. In a separate process, as the tests of the log: see there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::missing_panics_doc)]

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::post;
use opentelemetry::trace::{SpanId, SpanKind, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use sendarix_webhooks::testing::{Sample, signed_request};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Receiver, ReceiverBuilder, SendarixEvent, SendarixLayer};
use sendarix_webhooks_test_support::{Endpoint, Front, Gate, INTERNAL, PATH, Post, eventually, secret};
use tower::ServiceExt;
use tower_http::trace::TraceLayer;
use tracing_subscriber::layer::SubscriberExt;

/// A collector of the spans of this test's thread, which are all: its runtime has no other.
struct Collector {
    spans: InMemorySpanExporter,
    _provider: SdkTracerProvider,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Collector {
    fn start() -> Self {
        let spans = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
        // As the guide says.
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let layer = layer.with_error_events_to_status(false);
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        Self { spans, _provider: provider, _guard: guard }
    }

    /// The spans of deliveries, once there are this many.
    async fn deliveries(&self, count: usize) -> Vec<SpanData> {
        let deliveries = || {
            let spans = self.spans.get_finished_spans().unwrap();
            spans.into_iter().filter(|span| span.name == "sendarix_delivery").collect::<Vec<_>>()
        };
        eventually("the spans are exported", || deliveries().len() == count).await;
        deliveries()
    }
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    span.attributes.iter().find(|attribute| attribute.key.as_str() == name).map(|found| found.value.to_string())
}

#[tokio::test]
async fn a_delivery_that_fails_is_an_error_and_one_that_succeeds_is_not() {
    let collector = Collector::start();
    let handler = |delivery: Delivery| async move {
        match delivery.take().event_id.as_str() {
            "evt_well" => {
                tracing::error!(error = "zoe@example.com cannot be reached", "an error that the handler recovers from");
                Ok(())
            }
            "evt_panic" => panic!("{INTERNAL}"),
            "evt_never" => Err(HandlerError::permanent(INTERNAL)),
            _ => Err(HandlerError::retry(INTERNAL)),
        }
    };
    let endpoint = Endpoint::start(Front::ANY, |builder| builder.endpoint("staging"), handler).await;
    for id in ["evt_well", "evt_well", "evt_later", "evt_never", "evt_panic"] {
        endpoint.post(&Sample::new(EventType::Bounce).recipient("ann@example.com").event_id(id).body()).await;
    }
    let spans = collector.deliveries(5).await;
    let error = |outcome: &'static str| (Status::error(outcome), Some(outcome.to_owned()));
    let ok = || (Status::Ok, None);
    let ends = [ok(), ok(), error("failed"), error("failed_permanently"), error("failed")];
    for (span, (status, error_type)) in spans.iter().zip(ends) {
        assert_eq!((span.status.clone(), attribute(span, "error.type")), (status, error_type), "{span:?}");
        assert_eq!(span.span_kind, SpanKind::Consumer);
    }
    let names = [
        ("messaging.system", "sendarix"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "staging"),
        ("messaging.message.id", "evt_later"),
    ];
    for (name, value) in names {
        assert_eq!(attribute(&spans[2], name).as_deref(), Some(value), "{name}");
    }
    // Personal data, and what a handler writes about it, is in no attribute of a span.
    for span in &spans {
        let texts = format!("{:?} {:?}", span.attributes, span.status);
        assert!(!texts.contains("@example.com") && !texts.contains(INTERNAL), "{texts}");
        let lines = format!("{:?}", span.events);
        assert!(!lines.contains("ann@example.com"), "{lines}");
    }
}

/// What is authentic and no event has a span without the event's names.
#[tokio::test]
async fn a_body_that_cannot_be_read_is_an_error() {
    let collector = Collector::start();
    let endpoint = Endpoint::start(Front::ANY, |builder| builder, |_| async {}).await;
    endpoint.post(b"{").await;
    let span = collector.deliveries(1).await.remove(0);
    assert_eq!(span.status, Status::error("malformed"));
    assert_eq!(attribute(&span, "error.type").as_deref(), Some("malformed"));
    assert_eq!(attribute(&span, "messaging.message.id"), None);
}

/// A forged flood costs no span.
#[tokio::test]
async fn a_refused_request_has_no_span() {
    let collector = Collector::start();
    let endpoint = Endpoint::start(Front::ANY, |builder| builder, |_| async {}).await;
    endpoint
        .send(&Post::signed(b"{}").without("x-sendarix-signature"))
        .await
        .assert_is(401, "the X-Sendarix-Signature header is missing");
    endpoint.post(&Sample::new(EventType::Open).body()).await;
    assert_eq!(collector.deliveries(1).await[0].parent_span_id, SpanId::INVALID);
}

/// The answer comes at the deadline, and the span ends with the handler.
#[tokio::test]
async fn a_slow_delivery_ends_as_its_handler_does() {
    let collector = Collector::start();
    let gate = Gate::default();
    let configure = |builder: ReceiverBuilder| {
        let builder = builder.acknowledgement_deadline(Duration::from_millis(200));
        builder.body_timeout(Duration::from_millis(100)).store_timeout(Duration::from_millis(100))
    };
    let endpoint = Endpoint::start(Front::ANY, configure, gate.handler()).await;
    endpoint.post(&Sample::new(EventType::Open).body()).await.assert_is(503, "still processing");
    assert_eq!(collector.spans.get_finished_spans().unwrap().len(), 0);
    gate.open();
    assert_eq!(collector.deliveries(1).await[0].status, Status::Ok);
}

/// The span of an outer HTTP layer is the parent, also of a delivery in a task.
#[tokio::test]
async fn a_delivery_belongs_to_the_request_that_brought_it() {
    for in_tasks in [false, true] {
        let collector = Collector::start();
        let receiver = Receiver::builder(secret()).dangerously_without_dead_letters().deliver_in_tasks(in_tasks);
        let layer = SendarixLayer::new(receiver.build().unwrap());
        let http = TraceLayer::new_for_http().make_span_with(|_: &Request<Body>| tracing::info_span!("http"));
        let app = Router::new().route(PATH, post(|_: SendarixEvent| async {}).layer(layer)).layer(http);
        let body = Sample::new(EventType::Open).body();
        let request = signed_request::<Body>(&secret(), PATH, body);
        assert_eq!(app.oneshot(request).await.unwrap().status(), 200);
        let delivery = collector.deliveries(1).await.remove(0);
        let spans = collector.spans.get_finished_spans().unwrap();
        let http = spans.iter().find(|span| span.name == "http").unwrap();
        assert_eq!(delivery.parent_span_id, http.span_context.span_id(), "in tasks: {in_tasks}");
    }
}
