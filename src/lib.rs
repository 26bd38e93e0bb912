//! Receive Sendarix e-mail events: verified, deduplicated, typed.

pub mod event;

#[doc(inline)]
pub use event::{DecodeError, EventKind, EventType, SendarixEvent, Suppression, Timestamp, TimestampError};
