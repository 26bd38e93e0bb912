//! What is known of a message does not depend on how its events came.

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use sendarix_webhooks::mail::{MessageState, MessageStatus};
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, SendarixEvent, Timestamp};

fn event(event_type: EventType, second: i64, data: &str) -> SendarixEvent {
    let sample = Sample::new(event_type).timestamp(Timestamp::from_unix_seconds(second).unwrap());
    SendarixEvent::decode(sample.data(data).body()).unwrap()
}

/// Few times and few texts, so that they are often the same.
fn events() -> impl Strategy<Value = Vec<SendarixEvent>> {
    let data = prop::sample::select(vec![
        "{}",
        r#"{"bounce_type":"soft"}"#,
        r#"{"bounce_type":"hard","smtp_code":550}"#,
        r#"{"smtp_code":550,"smtp_message":"no"}"#,
        r#"{"bounce_category":"invalid_email"}"#,
    ]);
    let one = (prop::sample::select(EventType::ALL.to_vec()), 0..5_i64, data);
    prop::collection::vec(one.prop_map(|(event_type, second, data)| event(event_type, second, data)), 0..12)
}

fn fold(events: &[SendarixEvent]) -> MessageState {
    events.iter().collect()
}

fn merged(a: &MessageState, b: &MessageState) -> MessageState {
    let mut merged = a.clone();
    merged.merge(b);
    merged
}

proptest! {
    #[test]
    fn merging_is_associative_commutative_and_idempotent(a in events(), b in events(), c in events()) {
        let [a, b, c] = [fold(&a), fold(&b), fold(&c)];
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(&merged(&a, &a), &a);
        prop_assert_eq!(&merged(&a, &MessageState::default()), &a);
    }

    #[test]
    fn any_order_and_any_duplicates_come_to_the_same(
        (events, shuffled) in events().prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle())),
        again in prop::collection::vec(any::<Index>(), 0..12),
        parts in any::<Index>(),
    ) {
        let expected = fold(&events);
        let duplicated: Vec<SendarixEvent> =
            shuffled.iter().chain(again.iter().filter_map(|index| shuffled.get(index.index(shuffled.len().max(1))))).cloned().collect();
        prop_assert_eq!(&fold(&duplicated), &expected);
        let (here, there) = duplicated.split_at(parts.index(duplicated.len() + 1));
        prop_assert_eq!(&merged(&fold(there), &fold(here)), &expected);
    }

    /// More events never take anything back.
    #[test]
    fn a_status_only_goes_forward((all, some) in events().prop_flat_map(|all| {
        let length = all.len();
        (Just(all.clone()), subsequence(all, 0..=length))
    })) {
        prop_assert!(fold(&some).status() <= fold(&all).status());
    }

    #[test]
    fn it_survives_being_stored(events in events()) {
        let state = fold(&events);
        let stored = serde_json::to_string(&state).unwrap();
        prop_assert_eq!(serde_json::from_str::<MessageState>(&stored).unwrap(), state);
    }
}

#[test]
fn it_says_what_the_events_say() {
    use EventType::{Accepted, Bounce, Click, Complaint, Deferred, Delivered, Open, SoftBounce, Unsubscribe};
    let state = |types: &[EventType]| -> MessageState {
        let events: Vec<SendarixEvent> =
            types.iter().zip(1..).map(|(event_type, second)| event(*event_type, second, "{}")).collect();
        fold(&events)
    };
    for (types, status) in [
        ([].as_slice(), None),
        (&[Accepted], Some(MessageStatus::Accepted)),
        (&[Deferred, Accepted], Some(MessageStatus::Deferred)),
        (&[Deferred, SoftBounce], Some(MessageStatus::SoftBounced)),
        (&[Delivered, Deferred, SoftBounce, Accepted], Some(MessageStatus::Delivered)),
        (&[Complaint], Some(MessageStatus::Delivered)),
        (&[Open], Some(MessageStatus::Delivered)),
        (&[Bounce, Delivered], Some(MessageStatus::Bounced)),
        (&[Delivered, Bounce], Some(MessageStatus::Bounced)),
    ] {
        assert_eq!(state(types).status(), status, "{types:?}");
    }
    let at = |second| Timestamp::from_unix_seconds(second);
    let all =
        state(&[Accepted, Delivered, Open, Click, Open, Click, Open, Complaint, Unsubscribe, Delivered, Deferred]);
    assert_eq!((all.accepted_at(), all.delivered_at(), all.deferred_at()), (at(1), at(2), at(11)));
    assert_eq!(all.opened().map(|open| (open.first(), open.last())), at(3).zip(at(7)));
    assert_eq!(all.clicked().map(|click| (click.first(), click.last())), at(4).zip(at(6)));
    assert_eq!((all.complained_at(), all.unsubscribed_at()), (at(8), at(9)));

    let soft = fold(&[event(Bounce, 1, r#"{"bounce_type":"soft","smtp_code":452}"#)]);
    assert_eq!((soft.bounce(), soft.soft_bounce().unwrap().smtp_code), (None, Some(452)));
    let hard = fold(&[event(Bounce, 1, r#"{"bounce_category":"new_one","smtp_message":"no"}"#)]);
    let bounce = hard.bounce().unwrap();
    assert_eq!((bounce.category.as_deref(), bounce.smtp_message.as_deref()), (Some("new_one"), Some("no")));
}

#[test]
fn what_was_stored_before_is_read() {
    let stored = r#"{"accepted":"2026-04-19T14:30:00Z","bounce":{"at":"2026-04-19T14:30:05Z","category":"invalid_email",
        "smtp_code":550,"smtp_message":"no"},"open":{"first":"2026-04-19T14:31:00Z","last":"2026-04-19T14:32:00Z"},
        "something_new":1}"#;
    let state: MessageState = serde_json::from_str(stored).unwrap();
    assert_eq!(state.status(), Some(MessageStatus::Bounced));
    assert_eq!(state.bounce().unwrap().smtp_code, Some(550));
    assert_eq!(state.opened().unwrap().last().to_string(), "2026-04-19T14:32:00Z");
}
