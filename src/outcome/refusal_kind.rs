//! The reasons to refuse a request before its signature is proven: one closed set.

use std::fmt;

use super::Outcome;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The method is not POST.
    MethodNotAllowed,
    /// There is no signature header.
    SignatureMissing,
    /// There is more than one signature header.
    SignatureRepeated,
    /// The signature header is not 64 hex digits. The log says what it looks like.
    SignatureMalformed,
    /// No active secret signed this body.
    SignatureMismatch,
    /// There is no timestamp header.
    TimestampMissing,
    /// There is more than one timestamp header.
    TimestampRepeated,
    /// The timestamp header is not decimal Unix seconds.
    TimestampMalformed,
    /// The timestamp is further in the past than the tolerance allows.
    TimestampTooOld,
    /// The timestamp is further in the future than the tolerance allows.
    TimestampTooNew,
    /// The body is longer than the limit, or says that it will be.
    BodyTooLarge,
    /// The body did not arrive within its time limit.
    BodyTimeout,
    /// The connection broke off before the end of the body.
    BodyIncomplete,
    /// A layer outside of this one could not decode the body, such as by its `Content-Encoding`.
    BodyUndecodable,
    /// The receiver is shutting down.
    Draining,
}

impl RefusalKind {
    /// Every reason.
    pub const ALL: [Self; 15] = [
        Self::MethodNotAllowed,
        Self::SignatureMissing,
        Self::SignatureRepeated,
        Self::SignatureMalformed,
        Self::SignatureMismatch,
        Self::TimestampMissing,
        Self::TimestampRepeated,
        Self::TimestampMalformed,
        Self::TimestampTooOld,
        Self::TimestampTooNew,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::BodyIncomplete,
        Self::BodyUndecodable,
        Self::Draining,
    ];

    /// The outcome that this refusal counts as.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::MethodNotAllowed => Outcome::MethodNotAllowed,
            Self::SignatureMissing | Self::SignatureRepeated | Self::SignatureMalformed | Self::SignatureMismatch => {
                Outcome::Unauthenticated
            }
            Self::TimestampMissing
            | Self::TimestampRepeated
            | Self::TimestampMalformed
            | Self::TimestampTooOld
            | Self::TimestampTooNew => Outcome::Stale,
            Self::BodyTooLarge => Outcome::TooLarge,
            Self::BodyTimeout | Self::BodyIncomplete | Self::BodyUndecodable => Outcome::BodyTimeout,
            Self::Draining => Outcome::Draining,
        }
    }

    /// Whether the rest of the body may still be coming: one that was too slow, or has broken off, is given up.
    #[cfg(any(feature = "tower", feature = "actix"))]
    pub(crate) const fn leaves_body(self) -> bool {
        !matches!(self, Self::BodyTimeout | Self::BodyIncomplete | Self::BodyUndecodable)
    }

    /// The status, unless the application chose another for the outcome.
    pub(crate) const fn default_status(self) -> u16 {
        match self {
            Self::BodyUndecodable => 400,
            _ => self.outcome().default_status(),
        }
    }

    /// The stable name: lower case, words joined by `_`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "method_not_allowed",
            Self::SignatureMissing => "signature_missing",
            Self::SignatureRepeated => "signature_repeated",
            Self::SignatureMalformed => "signature_malformed",
            Self::SignatureMismatch => "signature_mismatch",
            Self::TimestampMissing => "timestamp_missing",
            Self::TimestampRepeated => "timestamp_repeated",
            Self::TimestampMalformed => "timestamp_malformed",
            Self::TimestampTooOld => "timestamp_too_old",
            Self::TimestampTooNew => "timestamp_too_new",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::BodyIncomplete => "body_incomplete",
            Self::BodyUndecodable => "body_undecodable",
            Self::Draining => "draining",
        }
    }

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::SignatureMissing => "the X-Sendarix-Signature header is missing",
            Self::SignatureRepeated => "the X-Sendarix-Signature header is repeated",
            Self::SignatureMalformed => "the X-Sendarix-Signature header is not 64 hex digits",
            Self::SignatureMismatch => "the signature does not match the body",
            Self::TimestampMissing => "the X-Sendarix-Timestamp header is missing",
            Self::TimestampRepeated => "the X-Sendarix-Timestamp header is repeated",
            Self::TimestampMalformed => "the X-Sendarix-Timestamp header is not Unix seconds",
            Self::TimestampTooOld => "the timestamp is too old",
            Self::TimestampTooNew => "the timestamp is too far ahead",
            Self::BodyIncomplete => "the body broke off",
            Self::BodyUndecodable => "the body cannot be decoded",
            Self::MethodNotAllowed | Self::BodyTooLarge | Self::BodyTimeout | Self::Draining => self.outcome().text(),
        }
    }
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}
