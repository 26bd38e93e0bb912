//! Lenient reading of an event's `data`.
//!
//! The sender may add fields, drop them or change their type at any time, and a hard bounce must not be lost because
//! `smtp_code` came as a string. So `data` is read as a flat list of names and unread values, from which each event type
//! picks what it knows. A field that is missing, `null`, of another type, or that cannot be read is `None`, and costs no
//! other field.
//!
//! Values are read from their own text, so an application that switches on `serde_json`'s `arbitrary_precision` changes
//! nothing here.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of a JSON object in their order; none of `null`. Any other JSON value is an error.
#[derive(Default)]
pub(super) struct Fields<'a>(Vec<(Name<'a>, &'a str)>);

impl<'a> Fields<'a> {
    /// A text. NUL, which databases refuse, becomes U+FFFD.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        let text = text(self.find(name)?)?;
        Some(if has_nul(&text) { text.replace('\0', "\u{fffd}").into() } else { text })
    }

    /// An integer, a number whose fraction is zero, or a text that holds one, if the target type can hold it.
    pub(super) fn integer<T: TryFrom<i128>>(&self, name: &str) -> Option<T> {
        let json = self.find(name)?;
        // As documented, and so nearly always.
        if let Ok(plain) = json.parse::<i64>() {
            return i128::from(plain).try_into().ok();
        }
        let number = text(json).map_or_else(|| json.parse(), |text| text.trim().parse::<Decimal>()).ok()?;
        number.to_integer()?.try_into().ok()
    }

    /// `true` or `false`, or a text that is one of them.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        let json = self.find(name)?;
        text(json).map_or_else(|| json.parse(), |text| text.trim().parse()).ok()
    }

    /// Of a field that was sent twice, the last that is not `null` counts.
    fn find(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, json)| *key.0 == *name.as_bytes() && *json != "null").map(|(_, json)| *json)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Fields::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                // No event type documents more than five fields.
                let mut fields = Vec::with_capacity(6);
                while let Some((name, json)) = map.next_entry::<Name<'_>, &RawValue>()? {
                    fields.push((name, json.get()));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_any(FieldsVisitor)
    }
}

/// The name of a member, as bytes: `serde_json` reads half a surrogate pair into bytes, and refuses it in a text. Such a
/// name is then no documented one, and the other members are read.
pub(super) struct Name<'a>(pub(super) Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_bytes<E>(self, name: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_vec())))
            }
        }

        deserializer.deserialize_bytes(NameVisitor)
    }
}

/// Whether a text has a NUL, which JSON can hold only as an escape.
#[expect(clippy::ptr_arg, reason = "a text that is borrowed from the body has no escapes")]
pub(super) fn has_nul(text: &Cow<'_, str>) -> bool {
    matches!(text, Cow::Owned(text) if text.contains('\0'))
}

/// The text that a value is, if it is one. It must be JSON.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    let text = json.strip_prefix('"')?.strip_suffix('"')?;
    if text.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(text)) }
}

/// A decimal number, kept as it was written: `mantissa` times ten to the power of `exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    mantissa: i128,
    exponent: i32,
}

impl Decimal {
    /// The number, if its fraction is zero.
    pub(super) fn to_integer(self) -> Option<i128> {
        let scale = 10_i128.checked_pow(self.exponent.unsigned_abs());
        if self.mantissa == 0 {
            Some(0)
        } else if self.exponent >= 0 {
            self.mantissa.checked_mul(scale?)
        } else {
            scale.filter(|scale| self.mantissa % scale == 0).map(|scale| self.mantissa / scale)
        }
    }

    /// The number times ten to the power of `places`. What is below one is cut off.
    pub(super) fn scaled(self, places: i32) -> Option<i128> {
        let Self { mantissa, exponent } = Self { exponent: self.exponent.checked_add(places)?, ..self };
        if exponent >= 0 {
            return mantissa.checked_mul(10_i128.checked_pow(exponent.unsigned_abs())?);
        }
        Some(10_i128.checked_pow(exponent.unsigned_abs()).map_or(0, |scale| mantissa.div_euclid(scale)))
    }
}

