//! A person who asks to be forgotten.

use std::time::Duration;

use sendarix_webhooks::dead_letter::{DeadLetters, FileDeadLetters};
use sendarix_webhooks::mail::{Mail, MailStore, MemoryMail, SuppressionEntry, SuppressionReason};
use sendarix_webhooks::{EventType, HandlerError, Inbox, Outcome};

use crate::on_every_store;
use crate::shop::{Shop, at, event, sample};

on_every_store!(
    an_erased_address_stays_suppressed,
    a_release_stands_also_after_an_erasure,
    another_key_is_refused,
    a_delivery_lifts_a_rule_also_after_an_erasure,
    what_comes_during_an_erasure_is_not_lost,
    an_erasure_needs_a_key,
);

async fn an_erased_address_stays_suppressed<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.erasure_key([7; 32]));
    let of = |recipient: &str, event_type, second| sample(event_type, second).recipient(recipient);
    shop.record_all([
        of("Ann@example.com", EventType::Complaint, 0),
        of("ann@example.com", EventType::Open, 1),
        of("bob@example.com", EventType::Complaint, 0),
    ])
    .await;
    assert_eq!(shop.mail.erase("ANN@example.com").await.unwrap(), 2);
    assert_eq!(shop.mail.erase("ann@example.com").await.unwrap(), 0);
    assert_eq!(shop.mail.timeline("ann@example.com", None, 9).await.unwrap(), []);
    assert_eq!(shop.mail.message("msg_1", "ann@example.com").await.unwrap(), None);
    assert_eq!(
        shop.mail.are_suppressed(["ann@example.com", "bob@example.com", "c@example.com"]).await.unwrap(),
        [true, true, false]
    );
    let listed = shop.mail.suppressions(None, 9).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(!format!("{listed:?}").to_lowercase().contains("ann"), "{listed:?}");
    let entry = shop.mail.suppression("ann@example.com").await.unwrap().unwrap();
    assert_eq!(entry.suppressed.unwrap().since, at(0));
    if let Some(backend) = &shop.backend {
        for table in ["events", "messages", "suppressions"] {
            assert_eq!(backend.sql(&format!("SELECT count(*) FROM sendarix_{table} AS t WHERE address LIKE '%ann%' OR recipient LIKE '%nn@%'")).trim(), "0");
        }
    }

    assert!(shop.mail.release("ann@example.com", "she came back").await.unwrap());
    assert!(!shop.mail.release("ann@example.com", "and again").await.unwrap());
    assert!(!shop.mail.is_suppressed("ann@example.com").await.unwrap());
    assert!(
        shop.mail.suppression("ann@example.com").await.unwrap().unwrap().is_erased(),
        "not kept in plain text again"
    );
    shop.record_all([of("ann@example.com", EventType::Unsubscribe, 60)]).await;
    assert!(shop.mail.is_suppressed("ann@example.com").await.unwrap());
    assert_eq!(shop.mail.erase("ann@example.com").await.unwrap(), 1);
    assert!(shop.mail.is_suppressed("ann@example.com").await.unwrap());
}

async fn a_release_stands_also_after_an_erasure<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.erasure_key([7; 32]).soft_bounces(1, Duration::from_secs(60)));
    let of = |recipient: &str, event_type, second| sample(event_type, second).recipient(recipient);
    for (recipient, erase_first) in [("ann@example.com", true), ("bob@example.com", false)] {
        shop.record_all([of(recipient, EventType::Complaint, -60)]).await;
        if erase_first {
            shop.mail.erase(recipient).await.unwrap();
            assert!(shop.mail.release(recipient, "asked").await.unwrap());
        } else {
            assert!(shop.mail.release(recipient, "asked").await.unwrap());
            shop.mail.erase(recipient).await.unwrap();
        }
        for late in [EventType::Unsubscribe, EventType::SoftBounce] {
            shop.record_all([of(recipient, late, -30)]).await;
            assert!(
                !shop.mail.is_suppressed(recipient).await.unwrap(),
                "{recipient}: {late} is older than the release"
            );
        }
        let older = SuppressionEntry::new(recipient, SuppressionReason::Manual, at(-10));
        shop.mail.suppress(&[older]).await.unwrap();
        assert!(!shop.mail.is_suppressed(recipient).await.unwrap());
        shop.record_all([of(recipient, EventType::Complaint, 30)]).await;
        assert!(shop.mail.is_suppressed(recipient).await.unwrap(), "{recipient}: a newer event suppresses");
    }
}

