//! What happened to the message: one variant a type, and the documented fields of each.

use std::borrow::Cow;
use std::fmt;

use super::fields::Fields;
use crate::closed_set::closed_set;

/// What an event says happened, with the documented fields of its `data`.
///
/// Every field is an `Option`: what the sender left out, sent as `null` or sent as another JSON type is `None`, and the
/// event still arrives. Fields that this crate does not know are in [`SendarixEvent::data`](crate::SendarixEvent).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// Sendarix took the message in.
    Accepted(Accepted),
    /// The recipient's mail server took the message in.
    Delivered(Delivered),
    /// The message could not be delivered, and will not be tried again.
    Bounce(Bounce),
    /// The message could not be delivered for now: mailbox full, greylisted.
    SoftBounce(SoftBounce),
    /// The recipient marked the message as spam.
    Complaint(Complaint),
    /// The recipient clicked the unsubscribe link.
    Unsubscribe(Unsubscribe),
    /// The message was opened: its tracking pixel was fetched, by a person or by a mail scanner.
    Open(Open),
    /// A tracked link was clicked, by a person or by a mail scanner.
    Click(Click),
    /// Delivery is delayed; Sendarix tries again by itself.
    Deferred(Deferred),
    /// A type that this version of the crate does not know. It reaches a handler only if the receiver asks for it.
    Unknown(Unknown),
}

impl EventKind {
    /// Which of the documented types this is; `None` for [`EventKind::Unknown`].
    #[must_use]
    pub fn event_type(&self) -> Option<EventType> {
        Some(match self {
            Self::Accepted(_) => EventType::Accepted,
            Self::Delivered(_) => EventType::Delivered,
            Self::Bounce(_) => EventType::Bounce,
            Self::SoftBounce(_) => EventType::SoftBounce,
            Self::Complaint(_) => EventType::Complaint,
            Self::Unsubscribe(_) => EventType::Unsubscribe,
            Self::Open(_) => EventType::Open,
            Self::Click(_) => EventType::Click,
            Self::Deferred(_) => EventType::Deferred,
            Self::Unknown(_) => return None,
        })
    }

    pub(super) fn read(type_name: &str, data: &Fields<'_>) -> Self {
        let Ok(event_type) = type_name.parse::<EventType>() else {
            return Self::Unknown(Unknown { event_type: type_name.to_owned() });
        };
        let text = |name| data.text(name).map(Cow::into_owned);
        match event_type {
            EventType::Accepted => Self::Accepted(Accepted {}),
            EventType::Delivered => Self::Delivered(Delivered {
                smtp_response: text("smtp_response"),
                server: text("server"),
                delivery_latency_ms: data.integer("delivery_latency_ms"),
            }),
            EventType::Bounce => Self::Bounce(Bounce {
                bounce_type: data.text("bounce_type").map(BounceType::from),
                bounce_category: data.text("bounce_category").map(BounceCategory::from),
                smtp_code: data.integer("smtp_code"),
                smtp_message: text("smtp_message"),
                was_automatic: data.flag("was_automatic"),
            }),
            EventType::SoftBounce => Self::SoftBounce(SoftBounce {
                bounce_type: data.text("bounce_type").map(BounceType::from),
                bounce_category: data.text("bounce_category").map(BounceCategory::from),
                smtp_code: data.integer("smtp_code"),
                smtp_message: text("smtp_message"),
            }),
            EventType::Complaint => Self::Complaint(Complaint {
                complaint_type: data.text("complaint_type").map(ComplaintType::from),
                feedback_type: data.text("feedback_type").map(FeedbackType::from),
                user_agent: text("user_agent"),
            }),
            EventType::Unsubscribe => Self::Unsubscribe(Unsubscribe {}),
            EventType::Open => Self::Open(Open {
                ip: text("ip"),
                user_agent: text("user_agent"),
                os: text("os"),
                client: text("client"),
            }),
            EventType::Click => Self::Click(Click {
                link_id: text("link_id"),
                url: text("url"),
                ip: text("ip"),
                user_agent: text("user_agent"),
                os: text("os"),
            }),
            EventType::Deferred => Self::Deferred(Deferred {}),
        }
    }
}

