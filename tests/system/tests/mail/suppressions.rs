//! The suppression list.

use std::time::Duration;

use sendarix_webhooks::mail::{Address, MailStore, SuppressionEntry, SuppressionReason};
use sendarix_webhooks::{EventType, Outcome, Timestamp};

use crate::on_every_store;
use crate::shop::{Shop, at, event, now, sample};

on_every_store!(
    each_reason_suppresses,
    the_first_event_counts,
    a_release_stands_against_what_happened_before_it,
    a_release_stands_before_the_first_event,
    addresses_are_compared,
    the_application_fills_and_exports_the_list,
    soft_bounces_suppress_by_a_rule,
    a_rule_does_not_depend_on_the_order,
    what_a_purge_takes_lifts_no_suppression,
    a_rule_stands_a_long_history,
);

const ANN: &str = "ann@example.com";

async fn reason_of<S: MailStore>(shop: &Shop<S>) -> Option<SuppressionReason> {
    let entry = shop.mail.suppression(ANN).await.unwrap();
    let reason = entry.and_then(|entry| entry.suppressed).map(|suppressed| suppressed.reason);
    assert_eq!(shop.mail.is_suppressed(ANN).await.unwrap(), reason.is_some());
    reason
}

async fn each_reason_suppresses<S: MailStore>(shop: Shop<S>) {
    let harmless = ["accepted", "delivered", "deferred", "open", "click", "soft_bounce"];
    shop.record_all(harmless.map(|name| sample(name.parse().unwrap(), 0))).await;
    shop.record_all([sample(EventType::Bounce, 0).data(r#"{"bounce_type":"soft"}"#)]).await;
    assert_eq!(shop.mail.suppression(ANN).await.unwrap(), None);
    for (event_type, reason) in [
        (EventType::Bounce, SuppressionReason::PermanentBounce),
        (EventType::Complaint, SuppressionReason::Complaint),
        (EventType::Unsubscribe, SuppressionReason::Unsubscribe),
    ] {
        let address = format!("{event_type}@example.com");
        shop.record_all([sample(event_type, 7).recipient(&address).event_id(format!("evt_{event_type}"))]).await;
        let entry = shop.mail.suppression(&address).await.unwrap().unwrap();
        let suppressed = entry.suppressed.unwrap();
        assert_eq!((suppressed.reason, suppressed.since), (reason, at(7)));
        assert_eq!(suppressed.event_id, Some(format!("evt_{event_type}")));
        assert_eq!(suppressed.message_id.as_deref(), Some("msg_1"));
    }
}

async fn the_first_event_counts<S: MailStore>(shop: Shop<S>) {
    shop.record_all([
        sample(EventType::Unsubscribe, 20),
        sample(EventType::Bounce, 10),
        sample(EventType::Complaint, 30),
    ])
    .await;
    let suppressed = shop.mail.suppression(ANN).await.unwrap().unwrap().suppressed.unwrap();
    assert_eq!((suppressed.reason, suppressed.since), (SuppressionReason::PermanentBounce, at(10)));
}

async fn a_release_stands_against_what_happened_before_it<S: MailStore>(shop: Shop<S>) {
    shop.record_all([sample(EventType::Complaint, -60)]).await;
    assert!(shop.mail.release(ANN, "she called us").await.unwrap());
    assert!(!shop.mail.release(ANN, "again").await.unwrap());
    assert_eq!(reason_of(&shop).await, None);
    let released = shop.mail.suppression(ANN).await.unwrap().unwrap().released.unwrap();
    assert_eq!((released.at, released.because.as_str()), (at(0), "she called us"));

    shop.record_all([sample(EventType::Bounce, -30)]).await;
    assert_eq!(reason_of(&shop).await, None, "it happened before the release and came after it");
    shop.record_all([sample(EventType::Unsubscribe, 30)]).await;
    assert_eq!(reason_of(&shop).await, Some(SuppressionReason::Unsubscribe));

    // The signed time of what is released may be ahead of the clock.
    assert!(shop.mail.release(ANN, "a clock is wrong").await.unwrap());
    shop.record_all([sample(EventType::Complaint, 29)]).await;
    assert_eq!(reason_of(&shop).await, None);
}

/// The event that would put it on the list may be a dead letter still.
async fn a_release_stands_before_the_first_event<S: MailStore>(shop: Shop<S>) {
    assert!(!shop.mail.release(ANN, "she called us").await.unwrap());
    assert!(!shop.mail.release(ANN, "again").await.unwrap());
    let entry = shop.mail.suppression(ANN).await.unwrap().unwrap();
    assert_eq!((entry.suppressed, entry.released.unwrap().because.as_str()), (None, "she called us"));
    assert!(shop.mail.suppressions(None, 9).await.unwrap().is_empty());
    shop.record_all([sample(EventType::Complaint, -60)]).await;
    shop.mail.suppress(&[SuppressionEntry::new(ANN, SuppressionReason::Manual, at(-1))]).await.unwrap();
    assert_eq!(reason_of(&shop).await, None);
    shop.record_all([sample(EventType::Unsubscribe, 30)]).await;
    assert_eq!(reason_of(&shop).await, Some(SuppressionReason::Unsubscribe));
}

async fn addresses_are_compared<S: MailStore>(shop: Shop<S>) {
    let long = format!("{}@example.com", "x".repeat(64 * 1024));
    let same = [
        ("Ann@Example.COM", " ann@example.com\t"),
        ("Ann Lee <ann.lee@example.com>", "ANN.LEE@example.com"),
        ("\"Lee, Ann\" <lee@example.com>", "lee@example.com"),
        ("bob@müller.example", "bob@xn--mller-kva.example"),
        ("用户@例子.广告", "用户@xn--fsqu00a.xn--4rr70v"),
        ("ΟΔΟΣ@example.com", "οδος@example.com"),
        ("\"quoted blank\"@example.com", "\"Quoted Blank\"@EXAMPLE.com"),
        ("o'hara'); DROP TABLE sendarix_events;--@example.com", "O'Hara'); drop table SENDARIX_events;--@example.com"),
        (&long, &long.to_uppercase()),
        ("no address", " No Address "),
    ];
    for (index, (sent, asked)) in same.into_iter().enumerate() {
        assert!(!shop.mail.is_suppressed(asked).await.unwrap(), "{asked:.40}");
        shop.record_all([sample(EventType::Complaint, 0).recipient(sent).message_id(format!("msg_{index}"))]).await;
        assert!(shop.mail.is_suppressed(asked).await.unwrap(), "{asked:.40}");
        let entry = shop.mail.suppression(asked).await.unwrap().unwrap();
        assert_eq!(entry.recipient, sent, "kept as sent");
        assert_eq!(shop.mail.timeline(asked, None, 9).await.unwrap().len(), 1);
        assert!(shop.mail.message(&format!("msg_{index}"), asked).await.unwrap().is_some());
    }
    for other in [
        "ann+news@example.com",
        "a\0b@example.com",
        "erased:ann@example.com",
        "Erased:",
        "",
        "@",
        "ann@example.com.",
        &"@".repeat(64 * 1024),
    ] {
        assert!(!shop.mail.is_suppressed(other).await.unwrap(), "{other:.40}");
        let entry = SuppressionEntry::new(other, SuppressionReason::Manual, now());
        shop.mail.suppress(&[entry]).await.unwrap();
        assert!(shop.mail.is_suppressed(other).await.unwrap(), "{other:.40}");
    }
}

async fn the_application_fills_and_exports_the_list<S: MailStore>(shop: Shop<S>) {
    let address = |number: usize| format!("User{number:05}@example.com");
    let entries: Vec<_> =
        (0..2500).map(|number| SuppressionEntry::new(address(number), SuppressionReason::Manual, at(-5))).collect();
    shop.mail.suppress(&entries).await.unwrap();
    shop.mail.suppress(&entries).await.unwrap();
    shop.mail.suppress(&[]).await.unwrap();
    let mut exported = Vec::new();
    loop {
        let page = shop
            .mail
            .suppressions(exported.last().map(|entry: &SuppressionEntry| entry.address.as_str()), 999)
            .await
            .unwrap();
        if page.is_empty() {
            break;
        }
        exported.extend(page);
    }
    assert_eq!(exported, entries);
    // What was exported can be imported, and is asked for by what it was exported as.
    shop.mail.suppress(&exported).await.unwrap();
    assert!(shop.mail.is_suppressed(&exported[7].address).await.unwrap());

    let asked: Vec<String> = (0..10_000).map(|number| address(number * 2)).collect();
    let suppressed = shop.mail.are_suppressed(&asked).await.unwrap();
    assert_eq!(suppressed, (0..10_000).map(|number| number < 1250).collect::<Vec<_>>());
    assert!(shop.mail.are_suppressed(Vec::<Address>::new()).await.unwrap().is_empty());

    assert!(shop.mail.release(address(3), "by hand").await.unwrap());
    shop.mail.suppress(&entries[3..4]).await.unwrap();
    assert!(!shop.mail.is_suppressed(address(3)).await.unwrap(), "the entry is older than the release");
    assert_eq!(shop.mail.suppressions(None, 9999).await.unwrap().len(), 2499);
}

async fn soft_bounces_suppress_by_a_rule<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.soft_bounces(3, Duration::from_secs(100)));
    let soft = |second| sample(EventType::SoftBounce, second);
    shop.record_all([soft(0), soft(10), soft(111)]).await;
    assert_eq!(reason_of(&shop).await, None, "three, but not within 100 s");
    shop.record_all([sample(EventType::Bounce, 120).data(r#"{"bounce_type":"soft"}"#).event_id("evt_third")]).await;
    assert_eq!(reason_of(&shop).await, None, "the third within 100 s has not come");
    shop.record_all([soft(130)]).await;
    let suppressed = shop.mail.suppression(ANN).await.unwrap().unwrap().suppressed.unwrap();
    assert_eq!((suppressed.reason, suppressed.since), (SuppressionReason::SoftBounces, at(130)));

    shop.record_all([sample(EventType::Delivered, 140)]).await;
    assert_eq!(reason_of(&shop).await, None, "a delivery clears it");
    shop.record_all([soft(141), soft(142)]).await;
    assert_eq!(reason_of(&shop).await, None, "and the count");
    shop.record_all([soft(143)]).await;
    assert_eq!(reason_of(&shop).await, Some(SuppressionReason::SoftBounces));
    shop.record_all([sample(EventType::Complaint, 200)]).await;
    assert_eq!(reason_of(&shop).await, Some(SuppressionReason::Complaint), "every other reason stands above it");
    shop.record_all([sample(EventType::Delivered, 300)]).await;
    assert_eq!(reason_of(&shop).await, Some(SuppressionReason::Complaint));
}

async fn a_rule_does_not_depend_on_the_order<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.soft_bounces(2, Duration::from_secs(100)));
    // At the same time, so that each transaction must wait for the other's events.
    for round in 0..10 {
        let address = format!("user{round}@example.com");
        let events = [0, 1].map(|second| event(&sample(EventType::SoftBounce, second).recipient(&address)));
        let recorded = events.map(|event| {
            let shop = shop.clone();
            tokio::spawn(async move { shop.record(&event).await })
        });
        for outcome in recorded {
            assert_eq!(outcome.await.unwrap(), Outcome::Processed);
        }
        assert!(shop.mail.is_suppressed(&address).await.unwrap(), "round {round}");
        // It happened between the two, and comes last.
        let between = "2026-04-19T14:32:01.5Z".parse::<Timestamp>().unwrap();
        let delivered = sample(EventType::Delivered, 0).timestamp(between).recipient(&address);
        shop.record_all([delivered]).await;
        assert!(!shop.mail.is_suppressed(&address).await.unwrap(), "round {round}");
    }
}

async fn what_a_purge_takes_lifts_no_suppression<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.soft_bounces(2, Duration::from_secs(100)));
    shop.record_all([sample(EventType::SoftBounce, 0), sample(EventType::SoftBounce, 1)]).await;
    shop.mail.purge(at(500)).await.unwrap();
    shop.record_all([sample(EventType::SoftBounce, 1000), sample(EventType::Delivered, -200)]).await;
    let suppressed = shop.mail.suppression(ANN).await.unwrap().unwrap().suppressed.unwrap();
    assert_eq!((suppressed.reason, suppressed.since), (SuppressionReason::SoftBounces, at(1)));
    shop.record_all([sample(EventType::Delivered, 1001)]).await;
    assert_eq!(reason_of(&shop).await, None);
}

async fn a_rule_stands_a_long_history<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.soft_bounces(3, Duration::from_secs(1)));
    if let Some(backend) = &shop.backend {
        shop.mail.suppress(&[]).await.unwrap();
        let _ = shop.mail.is_suppressed(ANN).await.unwrap();
        let time = if backend.url().starts_with("postgres") {
            "timestamptz '2026-01-01' - n * interval '1 hour'"
        } else {
            "1700000000000000 - n * 3600000000"
        };
        let numbers = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 20000)";
        backend.sql(&format!(
            "INSERT INTO sendarix_events (event_id, event_type, fact, at, message_id, address, recipient, body)
             {numbers} SELECT 'old_' || n, 'soft_bounce', CASE n % 2 WHEN 0 THEN 'soft_bounced' ELSE 'delivered' END, {time}, 'm',
                '{ANN}', '{ANN}', '' FROM r"
        ));
    }
    // It would be refused after 3 s.
    shop.record_all([
        sample(EventType::SoftBounce, 0),
        sample(EventType::SoftBounce, 0),
        sample(EventType::SoftBounce, 0),
    ])
    .await;
    assert_eq!(reason_of(&shop).await, Some(SuppressionReason::SoftBounces));
}
