//! What may stand in the two headers, and what may not.

use std::time::{SystemTime, UNIX_EPOCH};

use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, SigningSecret, SigningSecrets};

use crate::support::{Endpoint, Front, Post, parity, secret};

parity! {
    a_signature_is_64_hex_digits_in_one_header,
    every_changed_bit_of_body_or_signature_is_refused,
    a_timestamp_is_fresh_unix_seconds_in_one_header,
    timestamps_can_be_ignored_on_demand,
    secrets_are_rotated_while_the_server_runs,
}

const SIGNATURE: &str = "x-sendarix-signature";
const TIMESTAMP: &str = "x-sendarix-timestamp";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn a_signature_is_64_hex_digits_in_one_header(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    let body = Sample::new(EventType::Open).body();
    let signature = secret().sign(&body).to_string();
    let other = secret().sign(b"another body").to_string();
    let post = Post::signed(&body);
    let malformed: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"0".to_vec(),
        signature[..63].into(),
        format!("{signature}0").into(),
        format!("sha256={signature}").into(),
        format!("v1,{signature}").into(),
        format!("{signature},{signature}").into(),
        format!("{signature}, {other}").into(),
        format!("0x{}", &signature[2..]).into(),
        format!("g{}", &signature[1..]).into(),
        format!("{} {}", &signature[..32], &signature[31..]).into(),
        [&signature.as_bytes()[..63], b"\xff"].concat(),
        [&signature.as_bytes()[..62], "é".as_bytes()].concat(),
        vec![b'a'; 7000],
    ];
    for value in malformed {
        let reply = endpoint.send(&post.clone().replacing(SIGNATURE, &value)).await;
        reply.assert_is(401, "the X-Sendarix-Signature header is not 64 hex digits");
    }
    let missing = post.clone().without(SIGNATURE);
    endpoint.send(&missing).await.assert_is(401, "the X-Sendarix-Signature header is missing");
    for second in [&signature, &other] {
        let repeated = post.clone().with("X-SENDARIX-Signature", second);
        endpoint.send(&repeated).await.assert_is(401, "the X-Sendarix-Signature header is repeated");
    }
    for wrong in [other, "0".repeat(64)] {
        let reply = endpoint.send(&post.clone().replacing(SIGNATURE, wrong)).await;
        reply.assert_is(401, "the signature does not match the body");
    }
    assert_eq!(endpoint.handled(), 0);

    let upper = post.replacing(SIGNATURE, signature.to_uppercase());
    assert_eq!(endpoint.send(&upper).await.status, 200);
    assert_eq!(endpoint.handled(), 1);
}

async fn every_changed_bit_of_body_or_signature_is_refused(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    let body = Sample::new(EventType::Open).body();
    let signature = secret().sign(&body).to_string();
    let mut client = endpoint.connect().await;
    for bit in 0..body.len() * 8 {
        let mut post = Post::signed(&body);
        post.body[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(client.send(&post).await.status, 401, "bit {bit} of the body");
    }
    for digit in 0..64 {
        let mut changed = signature.clone().into_bytes();
        changed[digit] = if changed[digit] == b'0' { b'1' } else { b'0' };
        let post = Post::signed(&body).replacing(SIGNATURE, changed);
        assert_eq!(client.send(&post).await.status, 401, "digit {digit} of the signature");
    }
    assert_eq!(endpoint.handled(), 0);
}

async fn a_timestamp_is_fresh_unix_seconds_in_one_header(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    let post = Post::signed(&Sample::new(EventType::Open).body());
    let now = now();
    let long = "9".repeat(5000);
    let fraction = format!("{now}.5");
    let cases = [
        ("", "the X-Sendarix-Timestamp header is not Unix seconds"),
        ("-1", "the X-Sendarix-Timestamp header is not Unix seconds"),
        ("+1", "the X-Sendarix-Timestamp header is not Unix seconds"),
        ("NaN", "the X-Sendarix-Timestamp header is not Unix seconds"),
        ("1e9", "the X-Sendarix-Timestamp header is not Unix seconds"),
        ("2026-04-19T14:32:01Z", "the X-Sendarix-Timestamp header is not Unix seconds"),
        (&fraction, "the X-Sendarix-Timestamp header is not Unix seconds"),
        ("18446744073709551616", "the X-Sendarix-Timestamp header is not Unix seconds"),
        (&long, "the X-Sendarix-Timestamp header is not Unix seconds"),
        ("0", "the timestamp is too old"),
        (&(now - 301).to_string(), "the timestamp is too old"),
        (&(now + 400).to_string(), "the timestamp is too far ahead"),
        // Milliseconds, as JavaScript counts.
        (&(now * 1000).to_string(), "the timestamp is too far ahead"),
        ("18446744073709551615", "the timestamp is too far ahead"),
    ];
    for (value, text) in cases {
        endpoint.send(&post.clone().replacing(TIMESTAMP, value)).await.assert_is(401, text);
    }
    let missing = post.clone().without(TIMESTAMP);
    endpoint.send(&missing).await.assert_is(401, "the X-Sendarix-Timestamp header is missing");
    let repeated = post.clone().with(TIMESTAMP, now.to_string());
    endpoint.send(&repeated).await.assert_is(401, "the X-Sendarix-Timestamp header is repeated");
    assert_eq!(endpoint.handled(), 0);

    assert_eq!(endpoint.send(&post.replacing(TIMESTAMP, (now - 200).to_string())).await.status, 200);
    assert_eq!(endpoint.handled(), 1);
}

async fn timestamps_can_be_ignored_on_demand(front: Front) {
    let endpoint = Endpoint::start(front, |builder| builder.dangerously_ignore_timestamps(), |_| async {}).await;
    for value in [None, Some("0"), Some("nonsense")] {
        let mut post = Post::signed(&Sample::new(EventType::Open).body()).without(TIMESTAMP);
        if let Some(value) = value {
            post = post.with(TIMESTAMP, value);
        }
        assert_eq!(endpoint.send(&post).await.status, 200, "{value:?}");
    }
}

async fn secrets_are_rotated_while_the_server_runs(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    let new = SigningSecret::new("the next secret").unwrap();
    let signed_with = |secret: &SigningSecret| {
        let body = Sample::new(EventType::Open).body();
        Post::signed(&body).replacing(SIGNATURE, secret.sign(&body).to_string())
    };
    assert_eq!(endpoint.send(&signed_with(&new)).await.status, 401);
    let secrets = endpoint.receiver.secrets().clone();
    secrets.replace(SigningSecrets::from(new.clone()).and("previous", secret()));
    assert_eq!(endpoint.send(&signed_with(&new)).await.status, 200);
    assert_eq!(endpoint.send(&signed_with(&secret())).await.status, 200);
    secrets.replace(new.clone());
    assert_eq!(endpoint.send(&signed_with(&new)).await.status, 200);
    assert_eq!(endpoint.send(&signed_with(&secret())).await.status, 401);
}