closed_set! {
    /// The nine event types that Sendarix documents, as a filter or a label.
    #[derive(PartialOrd, Ord)]
    pub enum EventType {
        /// `accepted`
        Accepted = "accepted",
        /// `delivered`
        Delivered = "delivered",
        /// `bounce`
        Bounce = "bounce",
        /// `soft_bounce`
        SoftBounce = "soft_bounce",
        /// `complaint`
        Complaint = "complaint",
        /// `unsubscribe`
        Unsubscribe = "unsubscribe",
        /// `open`
        Open = "open",
        /// `click`
        Click = "click",
        /// `deferred`
        Deferred = "deferred",
    }
}

/// An `accepted` event. Its `data` is not documented.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Accepted {}

/// A `delivered` event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Delivered {
    /// What the recipient's mail server answered, such as `250 OK`.
    pub smtp_response: Option<String>,
    /// The host that delivered the message.
    pub server: Option<String>,
    /// How long the delivery took, in milliseconds.
    pub delivery_latency_ms: Option<u64>,
}

/// A `bounce` event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Bounce {
    /// Whether the failure is final. See [`is_permanent`](Self::is_permanent).
    pub bounce_type: Option<BounceType>,
    /// Why it bounced.
    pub bounce_category: Option<BounceCategory>,
    /// The SMTP reply code, such as 550.
    pub smtp_code: Option<u16>,
    /// The SMTP reply text.
    pub smtp_message: Option<String>,
    /// As sent; the vendor does not say what it means.
    pub was_automatic: Option<bool>,
}

impl Bounce {
    /// Whether mail to this address will go on failing.
    ///
    /// The most specific word decides: `bounce_type` if it is `hard` or `soft`; else the class of `smtp_code`, 5xx being
    /// permanent and 4xx not (RFC 5321, 4.2.1); else the type `bounce` itself, which the vendor defines as permanent.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match (&self.bounce_type, self.smtp_code) {
            (Some(BounceType::Hard), _) => true,
            (Some(BounceType::Soft), _) | (_, Some(400..=499)) => false,
            _ => true,
        }
    }
}

/// A `soft_bounce` event. Its `data` is not documented; the fields are those of a [`Bounce`], if they are sent.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SoftBounce {
    /// As sent. It does not make a `soft_bounce` permanent.
    pub bounce_type: Option<BounceType>,
    /// Why it bounced.
    pub bounce_category: Option<BounceCategory>,
    /// The SMTP reply code, such as 452.
    pub smtp_code: Option<u16>,
    /// The SMTP reply text.
    pub smtp_message: Option<String>,
}

/// A `complaint` event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Complaint {
    /// What was complained of.
    pub complaint_type: Option<ComplaintType>,
    /// The kind of feedback report that carried the complaint.
    pub feedback_type: Option<FeedbackType>,
    /// The program that made the feedback report.
    pub user_agent: Option<String>,
}

/// An `unsubscribe` event. Its `data` is not documented.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Unsubscribe {}

/// An `open` event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Open {
    /// The address that fetched the pixel, as sent. Personal data in many jurisdictions.
    pub ip: Option<String>,
    /// The `User-Agent` that fetched the pixel.
    pub user_agent: Option<String>,
    /// The operating system, such as `Windows 10`.
    pub os: Option<String>,
    /// The mail client or browser, such as `Chrome 124.0`.
    pub client: Option<String>,
}

