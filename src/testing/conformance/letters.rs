use std::sync::Arc;

use super::{must, new_key};
use crate::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters};
use crate::event::{Place, Timestamp};
use crate::store::EventKey;
use crate::verify::Signature;

/// Checks the rules of [`DeadLetters`].
///
/// # Panics
///
/// A rule is broken, or the store returns an error.
pub async fn dead_letters(store: Arc<dyn DeadLetters>) {
    let get = async |key: &EventKey| must(store.get(key).await);
    let record = async |letter: &DeadLetter| must(store.record(letter).await);

    let key = new_key();
    assert_eq!(get(&key).await, None, "there is no letter before one is recorded");
    must(store.resolve(&key).await);

    let letter = sample_letter(key.clone());
    record(&letter).await;
    assert_eq!(get(&key).await, Some(letter.clone()), "a letter comes back as it was, to the byte");
    record(&letter).await;
    assert_eq!(get(&key).await, Some(letter.clone()), "recording it again changes nothing");

    let mut later = letter.clone();
    later.attempts = 2;
    later.first_at = at(2000);
    later.last_at = at(2000);
    later.reason = DeadLetterReason::FailedPermanently;
    later.error = "worse".to_owned();
    record(&later).await;
    let merged = DeadLetter { first_at: letter.first_at, ..later.clone() };
    assert_eq!(get(&key).await, Some(merged.clone()), "a later letter keeps when it all began");

    let forgetful = DeadLetter { attempts: 1, ..later };
    record(&forgetful).await;
    assert_eq!(get(&key).await, Some(merged), "the highest number of attempts stays");

    let neighbour = sample_letter(EventKey::new("another-endpoint", key.event_id()));
    record(&neighbour).await;
    must(store.resolve(&key).await);
    assert_eq!(get(&key).await, None, "a resolved letter is gone");
    assert_eq!(get(&neighbour.key).await, Some(neighbour.clone()), "the same id at another endpoint is another letter");
    must(store.resolve(&key).await);

    record(&letter).await;
    assert_eq!(get(&key).await, Some(letter), "a letter after a resolved one starts anew");
    must(store.resolve(&key).await);
    must(store.resolve(&neighbour.key).await);
}

/// With everything in it that a store could lose on the way.
fn sample_letter(key: EventKey) -> DeadLetter {
    let body = [b"{\"a\":\"\\u0000\"}\r\n \xff\xfe\0".as_slice(), &[b'x'; 10_000]].concat();
    let mut letter = DeadLetter::new(key, body, sample_signature(), DeadLetterReason::Failed, at(1000));
    letter.timestamp_header = Some(u64::MAX / 4);
    letter.error = "line\nbreak, \u{1F4E7} and \"quotes\"".to_owned();
    letter.place = Some(Place { line: 3, column: 7 });
    letter
}

fn sample_signature() -> Signature {
    must(Signature::parse("0123456789abcdef".repeat(4).as_bytes()))
}

fn at(unix_seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(unix_seconds).unwrap_or_else(|| std::time::UNIX_EPOCH.into())
}