/// The text is not a decimal number, or has more digits than any number of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DecimalError;

/// In the notation of JSON; leading zeros are taken as well.
impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().map_err(|_| DecimalError)?),
            None => (text, 0),
        };
        let (whole, fraction) = match number.split_once('.') {
            Some((_, "")) => return Err(DecimalError),
            Some((whole, fraction)) => (whole, fraction),
            None => (number, ""),
        };
        let digits = whole.strip_prefix('-').unwrap_or(whole);
        if digits.is_empty() || !digits.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return Err(DecimalError);
        }
        let fraction = fraction.trim_end_matches('0');
        let mantissa = [whole, fraction].concat().parse().map_err(|_| DecimalError)?;
        let places = i32::try_from(fraction.len()).map_err(|_| DecimalError)?;
        Ok(Self { mantissa, exponent: exponent.checked_sub(places).ok_or(DecimalError)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Fields<'_> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_field_of_another_type_is_none_and_hides_no_other() {
        let fields = read(r#"{"a":[1,{"b":2}],"b":{"c":null},"c":null,"d":1.5,"e":"text","f":true,"g":7,"h":1e400}"#);
        for name in ["a", "b", "c", "d", "h"] {
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
        let fields = read(
            r#"{"a":"550","b":" 550 ","c":"5xx","d":"","e":70000,"f":-1,"g":"\"","h":550.0,"i":55e1,"j":"5.5E2","k":"5500e-1"}"#,
        );
        assert_eq!(fields.integer("a"), Some(550_u16));
        for name in ["b", "h", "i", "j", "k"] {
            assert_eq!(fields.integer(name), Some(550_u16), "{name}");
        }
        for name in ["c", "d", "e", "f", "g"] {
            assert_eq!(fields.integer::<u16>(name), None, "{name}");
        }
    }

    #[test]
    fn escapes_are_undone_and_the_last_of_two_counts() {
        let fields = read(r#"{"a":"first","\u0061":"se\u0063ond\n","a":null}"#);
        assert_eq!(fields.text("a").as_deref(), Some("second\n"));
    }

    #[test]
    fn a_name_or_value_that_cannot_be_read_costs_itself_alone() {
        let fields = read(r#"{"\ud83d":"x","a":"\ud83d","b":"kept","c":1e999,"d":"true","e":"a\u0000b"}"#);
        assert_eq!((fields.text("a"), fields.text("b").as_deref()), (None, Some("kept")));
        assert_eq!((fields.integer::<i64>("c"), fields.flag("d")), (None, Some(true)));
        assert_eq!(fields.text("e").as_deref(), Some("a\u{fffd}b"));
    }

    #[test]
    fn decimals_are_read_to_the_digit() {
        let of = |text: &str| text.parse::<Decimal>().ok();
        assert_eq!(of("312.50").unwrap().scaled(9), Some(312_500_000_000));
        assert_eq!(of("-0.5").unwrap().scaled(0), Some(-1));
        assert_eq!(of(&format!("452.{}", "0".repeat(100))).unwrap().to_integer(), Some(452));
        assert_eq!(of("1e-400").unwrap().scaled(9), Some(0));
        assert_eq!(of("0e999").unwrap().to_integer(), Some(0));
        assert_eq!(of("1e999").unwrap().to_integer(), None);
        assert_eq!(of("1e2147483647").unwrap().scaled(9), None);
        for text in [
            "", ".", "1.", ".5", "-", "-.5", "1.-5", "1e", "1e1.5", "0x10", "NaN", "inf", "1_0", "1 0", "é", "+1",
            "--1", "1-",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        // An authentic sender may nest as it likes in a field that is never read.
        let deep = format!(r#"{{"x":{}{},"smtp_code":550}}"#, "[".repeat(50_000), "]".repeat(50_000));
        assert_eq!(read(&deep).integer("smtp_code"), Some(550_u16));
    }
}