/// A `click` event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Click {
    /// Sendarix's id of the link.
    pub link_id: Option<String>,
    /// Where the link leads, as sent. It may carry tokens: treat it as a secret in logs.
    pub url: Option<String>,
    /// The address that clicked, as sent. Personal data in many jurisdictions.
    pub ip: Option<String>,
    /// The `User-Agent` that clicked.
    pub user_agent: Option<String>,
    /// The operating system, such as `iOS 17.4`.
    pub os: Option<String>,
}

/// A `deferred` event. Its `data` is not documented.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Deferred {}

/// An event of a type that this version of the crate does not know.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Unknown {
    /// The type's name as sent.
    pub event_type: String,
}

/// An enum of the values that the vendor documents, which keeps the text of any other.
macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_meta])* #[doc = concat!(" (`", $text, "`)")] $variant,)+
            /// A value that this version of the crate does not know, as sent.
            Other(String),
        }

        impl $name {
            /// The value on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl From<Cow<'_, str>> for $name {
            fn from(text: Cow<'_, str>) -> Self {
                // As it is documented, but for case and outer blanks.
                let word = text.trim();
                $(if word.eq_ignore_ascii_case($text) {
                    return Self::$variant;
                })+
                Self::Other(text.into_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

open_enum! {
    /// Whether a bounce is final.
    BounceType {
        /// Final.
        Hard = "hard",
        /// For now.
        Soft = "soft",
    }
}

open_enum! {
    /// Why a message bounced. The vendor documents one value and says that there are more.
    BounceCategory {
        /// There is no such address.
        InvalidEmail = "invalid_email",
    }
}

open_enum! {
    /// What a recipient complained of. The vendor documents one value and says that there are more.
    ComplaintType {
        /// Unwanted mail.
        Abuse = "abuse",
    }
}

open_enum! {
    /// The kind of a feedback report (RFC 5965). The vendor documents one value and says that there are more.
    FeedbackType {
        /// A failed authentication check.
        AuthFailure = "auth-failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_as_its_kind() {
        for &event_type in EventType::ALL {
            assert_eq!(EventKind::read(event_type.as_str(), &Fields::default()).event_type(), Some(event_type));
        }
        assert!("Bounce".parse::<EventType>().is_err());
    }

    #[test]
    fn a_bounce_is_permanent_unless_its_type_or_else_its_code_says_otherwise() {
        let bounce = |data: &str| match EventKind::read("bounce", &serde_json::from_str(data).unwrap()) {
            EventKind::Bounce(bounce) => bounce,
            other => panic!("{other:?}"),
        };
        assert!(bounce(r#"{"bounce_type":"hard"}"#).is_permanent());
        assert!(bounce(r#"{"bounce_type":"undetermined"}"#).is_permanent());
        assert!(bounce(r#"{"bounce_type":7}"#).is_permanent());
        assert!(bounce("{}").is_permanent());
        for data in [
            r#"{"bounce_type":"soft"}"#,
            r#"{"bounce_type":"soft","smtp_code":550}"#,
            r#"{"bounce_type":" Soft "}"#,
            r#"{"smtp_code":452}"#,
            r#"{"bounce_type":"undetermined","smtp_code":"421"}"#,
        ] {
            assert!(!bounce(data).is_permanent(), "{data}");
        }
        for data in [r#"{"bounce_type":"HARD","smtp_code":452}"#, r#"{"smtp_code":550}"#, r#"{"smtp_code":0}"#] {
            assert!(bounce(data).is_permanent(), "{data}");
        }
    }

    #[test]
    fn an_unknown_value_keeps_its_text() {
        let category = BounceCategory::from(Cow::from("mailbox_on_the_moon"));
        assert_eq!(category, BounceCategory::Other("mailbox_on_the_moon".to_owned()));
        assert_eq!(category.as_str(), "mailbox_on_the_moon");
        assert_eq!(BounceCategory::from(Cow::from("invalid_email")), BounceCategory::InvalidEmail);
        assert_eq!(BounceCategory::from(Cow::from("Invalid_Email ")), BounceCategory::InvalidEmail);
    }
}
