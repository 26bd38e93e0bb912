//! What a database does for a [`Mail`](super::Mail).

use std::future::Future;

use super::changes::{Changes, StatusChanges};
use super::erasure::ErasedRange;
use super::suppression::GivenEntry;
use super::{Address, Message, Rates, Record, Recorded, SoftBounceRule, SuppressionEntry};
use crate::event::Timestamp;
use crate::storage::StoreError;
use crate::store::{ClaimHandle, ClaimState};

/// A place for a [`Mail`](super::Mail): a `PostgresStore`, a `SqliteStore`, or a [`MemoryMail`](super::MemoryMail).
///
/// No other type can implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep mail state",
    note = "`PostgresStore` and `SqliteStore` do, and `MemoryMail` for one process"
)]
pub trait MailStore: Backend {}

impl<S: Backend> MailStore for S {}

/// The steps. Addresses and message ids are in the form in which they are compared.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Whether [`record`](Self::record) completes the claim.
    const COMPLETES: bool = true;

    /// Says that the tables are needed.
    fn prepare(&self) {}

    /// Adds an event and what it changes, in one transaction with the completion of its claim. If the claim was lost, nothing
    /// changes. Safe to send again.
    fn record(
        &self,
        record: &Record<'_>,
        claim: &ClaimHandle,
        rule: Option<SoftBounceRule>,
        changes: &Changes,
    ) -> impl Future<Output = Result<Recorded, StoreError>> + Send;

    /// What the store sees of a claim that was lost or completed otherwise.
    fn claim_state(&self, claim: &ClaimHandle) -> impl Future<Output = Result<Option<ClaimState>, StoreError>> + Send;

    /// Those of the addresses that must not be mailed; and some that were erased with another key, if there are any.
    fn suppressed(
        &self,
        addresses: &[&str],
        own: &ErasedRange,
    ) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    fn entry(&self, address: &Address) -> impl Future<Output = Result<Option<SuppressionEntry>, StoreError>> + Send;

    /// The suppressed addresses behind one, in order.
    fn suppressions(
        &self,
        after: &str,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SuppressionEntry>, StoreError>> + Send;

    /// Adds entries of different addresses: all of them, or none.
    fn suppress(&self, entries: &[GivenEntry]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Records the release of an address that is not suppressed; `false` if it is.
    fn release_unlisted(
        &self,
        address: &Address,
        at: Timestamp,
        because: &str,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Takes an address off the list; `false` if it is not on it.
    fn release(
        &self,
        address: &Address,
        at: Timestamp,
        because: &str,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The states of a message, for one recipient or for all.
    fn messages(
        &self,
        message_id: &str,
        address: Option<&Address>,
    ) -> impl Future<Output = Result<Vec<Message>, StoreError>> + Send;

    /// The messages to an address, newest event first, behind this time and id.
    fn messages_to(
        &self,
        address: &Address,
        after: Option<(Timestamp, &str)>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Message>, StoreError>> + Send;

    /// The bodies of a recipient's events, newest first, behind this time and id.
    fn timeline(
        &self,
        address: &Address,
        after: Option<(Timestamp, &str)>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Vec<u8>>, StoreError>> + Send;

    /// What was counted under a key since then.
    fn rates(&self, key: &str, since: Timestamp) -> impl Future<Output = Result<Rates, StoreError>> + Send;

    /// Deletes what happened before, and returns how many events that were.
    fn purge(&self, before: Timestamp) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Deletes what there is of an address, and puts its suppression under the other. Returns how many events were deleted.
    fn erase(&self, address: &Address, erased: &Address) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// The changes of status from now on.
    fn changes(&self, changes: &Changes) -> impl Future<Output = Result<StatusChanges, StoreError>> + Send;
}
