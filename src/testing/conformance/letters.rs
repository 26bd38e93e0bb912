use std::collections::HashMap;
use std::sync::Arc;

use super::{must, new_key};
use crate::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters};
use crate::event::{EventKey, Place, Timestamp};
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

    let late = DeadLetter { attempts: 1, reason: DeadLetterReason::Failed, ..later };
    record(&late).await;
    assert_eq!(get(&key).await, Some(merged), "the highest number of attempts stays, and a dead letter stays dead");

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

    let unsigned = DeadLetter { signature: None, ..sample_letter(new_key()) };
    record(&unsigned).await;
    assert_eq!(get(&unsigned.key).await, Some(unsigned.clone()), "a letter may have no signature");
    must(store.resolve(&unsigned.key).await);

    for reason in DeadLetterReason::ALL.iter().cloned() {
        let letter = DeadLetter { reason, ..sample_letter(new_key()) };
        record(&letter).await;
        assert_eq!(get(&letter.key).await, Some(letter.clone()), "a letter keeps its reason");
        must(store.resolve(&letter.key).await);
    }
    a_letter_is_discarded_as_it_was_read(store.as_ref()).await;
    letters_are_listed_page_by_page(store.as_ref()).await;
}

async fn a_letter_is_discarded_as_it_was_read(store: &dyn DeadLetters) {
    let earlier = sample_letter(new_key());
    must(store.record(&earlier).await);
    let later = DeadLetter { last_at: at(2000), ..earlier.clone() };
    must(store.record(&later).await);
    assert!(!must(store.discard(&earlier).await), "a letter that was recorded again since is not discarded");
    let tried = DeadLetter { attempts: 2, ..later.clone() };
    must(store.record(&tried).await);
    assert!(!must(store.discard(&later).await), "a letter that was tried again since is not discarded");
    let kept = must(store.get(&earlier.key).await);
    assert_eq!(kept, Some(tried.clone()), "a letter that is not discarded stays as it is");
    assert!(must(store.discard(&tried).await), "a letter is discarded as it was read");
    assert_eq!(must(store.get(&earlier.key).await), None, "a discarded letter is gone");
    assert!(!must(store.discard(&tried).await), "a letter is discarded once");
}

async fn letters_are_listed_page_by_page(store: &dyn DeadLetters) {
    let endpoint = format!("conformance-{:016x}", rand::random::<u64>());
    let list = async |after: Option<&str>, limit| must(store.list(&endpoint, after, limit).await);
    assert!(list(None, 10).await.is_empty(), "an endpoint without letters has none");
    let mut ids = ["b", "a", "B", "a b", "\u{1}", "a\u{1}", "%", "ä", "\u{1F4E7}", "1"];
    for id in ids {
        must(store.record(&sample_letter(EventKey::new(endpoint.as_str(), id))).await);
    }
    must(store.record(&sample_letter(EventKey::new("another-endpoint", "a"))).await);
    ids.sort_unstable();
    let mut seen = Vec::new();
    while let page = list(seen.last().map(String::as_str), 3).await
        && !page.is_empty()
    {
        assert!(page.len() <= 3, "a page of at most 3 has {}", page.len());
        for letter in page.into_iter().map(must) {
            assert_eq!(letter, sample_letter(letter.key.clone()), "a letter is listed as it is");
            seen.push(letter.key.event_id().to_owned());
        }
    }
    if let Some(count) = store.count(&endpoint) {
        let expected = HashMap::from([(DeadLetterReason::Failed, 10)]);
        assert_eq!(must(count.await), expected, "the letters of one endpoint are counted");
    }
    assert_eq!(seen, ids, "the letters of one endpoint come in the order of their ids' bytes, each once");
    for id in ids {
        must(store.resolve(&EventKey::new(endpoint.as_str(), id)).await);
    }
    assert!(list(None, 10).await.is_empty(), "resolved letters are not listed");
}

/// With everything in it that a store could lose on the way.
pub(super) fn sample_letter(key: EventKey) -> DeadLetter {
    let body = [b"{\"a\":\"\\u0000\"}\r\n \xff\xfe\0".as_slice(), &[b'x'; 10_000]].concat();
    let mut letter = DeadLetter::new(key, body, DeadLetterReason::Failed, at(1000));
    letter.signature = Some(sample_signature());
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
