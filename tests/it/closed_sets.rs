//! The names of closed sets: each is read back, and an error lists them.

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use sendarix_webhooks::dead_letter::DeadLetterReason;
use sendarix_webhooks::inbox::RedriveErrorKind;
use sendarix_webhooks::mail::{Measure, MessageStatus, SuppressionReason};
use sendarix_webhooks::{EventType, Outcome, RefusalKind, Suppression, UnknownName, UnknownTypes};

fn check<T>(all: &[T])
where
    T: FromStr<Err = UnknownName> + Display + Debug + PartialEq,
{
    let names: BTreeSet<String> = all.iter().map(T::to_string).collect();
    assert_eq!(names.len(), all.len(), "no two have the same name: {names:?}");
    let error = "Nothing".parse::<T>().unwrap_err().to_string();
    for value in all {
        let name = value.to_string();
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert_eq!(name.parse().as_ref(), Ok(value));
        assert!(error.split_whitespace().any(|known| known == name), "{error}");
        for wrong in [name.to_uppercase(), format!("{name} "), String::new()] {
            assert!(wrong.parse::<T>().is_err(), "{wrong:?}");
        }
    }
}

#[test]
fn every_value_is_read_back_from_its_name_and_the_error_lists_all_names() {
    check(EventType::ALL);
    check(Measure::ALL);
    check(MessageStatus::ALL);
    check(Outcome::ALL);
    check(RedriveErrorKind::ALL);
    check(RefusalKind::ALL);
    check(Suppression::ALL);
    check(SuppressionReason::ALL);
    check(UnknownTypes::ALL);
    assert_eq!(format!("{:>8}|{:<6}|", Outcome::Slow, EventType::Open), "    slow|open  |");
}

#[test]
fn a_reason_that_a_newer_version_has_written_is_kept() {
    for reason in DeadLetterReason::ALL {
        assert_eq!(reason.to_string().parse().as_ref(), Ok(reason));
    }
    assert_eq!("quarantined".parse(), Ok(DeadLetterReason::Other("quarantined".to_owned())));
}
