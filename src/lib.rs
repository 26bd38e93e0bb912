//! Receive Sendarix e-mail events: verified, deduplicated, typed.

pub mod event;
pub mod verify;

#[doc(inline)]
pub use event::{DecodeError, EventKind, EventType, SendarixEvent, Suppression, Timestamp, TimestampError};
#[doc(inline)]
pub use verify::{SecretError, Signature, SigningSecret, SigningSecrets};
