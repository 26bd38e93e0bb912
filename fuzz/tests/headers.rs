use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bolero::check;
use sendarix_webhooks::testing::ManualClock;
use sendarix_webhooks::verify::Signature;
use sendarix_webhooks::{Head, Receiver, SigningSecret};

const NOW: u64 = 1_776_600_000;

#[test]
fn signature() {
    check!().for_each(|header: &[u8]| {
        let is_hex = header.len() == 64 && header.iter().all(u8::is_ascii_hexdigit);
        match Signature::parse(header) {
            Ok(signature) => {
                assert!(is_hex);
                assert_eq!(signature.to_string().as_bytes(), header.to_ascii_lowercase());
            }
            Err(error) => {
                assert!(!is_hex);
                let _ = error.to_string();
            }
        }
    });
}

/// Only digits that are within five minutes of now.
#[test]
fn timestamp() {
    let now: SystemTime = UNIX_EPOCH + Duration::from_secs(NOW);
    let secret = SigningSecret::new("secret").unwrap();
    let receiver =
        Receiver::builder(secret).clock(ManualClock::at(now)).dangerously_without_dead_letters().build().unwrap();
    // A panic ends the test, so what it leaves behind does not matter.
    let receiver = Mutex::new(receiver);
    let signature = [b'0'; 64];
    check!().for_each(|header: &[u8]| {
        let headers = [("x-sendarix-signature", signature.as_slice()), ("x-sendarix-timestamp", header)];
        let digits = header.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(header).unwrap().parse::<u64>());
        let is_fresh = digits.is_some_and(|seconds| seconds.is_ok_and(|seconds| seconds.abs_diff(NOW) <= 300));
        assert_eq!(receiver.lock().unwrap().admit(&Head::new("POST", headers)).is_ok(), is_fresh);
    });
}
