//! What holds for every input, and is tried with many.

use proptest::prelude::*;
use proptest::sample::Index;
use sendarix_webhooks::contract::{SIGNATURE_HEADER, TIMESTAMP_HEADER};
use sendarix_webhooks::mail::Address;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{EventType, Head, Receiver, SendarixEvent, Timestamp};
use serde_json::{Value, json};

use crate::support::secret;

/// Any JSON, a few levels deep.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Data that has the documented fields, and anything in them.
fn data() -> impl Strategy<Value = Value> {
    let documented = prop::sample::select(vec![
        "bounce_type",
        "bounce_category",
        "smtp_code",
        "smtp_message",
        "was_automatic",
        "delivery_latency_ms",
        "complaint_type",
        "user_agent",
        "ip",
        "url",
        "link_id",
    ]);
    let fields = prop::collection::btree_map(documented.prop_map(str::to_owned), json(), 0..6);
    prop_oneof![json(), fields.prop_map(|map| map.into_iter().collect())]
}

fn type_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(EventType::ALL.to_vec()).prop_map(|event_type| event_type.as_str().to_owned());
    prop_oneof![3 => known, 1 => any::<String>()]
}

/// The times that the wire can say: the years 1 to 9999.
fn timestamp() -> impl Strategy<Value = Timestamp> {
    (-62_000_000_000..253_000_000_000_i64).prop_map(|seconds| Timestamp::from_unix_seconds(seconds).unwrap())
}

/// No text of an envelope may hold a NUL.
fn text(of: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    of.prop_map(|text| text.replace('\0', ""))
}

fn sample() -> impl Strategy<Value = Sample> {
    let (message_id, recipient) = (text(any::<String>()), text(any::<String>()));
    (text(type_name()), text(".{0,60}".boxed()), message_id, recipient, timestamp(), data()).prop_map(
        |(event_type, event_id, message_id, recipient, timestamp, data)| {
            let sample = Sample::of_unknown_type(event_type).event_id(event_id).message_id(message_id);
            sample.recipient(recipient).timestamp(timestamp).data(&data.to_string())
        },
    )
}

fn verify(receiver: &Receiver, headers: &[(&str, String)], body: Vec<u8>) -> bool {
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    receiver.admit(&Head::new("POST", headers)).is_ok_and(|admitted| admitted.verify(body).is_ok())
}

