//! The reasons to refuse a request before its signature is proven: one closed set.

use super::Outcome;
use crate::closed_set::closed_set;

closed_set! {
    /// Why a request was refused.
    pub enum RefusalKind {
        /// The method is not POST.
        MethodNotAllowed = "method_not_allowed",
        /// There is no signature header.
        SignatureMissing = "signature_missing",
        /// There is more than one signature header.
        SignatureRepeated = "signature_repeated",
        /// The signature header is not 64 hex digits. The log says what it looks like.
        SignatureMalformed = "signature_malformed",
        /// No active secret signed this body.
        SignatureMismatch = "signature_mismatch",
        /// There is no timestamp header.
        TimestampMissing = "timestamp_missing",
        /// There is more than one timestamp header.
        TimestampRepeated = "timestamp_repeated",
        /// The timestamp header is not decimal Unix seconds.
        TimestampMalformed = "timestamp_malformed",
        /// The timestamp is further in the past than the tolerance allows.
        TimestampTooOld = "timestamp_too_old",
        /// The timestamp is further in the future than the tolerance allows.
        TimestampTooNew = "timestamp_too_new",
        /// The body is longer than the limit, or says that it will be.
        BodyTooLarge = "body_too_large",
        /// The body did not arrive within its time limit.
        BodyTimeout = "body_timeout",
        /// The connection broke off before the end of the body.
        BodyIncomplete = "body_incomplete",
        /// A layer outside of this one could not decode the body, such as by its `Content-Encoding`.
        BodyUndecodable = "body_undecodable",
        /// The receiver is shutting down.
        Draining = "draining",
    }
}

impl RefusalKind {
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

impl std::error::Error for RefusalKind {}
