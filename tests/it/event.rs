//! The event as an application holds it.

use std::collections::BTreeMap;

use sendarix_webhooks::event::{DecodeErrorKind, Place};
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventKind, EventType, SendarixEvent, Suppression};

fn decode(sample: &Sample) -> SendarixEvent {
    SendarixEvent::decode(sample.body()).unwrap()
}

#[test]
fn every_type_decodes_in_both_envelopes() {
    for &event_type in EventType::ALL {
        let sample = Sample::new(event_type);
        for body in [sample.body(), sample.simplified_body()] {
            let event = SendarixEvent::decode(body).unwrap();
            assert_eq!(event.kind.event_type(), Some(event_type));
            assert_eq!(event.type_name(), event_type.as_str());
        }
    }
}

#[test]
fn the_round_trip_through_serde_loses_nothing() {
    let exotic = "{\"event_id\":\"e\",\n\t\"event_type\":\"new\",\"timestamp\":17,\"message_id\":\"\\u00e9\",\"recipient\":\"r\",\
                  \"data\":{\"n\":1.000000000000000000001,\"n\":[ ] },\"later\":\"\u{1F4E7}\"}";
    let mut bodies: Vec<Vec<u8>> = EventType::ALL.iter().map(|event_type| Sample::new(*event_type).body()).collect();
    bodies.push(exotic.into());
    for body in bodies {
        let event = SendarixEvent::decode(body.clone()).unwrap();
        let text = serde_json::to_string(&event).unwrap();
        let again: SendarixEvent = serde_json::from_str(&text).unwrap();
        assert_eq!(again, event);
        assert_eq!(again.body(), &body);
        // As a queue might keep it.
        let value = serde_json::to_value(&event).unwrap();
        assert_eq!(serde_json::from_value::<SendarixEvent>(value).unwrap(), event);
    }
}

#[test]
fn a_serialized_event_of_the_first_version_can_be_read() {
    let stored =
        r#"{"body":"{\"event\":\"open\",\"message_id\":\"m\",\"recipient\":\"r\",\"timestamp\":17}","added_later":1}"#;
    let event: SendarixEvent = serde_json::from_str(stored).unwrap();
    assert_eq!((event.type_name(), event.timestamp.unix_seconds()), ("open", 17));
}