proptest! {
    #[test]
    fn an_event_survives_every_way_of_keeping_it(sample in sample()) {
        let event = SendarixEvent::decode(sample.body()).unwrap();
        prop_assert_eq!(&SendarixEvent::decode(event.body().clone()).unwrap(), &event);
        let text = serde_json::to_string(&event).unwrap();
        prop_assert_eq!(&serde_json::from_str::<SendarixEvent>(&text).unwrap(), &event);
        let value = serde_json::to_value(&event).unwrap();
        prop_assert_eq!(&serde_json::from_value::<SendarixEvent>(value).unwrap(), &event);
    }

    #[test]
    fn whatever_is_in_the_data_the_envelope_is_read(sample in sample(), data in data()) {
        let sample = sample.data(&data.to_string());
        let envelope: Value = serde_json::from_slice(&sample.body()).unwrap();
        let event = SendarixEvent::decode(sample.body()).unwrap();
        if envelope["event_id"] != "" {
            prop_assert_eq!(&json!(event.event_id), &envelope["event_id"]);
        }
        prop_assert_eq!(&json!(event.type_name()), &envelope["event_type"]);
        prop_assert_eq!(&json!(event.message_id), &envelope["message_id"]);
        prop_assert_eq!(&json!(event.recipient), &envelope["recipient"]);
        prop_assert_eq!(&json!(event.timestamp), &envelope["timestamp"]);
        let raw: Value = event.data().map_or(Value::Null, |raw| serde_json::from_str(raw).unwrap());
        prop_assert_eq!(&raw, &envelope["data"]);
    }

    #[test]
    fn any_bit_that_changes_is_refused(sample in sample(), bit in any::<Index>()) {
        let receiver = Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap();
        let body = sample.body();
        let mut headers = signed_headers(&secret(), &body, std::time::SystemTime::now());
        prop_assert!(verify(&receiver, &headers, body.clone()));

        let (mut changed, bit_of_body) = (body.clone(), bit.index(body.len() * 8));
        changed[bit_of_body / 8] ^= 1 << (bit_of_body % 8);
        prop_assert!(!verify(&receiver, &headers, changed));

        let mut signature = const_hex::decode(&headers[0].1).unwrap();
        let bit_of_signature = bit.index(signature.len() * 8);
        signature[bit_of_signature / 8] ^= 1 << (bit_of_signature % 8);
        headers[0].1 = const_hex::encode(signature);
        prop_assert!(!verify(&receiver, &headers, body));
    }

    /// Also of its digits, as they are on the wire.
    #[test]
    fn any_bit_of_the_signature_header_that_changes_is_refused_or_means_the_same(bit in any::<Index>()) {
        let receiver = Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap();
        let body = Sample::new(EventType::Open).body();
        let [(_, signature), (_, timestamp)] = signed_headers(&secret(), &body, std::time::SystemTime::now());
        let mut changed = signature.clone().into_bytes();
        let bit = bit.index(changed.len() * 8);
        changed[bit / 8] ^= 1 << (bit % 8);
        let same = changed.eq_ignore_ascii_case(signature.as_bytes());
        let headers = [(SIGNATURE_HEADER, changed.as_slice()), (TIMESTAMP_HEADER, timestamp.as_bytes())];
        let admitted = receiver.admit(&Head::new("POST", headers));
        prop_assert_eq!(admitted.is_ok_and(|admitted| admitted.verify(body).is_ok()), same);
    }

    /// Also those that come as far as the signature.
    #[test]
    fn no_header_panics_or_gets_in(
        method in prop_oneof![9 => Just("POST".to_owned()), 1 => "[A-Z]{0,8}"],
        signature in prop::option::weighted(0.7, header("[0-9a-fA-F]{64}")),
        timestamp in prop::option::weighted(0.8, header(&now())),
        others in prop::collection::vec((name(), prop::collection::vec(any::<u8>(), 0..80)), 0..3),
    ) {
        let receiver = Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap();
        let named = [(SIGNATURE_HEADER, signature), (TIMESTAMP_HEADER, timestamp)];
        let named = named.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let headers = named.chain(others.iter().map(|(name, value)| (*name, value.as_slice())));
        if let Ok(admitted) = receiver.admit(&Head::new(&method, headers)) {
            prop_assert!(admitted.verify(Vec::new()).is_err());
        }
    }
}

proptest! {
    #[test]
    fn an_address_is_compared_by_one_form(
        text in prop_oneof![any::<String>(), "[a-zA-Z<>\"@. ]{0,20}", "[\\PC]{1,8}@[\\PC.]{1,12}"],
    ) {
        let form = Address::new(&text);
        prop_assert!(form.as_str().len() <= 320 && !form.as_str().contains('\0'));
        prop_assert_eq!(&Address::new(format!(" {text}\t")), &form);
        prop_assert_eq!(&Address::new(text.to_ascii_uppercase()), &Address::new(text.to_ascii_lowercase()));
    }
}

/// A value as it should be, mostly, and else any bytes.
fn header(right: &str) -> impl Strategy<Value = Vec<u8>> {
    let right = prop::string::string_regex(right).unwrap().prop_map(String::into_bytes);
    prop_oneof![3 => right, 1 => prop::collection::vec(any::<u8>(), 0..80)]
}

fn now() -> String {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().to_string()
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["X-Sendarix-Signature", "X-Sendarix-Timestamp", "Content-Length", "Host", "Expect"])
}
