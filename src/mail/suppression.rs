//! The entries of a suppression list, and the rules by which events change them.

use super::Address;
use super::address::ERASED;
use crate::closed_set::closed_set;
use crate::event::{Suppression, Timestamp};

closed_set! {
    /// Why an address is on the suppression list.
    pub enum SuppressionReason {
        /// The address does not exist or takes no mail.
        PermanentBounce = "permanent_bounce",
        /// The recipient called the mail spam.
        Complaint = "complaint",
        /// The recipient asked for no more.
        Unsubscribe = "unsubscribe",
        /// The address refused more mail for now than the application's
        /// [rule](super::MailBuilder::soft_bounces) allows. A later delivery takes it off the list.
        SoftBounces = "soft_bounces",
        /// The application put it on the list.
        Manual = "manual",
    }
}

impl From<Suppression> for SuppressionReason {
    fn from(suppression: Suppression) -> Self {
        match suppression {
            Suppression::PermanentBounce => Self::PermanentBounce,
            Suppression::Complaint => Self::Complaint,
            Suppression::Unsubscribe => Self::Unsubscribe,
        }
    }
}

/// What the suppression list has of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SuppressionEntry {
    /// The address as it is compared. After [`erase`](super::Mail::erase), `erased:`, what tells
    /// the key, `:` and a keyed hash.
    pub address: Address,
    /// The address as Sendarix sent it, or as the application wrote it. Empty after an erasure.
    pub recipient: String,
    /// Why it must not be mailed; `None` once it was released.
    pub suppressed: Option<Suppressed>,
    /// Its last release.
    pub released: Option<Release>,
}

/// Why and since when an address must not be mailed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suppressed {
    /// Why.
    pub reason: SuppressionReason,
    /// When the first event happened that suppresses it, or that follows its last release.
    pub since: Timestamp,
    /// That event; `None` if the application put the address on the list, or it was erased.
    pub event_id: Option<String>,
    /// The message of that event.
    pub message_id: Option<String>,
}

/// When and why an address was taken off the list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Release {
    /// When.
    pub at: Timestamp,
    /// Why, in the application's own words.
    pub because: String,
}

impl SuppressionEntry {
    /// An entry for an address that the application puts on the list, since this time.
    pub fn new(recipient: impl Into<String>, reason: SuppressionReason, since: impl Into<Timestamp>) -> Self {
        let recipient = recipient.into();
        let since = since.into().to_microsecond();
        let suppressed = Suppressed { reason, since, event_id: None, message_id: None };
        Self { address: Address::new(&recipient), recipient, suppressed: Some(suppressed), released: None }
    }

    /// Whether the address was [erased](super::Mail::erase), and only a keyed hash of it is left.
    #[must_use]
    pub fn is_erased(&self) -> bool {
        self.address.as_str().starts_with(ERASED)
    }

    /// Adds what another event or an import says.
    pub(super) fn suppress(&mut self, recipient: &str, suppressed: Suppressed) {
        let is_released = self.released.as_ref().is_some_and(|released| suppressed.since <= released.at);
        let replaces = self.suppressed.as_ref().is_none_or(|current| suppressed.precedence() < current.precedence());
        if !is_released && replaces {
            recipient.clone_into(&mut self.recipient);
            self.suppressed = Some(suppressed);
        }
    }
}

/// An entry that the application puts on the list.
#[derive(Debug)]
pub struct GivenEntry {
    pub(crate) address: Address,
    pub(crate) recipient: String,
    pub(crate) suppressed: Suppressed,
    /// The address as it is kept after an erasure, if there may be one.
    pub(crate) erased: Option<Address>,
}

impl Suppressed {
    /// What a rule for soft bounces decides yields to every other reason; of the others, the first event counts.
    pub(super) fn precedence(&self) -> (bool, Timestamp, &str) {
        let is_soft = self.reason == SuppressionReason::SoftBounces;
        (is_soft, self.since, self.event_id.as_deref().unwrap_or_default())
    }
}
