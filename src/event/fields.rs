//! Lenient reading of an event's `data`.
//!
//! The sender may add fields, drop them or change their type at any time, and a hard bounce must not be lost because
//! `smtp_code` came as a string. So `data` is read as a flat list of names and unread values, from which each event type
//! picks what it knows: a field that is missing, `null` or of another type is `None`, and only what no reader of JSON could
//! make sense of is an error, upon which the envelope is read without its data.
//!
//! Values are read from their own text, so an application that switches on `serde_json`'s `arbitrary_precision` changes
//! nothing here.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of a JSON object in their order; empty for any other JSON value.
#[derive(Default)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Fields<'a> {
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text(self.find(name)?)
    }

    /// An integer, or a string that holds one, if the target type can hold it.
    pub(super) fn integer<T: TryFrom<i128>>(&self, name: &str) -> Option<T> {
        let json = self.find(name)?;
        let integer: i128 = text(json).map_or_else(|| json.parse(), |text| text.trim().parse()).ok()?;
        integer.try_into().ok()
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.find(name)?.parse().ok()
    }

    /// Of a field that was sent twice, the last counts, as in most JSON readers.
    fn find(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, json)| *json)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Fields::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Fields::default())
            }

            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Fields::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Fields::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Fields::default())
            }

            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Fields::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Fields::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                // No event type documents more than five fields.
                let mut fields = Vec::with_capacity(6);
                while let Some((Name(name), json)) = map.next_entry::<Name<'_>, &RawValue>()? {
                    fields.push((name, json.get()));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_any(FieldsVisitor)
    }
}

/// The text that a value is, if it is one. It must be JSON.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    let text = json.strip_prefix('"')?.strip_suffix('"')?;
    if text.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(text)) }
}

/// A field's name, borrowed where it has no escapes. Serde's own `Cow` always owns, outside a derived struct.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Fields<'_> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_field_of_another_type_is_none_and_hides_no_other() {
        let fields = read(r#"{"a":[1,{"b":2}],"b":{"c":null},"c":null,"d":1.5,"e":"text","f":true,"g":7}"#);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(fields.text(name), None, "{name}");
            assert_eq!(fields.integer::<i64>(name), None, "{name}");
            assert_eq!(fields.flag(name), None, "{name}");
        }
        assert_eq!(fields.text("e").as_deref(), Some("text"));
        assert_eq!(fields.flag("f"), Some(true));
        assert_eq!(fields.integer("g"), Some(7_u16));
        assert_eq!(fields.text("g"), None);
        assert_eq!(fields.flag("e"), None);
    }

    #[test]
    fn a_number_may_come_as_a_string() {
        let fields = read(r#"{"a":"550","b":" 550 ","c":"5xx","d":"","e":70000,"f":-1,"g":"\""}"#);
        assert_eq!(fields.integer("a"), Some(550_u16));
        assert_eq!(fields.integer("b"), Some(550_u16));
        for name in ["c", "d", "e", "f", "g"] {
            assert_eq!(fields.integer::<u16>(name), None, "{name}");
        }
    }

    #[test]
    fn escapes_are_undone_and_the_last_of_two_counts() {
        let fields = read(r#"{"a":"first","\u0061":"se\u0063ond\n"}"#);
        assert_eq!(fields.text("a").as_deref(), Some("second\n"));
    }

    #[test]
    fn what_is_no_object_has_no_fields() {
        for json in ["null", "[]", "1", "\"text\"", "true", "-1", "1.5"] {
            assert_eq!(read(json).text("a"), None, "{json}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        // An authentic sender may nest as it likes in a field that nobody reads.
        let deep = format!(r#"{{"x":{}{},"smtp_code":550}}"#, "[".repeat(50_000), "]".repeat(50_000));
        assert_eq!(read(&deep).integer("smtp_code"), Some(550_u16));
    }
}
