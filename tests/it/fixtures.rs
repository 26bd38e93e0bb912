//! The vendor's documented samples, signed by another implementation: see `tests/fixtures/sign.mjs`.

use sendarix_webhooks::event::{BounceCategory, BounceType, ComplaintType, FeedbackType};
use sendarix_webhooks::{Delivery, EventKind, SendarixEvent, SigningSecret};
use tokio::sync::mpsc;

use crate::support::{Endpoint, Front, Post};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/", $name))
    };
}

const SIGNATURES: &str = include_str!("../fixtures/signatures.txt");

/// Sends a sample with its foreign signature, and returns the event that the handler saw.
async fn deliver(name: &str, body: &[u8]) -> SendarixEvent {
    let (sender, mut events) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        sender.send(delivery.event().clone()).unwrap();
        async {}
    };
    let endpoint = Endpoint::start(Front::ANY, |builder| builder, handler).await;
    endpoint.receiver.secrets().replace(SigningSecret::new("whsec_fixture_4f9a").unwrap());
    let line = SIGNATURES.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap();
    let signature = line.split(' ').next().unwrap();
    let reply = endpoint.send(&Post::signed(body).replacing("x-sendarix-signature", signature)).await;
    assert_eq!(reply.status, 200, "{name}: {}", reply.body);
    let event = events.recv().await.unwrap();
    assert_eq!(event.body(), body);
    event
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap()
}

#[tokio::test]
async fn delivered() {
    let event = deliver("delivered.json", fixture!("delivered.json")).await;
    assert_eq!((event.event_id.as_str(), event.message_id.as_str()), ("evt_8f3k2j1h9g6d", "msg_abc123xyz"));
    assert_eq!(
        (event.recipient.as_str(), event.timestamp.to_string().as_str()),
        ("user@example.com", "2026-04-19T14:32:01Z")
    );
    let EventKind::Delivered(delivered) = &event.kind else { panic!("{event:?}") };
    assert_eq!((text(&delivered.smtp_response), text(&delivered.server)), ("250 OK", "mail-sor-iad.example.com"));
    assert_eq!(delivered.delivery_latency_ms, Some(312));
}

#[tokio::test]
async fn bounce() {
    let event = deliver("bounce.json", fixture!("bounce.json")).await;
    let EventKind::Bounce(bounce) = &event.kind else { panic!("{event:?}") };
    assert_eq!(bounce.bounce_type, Some(BounceType::Hard));
    assert_eq!(bounce.bounce_category, Some(BounceCategory::InvalidEmail));
    assert_eq!((bounce.smtp_code, text(&bounce.smtp_message)), (Some(550), "No such user"));
    assert_eq!(bounce.was_automatic, Some(true));
    assert!(bounce.is_permanent() && event.is_permanent());
}

#[tokio::test]
async fn complaint() {
    let event = deliver("complaint.json", fixture!("complaint.json")).await;
    let EventKind::Complaint(complaint) = &event.kind else { panic!("{event:?}") };
    assert_eq!(complaint.complaint_type, Some(ComplaintType::Abuse));
    assert_eq!(complaint.feedback_type, Some(FeedbackType::AuthFailure));
    assert_eq!(text(&complaint.user_agent), "Mozilla/5.0 (complaint reporter)");
}

#[tokio::test]
async fn open() {
    let event = deliver("open.json", fixture!("open.json")).await;
    let EventKind::Open(open) = &event.kind else { panic!("{event:?}") };
    assert_eq!((text(&open.ip), text(&open.os)), ("203.0.113.42", "Windows 10"));
    assert_eq!(text(&open.user_agent), "Mozilla/5.0 (Windows NT 10.0; Win64; x64)");
    assert_eq!(text(&open.client), "Chrome 124.0");
}

#[tokio::test]
async fn click() {
    let event = deliver("click.json", fixture!("click.json")).await;
    let EventKind::Click(click) = &event.kind else { panic!("{event:?}") };
    assert_eq!((text(&click.link_id), text(&click.ip)), ("lnk_abc123", "203.0.113.42"));
    assert_eq!(text(&click.url), "https://yoursite.com/confirm?token=xyz");
    assert_eq!(text(&click.user_agent), "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4)");
    assert_eq!(text(&click.os), "iOS 17.4");
}

#[tokio::test]
async fn the_simplified_envelope() {
    let event = deliver("simplified_delivered.json", fixture!("simplified_delivered.json")).await;
    assert_eq!((event.message_id.as_str(), event.recipient.as_str()), ("abc123", "user@example.com"));
    assert_eq!(event.timestamp.unix_seconds(), 1_710_000_000);
    assert!(matches!(event.kind, EventKind::Delivered(_)));
    assert_eq!(event.data(), None);
    // `sha256sum simplified_delivered.json`
    assert_eq!(event.event_id, "sha256:c36c941bc1bd3de09d18f92849297af1dab4787a61d573368dda0ead20cb8b84");
}
