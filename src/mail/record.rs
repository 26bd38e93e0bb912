//! What one event changes.

use std::time::Duration;

use super::address::{Address, message_key};
use super::erasure::ErasureKey;
use super::message::{Fact, Failure, MessageStatus, failure};
use super::suppression::SuppressionReason;
use crate::event::{SendarixEvent, Timestamp};

/// What an event says of its message and its recipient, in the form in which it is kept.
#[derive(Debug)]
pub struct Record<'a> {
    pub(crate) event: &'a SendarixEvent,
    /// To the microsecond, as PostgreSQL keeps it.
    pub(crate) at: Timestamp,
    pub(crate) message_id: String,
    pub(crate) address: Address,
    /// `None` for a type that is not documented.
    pub(crate) fact: Option<Fact>,
    pub(crate) failure: Option<Failure>,
    pub(crate) reason: Option<SuppressionReason>,
    /// The address as it is kept after an erasure, if there may be one.
    pub(crate) erased: Option<Address>,
    /// The key that the event counts under, and when.
    pub(crate) counted: Option<(String, Timestamp)>,
}

/// What came of recording an event.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Whether the claim was completed with it.
    pub(crate) completed: bool,
    /// The message's status, if it has changed.
    pub(crate) status: Option<MessageStatus>,
}

/// How many soft bounces within which time suppress an address.
#[derive(Clone, Copy, Debug)]
pub struct SoftBounceRule {
    pub(crate) count: u16,
    pub(crate) within: Duration,
}

impl<'a> Record<'a> {
    pub(super) fn new(
        event: &'a SendarixEvent,
        counted: Option<(String, Timestamp)>,
        erasure_key: Option<&ErasureKey>,
    ) -> Self {
        let address = Address::new(&event.recipient);
        let at = event.timestamp.to_microsecond();
        Self {
            event,
            at,
            message_id: message_key(&event.message_id),
            erased: erasure_key.map(|key| key.erased(&address)),
            address,
            fact: Fact::of(event),
            failure: failure(event).map(|failure| Failure { at, ..failure }),
            reason: event.suppression().map(Into::into),
            counted,
        }
    }

    /// Whether the event may change what a rule for soft bounces says of its address.
    pub(crate) fn concerns_soft_bounces(&self) -> bool {
        self.fact == Some(Fact::SoftBounced) || self.may_lift_soft_bounces()
    }

    /// Whether it may take its address off the list again.
    pub(crate) fn may_lift_soft_bounces(&self) -> bool {
        self.fact == Some(Fact::Delivered)
    }
}