#[test]
fn unknown_fields_and_types_are_kept() {
    let event = decode(&Sample::of_unknown_type("relayed").data(r#"{"hops":3,"via":["a","b"]}"#));
    assert_eq!((event.kind.event_type(), event.type_name()), (None, "relayed"));
    assert_eq!(event.data(), Some(r#"{"hops":3,"via":["a","b"]}"#));
    let data: BTreeMap<String, serde_json::Value> = event.data_as().unwrap();
    assert_eq!(data["hops"], 3);
    assert!(event.data_as::<Vec<u8>>().is_err());
}

#[test]
fn suppression_says_who_should_not_be_mailed_again() {
    let suppression = |sample: Sample| decode(&sample).suppression();
    for &event_type in EventType::ALL {
        let expected = match event_type {
            EventType::Bounce => Some(Suppression::PermanentBounce),
            EventType::Complaint => Some(Suppression::Complaint),
            EventType::Unsubscribe => Some(Suppression::Unsubscribe),
            _ => None,
        };
        assert_eq!(suppression(Sample::new(event_type)), expected, "{event_type}");
    }
    let soft = Sample::new(EventType::Bounce).data(r#"{"bounce_type":"soft"}"#);
    assert_eq!(suppression(soft.clone()), None);
    assert!(!decode(&soft).is_permanent());
    assert!(decode(&Sample::new(EventType::Bounce)).is_permanent());
    assert!(!decode(&Sample::new(EventType::SoftBounce).data(r#"{"bounce_type":"hard"}"#)).is_permanent());
}

#[test]
fn a_decode_error_says_what_and_where() {
    let error = SendarixEvent::decode("{\"event_type\":\n 7}").unwrap_err();
    assert_eq!((error.kind(), error.member()), (DecodeErrorKind::Envelope, Some("event_type")));
    let error = SendarixEvent::decode("{\"event_type\":\n ?}").unwrap_err();
    assert_eq!((error.kind(), error.member()), (DecodeErrorKind::NotJson, None));
    let Some(Place { line: 2, column, .. }) = error.place() else { panic!("{error:?}") };
    assert!(column > 0);
    assert_eq!(SendarixEvent::decode(b"\xff".as_slice()).unwrap_err().kind(), DecodeErrorKind::NotUtf8);
}

#[test]
fn events_go_wherever_an_application_needs_them() {
    fn assert_bounds<T: Clone + Send + Sync + 'static>() {}
    assert_bounds::<SendarixEvent>();
    assert_bounds::<sendarix_webhooks::Receiver>();
    assert_bounds::<sendarix_webhooks::SendarixLayer>();
    assert_bounds::<sendarix_webhooks::HandlerError>();
    assert_bounds::<sendarix_webhooks::SigningSecrets>();
    let event = decode(&Sample::new(EventType::Open));
    assert!(std::ptr::eq(event.recipient.as_str(), event.clone().recipient.as_str()), "a clone shares everything");
}

#[test]
fn data_that_is_no_object_costs_its_fields_alone() {
    for json in ["[{\"smtp_code\":550}]", "1", "\"a \\ud83d text\"", "true", "-1", "1e999", "null"] {
        let body = format!(
            r#"{{"event_id":"e","event_type":"bounce","timestamp":17,"message_id":"m","recipient":"r","data":{json}}}"#
        );
        let event = SendarixEvent::decode(body).unwrap();
        let EventKind::Bounce(bounce) = &event.kind else { panic!("{json}") };
        assert_eq!((bounce.smtp_code, bounce.bounce_type.as_ref()), (None, None), "{json}");
        assert_eq!((event.is_permanent(), event.data()), (true, Some(json)), "{json}");
    }
}

/// The specification allows no empty subject.
#[test]
fn a_cloud_event_of_a_message_without_an_id_has_no_subject() {
    let event = SendarixEvent::decode(Sample::new(EventType::Open).message_id("").body()).unwrap();
    let cloud_event = event.to_cloud_event("/webhooks/sendarix");
    let structured: serde_json::Value = serde_json::from_str(&cloud_event.structured()).unwrap();
    assert_eq!(structured.get("subject"), None);
    assert!(!cloud_event.binary_headers().iter().any(|(name, _)| *name == "ce-subject"));
}

#[test]
fn a_cloud_event_has_every_attribute_in_both_modes() {
    let body = br#"{"event_id":"evt \u00e9\"%\u0001","event_type":"tele ported","timestamp":"2026-04-19T14:30:45Z",
        "message_id":"msg_1","recipient":"r","data":{"half":"\ud83d"}}"#;
    let event = SendarixEvent::decode(body.as_slice()).unwrap();
    let cloud_event = event.to_cloud_event("https://app.example/webhooks?a=b c");
    let structured = cloud_event.structured();
    let start = r#"{"specversion":"1.0","id":"evt é\"%\u0001","source":"https://app.example/webhooks?a=b c","type":"com.sendarix.tele ported","subject":"msg_1","time":"2026-04-19T14:30:45Z","datacontenttype":"application/json","data":{"event_id""#;
    assert!(structured.starts_with(start), "{structured}");
    assert!(structured.contains(r#""data":{"half":"\ud83d"}"#), "the data is what was signed: {structured}");
    let headers = cloud_event.binary_headers();
    let header = |name: &str| headers.iter().find(|(known, _)| *known == name).unwrap().1.as_str();
    assert_eq!(header("ce-specversion"), "1.0");
    assert_eq!(header("ce-id"), "evt%20%C3%A9%22%25%01");
    assert_eq!(header("ce-source"), "https://app.example/webhooks?a=b%20c");
    assert_eq!(header("ce-type"), "com.sendarix.tele%20ported");
    assert_eq!((header("ce-subject"), header("ce-time")), ("msg_1", "2026-04-19T14:30:45Z"));
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(cloud_event.data().as_ref(), body);
}