/// With another key, whether an erased address is on the list cannot be told, and it could be mailed.
async fn another_key_is_refused<S: MailStore>(shop: Shop<S>) {
    const ANN: &str = "ann@example.com";
    let [right, wrong] = [[7; 32], [8; 32]].map(|key| shop.clone().with(|mail| mail.erasure_key(key)));
    // An address that only looks erased.
    let hostile = SuppressionEntry::new("erased:0", SuppressionReason::Manual, at(0));
    shop.mail.suppress(&[hostile]).await.unwrap();
    right.record_all([sample(EventType::Complaint, 0)]).await;
    assert_eq!(wrong.mail.are_suppressed([ANN]).await.unwrap(), [true], "no address was erased");
    right.mail.erase(ANN).await.unwrap();
    let manual = SuppressionEntry::new("bob@example.com", SuppressionReason::Manual, at(0));
    for other in [&shop, &wrong] {
        let errors = [
            other.mail.is_suppressed(ANN).await.unwrap_err(),
            other.mail.suppression(ANN).await.unwrap_err(),
            other.mail.suppress(std::slice::from_ref(&manual)).await.unwrap_err(),
            other.mail.release(ANN, "asked").await.unwrap_err(),
        ];
        for error in errors {
            let why = std::error::Error::source(&error).unwrap().to_string();
            assert!(why.contains("MailBuilder::erasure_key"), "{why}");
        }
    }
    assert!(wrong.mail.erase("bob@example.com").await.is_err());
    // What is left of an address is not erased again, and not taken over into another list.
    let listed = right.mail.suppressions(Some("erased:"), 9).await.unwrap();
    assert!(listed[0].is_erased());
    assert_eq!(right.mail.erase(&listed[0].address).await.unwrap(), 0);
    let elsewhere = Mail::builder(MemoryMail::default()).erasure_key([8; 32]).build().unwrap();
    assert!(elsewhere.suppress(&listed).await.is_err());
    assert_eq!(elsewhere.are_suppressed([ANN]).await.unwrap(), [false]);
    assert_eq!(right.mail.are_suppressed([ANN, "bob@example.com"]).await.unwrap(), [true, false]);
}

async fn a_delivery_lifts_a_rule_also_after_an_erasure<S: MailStore>(shop: Shop<S>) {
    const ANN: &str = "ann@example.com";
    let shop = shop.with(|mail| mail.erasure_key([7; 32]).soft_bounces(1, Duration::from_secs(60)));
    shop.record_all([sample(EventType::SoftBounce, 0)]).await;
    shop.mail.erase(ANN).await.unwrap();
    assert!(shop.mail.is_suppressed(ANN).await.unwrap());
    shop.record_all([sample(EventType::Delivered, 30)]).await;
    assert!(!shop.mail.is_suppressed(ANN).await.unwrap());
}

async fn what_comes_during_an_erasure_is_not_lost<S: MailStore>(shop: Shop<S>) {
    let shop = shop.with(|mail| mail.erasure_key([7; 32]));
    for round in 0..20 {
        let address = format!("user{round}@example.com");
        shop.record_all([sample(EventType::Open, 0).recipient(&address)]).await;
        let complaint = event(&sample(EventType::Complaint, 1).recipient(&address));
        let recorder = shop.clone();
        let recorded = tokio::spawn(async move { recorder.record(&complaint).await });
        for _ in 0..3 {
            shop.mail.erase(&address).await.unwrap();
        }
        assert_eq!(recorded.await.unwrap(), Outcome::Processed);
        assert!(shop.mail.is_suppressed(&address).await.unwrap(), "round {round}");
    }
}

async fn an_erasure_needs_a_key<S: MailStore>(shop: Shop<S>) {
    let error = shop.mail.erase("ann@example.com").await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("MailBuilder::erasure_key"));
    let error = Mail::builder(MemoryMail::default()).erasure_key([7; 31]).build().unwrap_err();
    assert!(error.to_string().contains("31 bytes"), "{error}");
}

#[tokio::test]
async fn dead_letters_about_a_person_are_erased() {
    let dir = sendarix_webhooks_test_support::TempFile::new("erasure.jsonl");
    let letters = std::sync::Arc::new(FileDeadLetters::open(dir.path()).unwrap());
    let inbox = Inbox::builder("default").dead_letters(std::sync::Arc::clone(&letters)).build().unwrap();
    for recipient in ["Ann@example.com", "joann@example.com", "Ann <ann@EXAMPLE.com>"] {
        let event = event(&sample(EventType::Open, 0).recipient(recipient));
        let outcome = inbox.process(event, |_| async { Err::<(), _>(HandlerError::permanent("no")) }).await.unwrap();
        assert_eq!(outcome, Outcome::FailedPermanently);
    }
    assert_eq!(Mail::<MemoryMail>::erase_letters("ann@example.com", &*letters, "default").await.unwrap(), 2);
    let left = letters.list("default", None, 9).await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(String::from_utf8_lossy(&left[0].as_ref().unwrap().body).contains("joann@example.com"));
}
