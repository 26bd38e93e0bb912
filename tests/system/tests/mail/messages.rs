//! The state of messages, and the timelines of recipients.

use sendarix_webhooks::mail::{MailStore, MessageStatus};
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, Outcome, SendarixEvent};

use crate::on_every_store;
use crate::shop::{Shop, at, event, sample};

on_every_store!(
    a_message_has_a_state_for_each_recipient,
    a_copy_counts_once,
    a_timeline_has_pages,
    what_is_old_is_purged,
    hostile_events_are_kept,
);

async fn a_message_has_a_state_for_each_recipient<S: MailStore>(shop: Shop<S>) {
    assert_eq!(shop.mail.message("msg_1", "ann@example.com").await.unwrap(), None);
    let of = |event_type, second, recipient: &str| sample(event_type, second).recipient(recipient);
    shop.record_all([
        of(EventType::Accepted, 0, "Ann@example.com"),
        of(EventType::Bounce, 1, "bob@example.com"),
        of(EventType::Click, 9, "ann@example.com"),
        of(EventType::Delivered, 2, "ann@example.com"),
        of(EventType::Open, 8, "ann@example.com"),
        of(EventType::Open, 5, "ann@example.com"),
    ])
    .await;
    let ann = shop.mail.message("msg_1", "ANN@example.com").await.unwrap().unwrap();
    assert_eq!(ann.state.status(), Some(MessageStatus::Delivered));
    assert_eq!((ann.opens, ann.clicks, ann.last_event_at), (2, 1, at(9)));
    assert_eq!(ann.state.accepted_at(), Some(at(0)));
    assert_eq!(ann.state.opened().map(|seen| (seen.first(), seen.last())), Some((at(5), at(8))));
    let bob = shop.mail.message("msg_1", "bob@example.com").await.unwrap().unwrap();
    assert_eq!(bob.state.status(), Some(MessageStatus::Bounced));
    let failure = bob.state.bounce().unwrap();
    assert_eq!((failure.smtp_code, failure.category.as_deref()), (Some(550), Some("invalid_email")));
    assert_eq!(shop.mail.messages("msg_1").await.unwrap(), [ann.clone(), bob]);

    shop.record_all((0..5).map(|n| of(EventType::Delivered, 20 + n, "ann@example.com").message_id(format!("msg_{n}"))))
        .await;
    let first = shop.mail.messages_to("ann@example.com", None, 3).await.unwrap();
    let second = shop.mail.messages_to("ann@example.com", first.last(), 3).await.unwrap();
    let ids: Vec<_> = first.iter().chain(&second).map(|message| message.message_id.as_str()).collect();
    assert_eq!(ids, ["msg_4", "msg_3", "msg_2", "msg_1", "msg_0"]);
}

async fn a_copy_counts_once<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.count_by(|_| Some("all".to_owned())));
    let events =
        [EventType::Open, EventType::Click, EventType::Delivered].map(|event_type| event(&sample(event_type, 0)));
    for event in &events {
        assert_eq!(shop.record(event).await, Outcome::Processed);
        assert_eq!(shop.record(event).await, Outcome::Duplicate);
    }
    // A copy that no memory of claims stops.
    if let Some(backend) = &shop.backend {
        backend.sql("DELETE FROM sendarix_claims");
        for event in &events {
            assert_eq!(shop.record(event).await, Outcome::Processed);
        }
    }
    let message = shop.mail.message("msg_1", "ann@example.com").await.unwrap().unwrap();
    assert_eq!((message.opens, message.clicks), (1, 1));
    assert_eq!(shop.mail.timeline("ann@example.com", None, 9).await.unwrap().len(), 3);
    let rates = shop.mail.rates("all", std::time::Duration::from_secs(600)).await.unwrap();
    assert_eq!((rates.delivered, rates.bounced), (1, 0));
}

async fn a_timeline_has_pages<S: MailStore>(shop: Shop<S>) {
    // Several of one time.
    let samples = (0..25).map(|n: i64| sample(EventType::Open, n / 4).event_id(format!("evt_{n:02}")));
    shop.record_all(samples).await;
    shop.record_all([sample(EventType::Open, 3).recipient("bob@example.com")]).await;
    let mut seen: Vec<SendarixEvent> = Vec::new();
    loop {
        let page = shop.mail.timeline("Ann <ann@example.com>", seen.last(), 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    let ids: Vec<_> = seen.iter().map(|event| event.event_id.clone()).collect();
    assert_eq!(ids, (0..25).rev().map(|n| format!("evt_{n:02}")).collect::<Vec<_>>());
}

async fn what_is_old_is_purged<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.count_by(|_| Some("all".to_owned())));
    let of = |message: &str, event_type, second| sample(event_type, second).message_id(message);
    shop.record_all([
        of("msg_old", EventType::Complaint, -700),
        of("msg_kept", EventType::Delivered, -700),
        of("msg_kept", EventType::Open, -10),
        of("msg_new", EventType::Delivered, -10),
    ])
    .await;
    assert_eq!(shop.mail.purge(at(-600)).await.unwrap(), 2);
    assert_eq!(shop.mail.purge(at(-600)).await.unwrap(), 0);
    assert_eq!(shop.mail.messages("msg_old").await.unwrap(), []);
    let kept = shop.mail.message("msg_kept", "ann@example.com").await.unwrap().unwrap();
    assert_eq!(kept.state.delivered_at(), Some(at(-700)));
    assert_eq!(shop.mail.timeline("ann@example.com", None, 9).await.unwrap().len(), 2);
    assert_eq!(shop.mail.rates("all", std::time::Duration::from_secs(3600)).await.unwrap().delivered, 1);
    assert!(shop.mail.is_suppressed("ann@example.com").await.unwrap(), "the list stays");
}

async fn hostile_events_are_kept<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.count_by(|event| Some(event.message_id.clone())));
    let long = "m".repeat(100 * 1024);
    let data = r#"{"smtp_message":"a\u0000b\ud83d\ude00\u2028","smtp_code":599,"bounce_category":""}"#;
    let of = |event_type| Sample::new(event_type).recipient("ann@example.com").message_id(&long);
    let events = [
        of(EventType::Bounce)
            .data(data)
            .timestamp("0000-01-01T00:00:00Z".parse::<sendarix_webhooks::Timestamp>().unwrap()),
        of(EventType::Open)
            .timestamp("9999-12-31T23:59:59.999999999Z".parse::<sendarix_webhooks::Timestamp>().unwrap()),
        of(EventType::SoftBounce).data(r#"{"smtp_code":-1,"bounce_category":{"a":1}}"#).event_id("x".repeat(70_000)),
    ]
    .map(|sample| event(&sample));
    for event in &events {
        assert_eq!(shop.record(event).await, Outcome::Processed);
    }
    assert_eq!(shop.mail.timeline("ann@example.com", None, 9).await.unwrap().len(), 3);
    let message = shop.mail.messages(&long).await.unwrap().pop().unwrap();
    let first = message.state.bounce().unwrap();
    assert_eq!(first.at, events[0].timestamp);
    assert_eq!(first.smtp_message.as_deref(), Some("a\u{fffd}b😀\u{2028}"));
    assert_eq!(first.category.as_deref(), Some(""));
    assert_eq!(message.last_event_at.to_string(), "9999-12-31T23:59:59.999999Z");
    assert_eq!(shop.mail.messages_to("ann@example.com", None, 9).await.unwrap(), [message]);
}
