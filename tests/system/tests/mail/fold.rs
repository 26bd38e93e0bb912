//! The state that is kept equals the fold of the set of events, whatever their order, their copies and their number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, rng};
use sendarix_webhooks::mail::{MailStore, MessageState};
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, Outcome, SendarixEvent};

use crate::on_every_store;
use crate::shop::{Shop, at, event};

on_every_store!(four_writers_come_to_the_fold_of_the_set);

/// `MAIL_EVENTS` asks for more, ten to a message.
fn events() -> Vec<SendarixEvent> {
    let count: usize = std::env::var("MAIL_EVENTS").map_or(4000, |count| count.parse().unwrap());
    let data =
        ["{}", r#"{"bounce_type":"soft"}"#, r#"{"bounce_type":"hard","smtp_code":550}"#, r#"{"smtp_message":"no"}"#];
    let mut events: Vec<_> = (0..count)
        .map(|number| {
            let event_type = EventType::ALL[rng().random_range(0..EventType::ALL.len())];
            let sample = Sample::new(event_type)
                .event_id(format!("evt_{number}"))
                .message_id(format!("msg_{}", number / 10))
                .recipient(format!("user{}@example.com", number / 5 % 1000))
                // Few times, so that they are often the same.
                .timestamp(at(rng().random_range(-5..5)));
            let sample = if event_type.as_str().ends_with("bounce") {
                sample.data(data[rng().random_range(0..data.len())])
            } else {
                sample
            };
            event(&sample)
        })
        .collect();
    let copies: Vec<_> = events.iter().filter(|_| rng().random_bool(0.05)).cloned().collect();
    events.extend(copies);
    events.shuffle(&mut rng());
    events
}

async fn four_writers_come_to_the_fold_of_the_set<S: MailStore>(shop: Shop<S>) {
    let events = Arc::new(events());
    let writers = [0, 1, 2, 3].map(|writer| {
        let (shop, events) = (shop.clone(), Arc::clone(&events));
        tokio::spawn(async move {
            for event in events.iter().skip(writer).step_by(4) {
                // A copy of what another writer has claimed comes again.
                while !matches!(shop.record(event).await, Outcome::Processed | Outcome::Duplicate) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }

    let mut seen = HashSet::new();
    let mut expected: HashMap<(&str, &str), (MessageState, u64, u64)> = HashMap::new();
    let mut suppressed = HashSet::new();
    for event in events.iter().filter(|event| seen.insert(&event.event_id)) {
        let (state, opens, clicks) = expected.entry((&event.message_id, &event.recipient)).or_default();
        state.apply(event);
        *opens += u64::from(event.type_name() == "open");
        *clicks += u64::from(event.type_name() == "click");
        suppressed.extend(event.suppression().map(|_| event.recipient.as_str()));
    }
    let recipients: HashSet<_> = events.iter().map(|event| event.recipient.as_str()).collect();
    let recipients: Vec<_> = recipients.into_iter().collect();
    let found = shop.mail.are_suppressed(&recipients).await.unwrap();
    for (recipient, found) in recipients.iter().zip(found) {
        assert_eq!(found, suppressed.contains(recipient), "{recipient}");
    }
    for ((message_id, recipient), (state, opens, clicks)) in expected {
        let message = shop.mail.message(message_id, recipient).await.unwrap().unwrap();
        assert_eq!(message.state, state, "{message_id} to {recipient}");
        assert_eq!((message.opens, message.clicks), (opens, clicks), "{message_id} to {recipient}");
    }
}
