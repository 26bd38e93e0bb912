//! What a mail state is asked, and what the application itself changes.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::address::message_key;
use super::builder::counting_key;
use super::erasure::{ErasedRange, ErasureKey};
use super::suppression::GivenEntry;
use super::{Address, Mail, MailStore, Message, Rates, StatusChanges, Suppressed, SuppressionEntry};
use crate::event::{SendarixEvent, Timestamp};
use crate::storage::StoreError;

impl<S: MailStore> Mail<S> {
    /// Whether an address must not be mailed.
    ///
    /// # Errors
    ///
    /// The database failed, or addresses were erased with another [`erasure_key`](super::MailBuilder::erasure_key).
    pub async fn is_suppressed(&self, address: impl Into<Address>) -> Result<bool, StoreError> {
        Ok(self.are_suppressed([address]).await?.contains(&true))
    }

    /// Whether each of these addresses must not be mailed, in their order. It takes one round trip, also for tens of thousands:
    /// ask before a campaign is sent.
    ///
    /// ```
    /// # use sendarix_webhooks::mail::{Mail, MailStore};
    /// # use sendarix_webhooks::dead_letter::StoreError;
    /// async fn send<S: MailStore>(mail: &Mail<S>, recipients: &[String]) -> Result<(), StoreError> {
    ///     let suppressed = mail.are_suppressed(recipients).await?;
    ///     let allowed = recipients.iter().zip(suppressed).filter(|(_, suppressed)| !suppressed);
    ///     allowed.for_each(|(recipient, _)| println!("to {recipient}"));
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The database failed, or addresses were erased with another [`erasure_key`](super::MailBuilder::erasure_key): whether they
    /// are among these cannot be told.
    pub async fn are_suppressed(
        &self,
        addresses: impl IntoIterator<Item = impl Into<Address>>,
    ) -> Result<Vec<bool>, StoreError> {
        let addresses: Vec<Address> = addresses.into_iter().map(Into::into).collect();
        let erased: Option<Vec<Address>> =
            self.settings.erasure_key.as_ref().map(|key| addresses.iter().map(|address| key.erased(address)).collect());
        let asked: Vec<&str> = addresses.iter().chain(erased.iter().flatten()).map(Address::as_str).collect();
        let found = self.suppressed(&asked).await?;
        let is_found = |address: &Address| found.contains(address.as_str());
        let is_suppressed = |(index, address): (usize, &Address)| {
            is_found(address) || erased.as_ref().and_then(|erased| erased.get(index)).is_some_and(is_found)
        };
        Ok(addresses.iter().enumerate().map(is_suppressed).collect())
    }

    /// What the suppression list has of an address, also after a release.
    ///
    /// # Errors
    ///
    /// The database failed, or addresses were erased with another [`erasure_key`](super::MailBuilder::erasure_key).
    pub async fn suppression(&self, address: impl Into<Address>) -> Result<Option<SuppressionEntry>, StoreError> {
        let address = address.into();
        let mut kept = self.store.entry(&address).await?;
        if kept.as_ref().is_none_or(|entry| entry.suppressed.is_none())
            && let Some(erased) = self.erased(&address)
        {
            kept = self.store.entry(&erased).await?.or(kept);
        }
        // Last: it may be erased meanwhile.
        self.check_erasure_key().await?;
        Ok(kept)
    }

    /// A page of the suppressed addresses, in the order of their bytes, from the first behind `after` on, which is an
    /// [`Address`] as text. The last page is empty.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn suppressions(&self, after: Option<&str>, limit: usize) -> Result<Vec<SuppressionEntry>, StoreError> {
        self.store.suppressions(after.unwrap_or_default(), limit).await
    }

    /// Puts addresses on the list, such as those of another provider's: thousands in one round trip. Of an address that is on it,
    /// the first entry counts. An address that was released later than the entry's time stays released. An entry that is not
    /// suppressed changes nothing.
    ///
    /// # Errors
    ///
    /// The database failed, and then none of them is on the list, or all are; or addresses were erased with another
    /// [`erasure_key`](super::MailBuilder::erasure_key), on the list or among these entries.
    pub async fn suppress(&self, entries: &[SuppressionEntry]) -> Result<(), StoreError> {
        self.check_own(entries.iter().map(|entry| entry.address.as_str()))?;
        let mut given: BTreeMap<&Address, (&SuppressionEntry, &Suppressed)> = BTreeMap::new();
        for entry in entries {
            let Some(suppressed) = &entry.suppressed else { continue };
            let first = given.entry(&entry.address).or_insert((entry, suppressed));
            if suppressed.precedence() < first.1.precedence() {
                *first = (entry, suppressed);
            }
        }
        // In the order of the addresses, so that two imports at once do not wait for each other.
        let given = given.into_iter().map(|(address, (entry, suppressed))| GivenEntry {
            address: address.clone(),
            recipient: entry.recipient.replace('\0', "\u{fffd}"),
            suppressed: suppressed.clone(),
            erased: self.erased(address),
        });
        let given: Vec<GivenEntry> = given.collect();
        if given.is_empty() {
            return Ok(());
        }
        self.check_erasure_key().await?;
        self.store.suppress(&given).await
    }

    /// Takes an address off the list, for this reason, and says whether it was on it.
    ///
    /// An event that happened before now does not suppress it again, also if it arrives later. An event that happens later
    /// does. This holds for an address that is not on the list, too. The reason and the time stay in the list.
    ///
    /// # Errors
    ///
    /// The database failed, or addresses were erased with another [`erasure_key`](super::MailBuilder::erasure_key).
    pub async fn release(&self, address: impl Into<Address>, because: &str) -> Result<bool, StoreError> {
        let address = address.into();
        let (at, because) = (self.now().to_microsecond(), because.replace('\0', "\u{fffd}"));
        self.check_erasure_key().await?;
        let mut released = self.store.release(&address, at, &because).await?;
        let mut place = address;
        if let Some(erased) = self.erased(&place) {
            released |= self.store.release(&erased, at, &because).await?;
            // An address that was erased is not kept in plain text again.
            if !released && self.store.entry(&erased).await?.is_some() {
                place = erased;
            }
        }
        // An event may put it on the list just now.
        if !released && !self.store.release_unlisted(&place, at, &because).await? {
            released = self.store.release(&place, at, &because).await?;
        }
        Ok(released)
    }

    /// The state of a message to one recipient.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn message(
        &self,
        message_id: &str,
        recipient: impl Into<Address>,
    ) -> Result<Option<Message>, StoreError> {
        Ok(self.store.messages(&message_key(message_id), Some(&recipient.into())).await?.pop())
    }

    /// The states of a message, one for each recipient.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn messages(&self, message_id: &str) -> Result<Vec<Message>, StoreError> {
        self.store.messages(&message_key(message_id), None).await
    }

    /// A page of the messages to a recipient, the one with the newest event first, from the first behind `after` on.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn messages_to(
        &self,
        recipient: impl Into<Address>,
        after: Option<&Message>,
        limit: usize,
    ) -> Result<Vec<Message>, StoreError> {
        let after = after.map(|message| (message.last_event_at, message.message_id.as_str()));
        self.store.messages_to(&recipient.into(), after, limit).await
    }

    /// A page of a recipient's events, newest first, from the first behind `after` on: what this customer has seen.
    ///
    /// # Errors
    ///
    /// The database failed, or an event in it cannot be read.
    pub async fn timeline(
        &self,
        recipient: impl Into<Address>,
        after: Option<&SendarixEvent>,
        limit: usize,
    ) -> Result<Vec<SendarixEvent>, StoreError> {
        let after = after.map(|event| (event.timestamp.to_microsecond(), event.event_id.as_str()));
        let bodies = self.store.timeline(&recipient.into(), after, limit).await?;
        bodies.into_iter().map(|body| SendarixEvent::decode(body).map_err(StoreError::new)).collect()
    }

    /// What was counted under a key within this time up to now, by all instances: see
    /// [`count_by`](super::MailBuilder::count_by). The counters are by the minute, so it may be up to a minute
    /// more.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn rates(&self, key: &str, window: Duration) -> Result<Rates, StoreError> {
        let since = self.now().before(window).to_minute();
        self.store.rates(&counting_key(key), since).await
    }

    /// The changes of status from now on, so that a page shows them without asking again and again.
    ///
    /// PostgreSQL tells the changes of all instances, if they [announce](super::MailBuilder::announce_changes) them. The other
    /// stores tell those of this process.
    ///
    /// # Errors
    ///
    /// On PostgreSQL: changes are not announced, or the database cannot be reached.
    pub async fn changes(&self) -> Result<StatusChanges, StoreError> {
        self.store.changes(self.changes_sink()).await
    }

    /// Deletes the events that happened before this time, the states of messages without a later event, and the counters
    /// from before. Returns how many events were deleted. The suppression list stays.
    ///
    /// An event that is replayed after that counts again: choose a time beyond the retention, and beyond what you replay.
    ///
    /// # Errors
    ///
    /// The database failed; what was deleted until then stays deleted.
    pub async fn purge(&self, before: impl Into<Timestamp>) -> Result<u64, StoreError> {
        self.store.purge(before.into().to_microsecond()).await
    }

    fn erased(&self, address: &Address) -> Option<Address> {
        self.settings.erasure_key.as_ref().map(|key| key.erased(address))
    }

    /// Those of the addresses that must not be mailed.
    async fn suppressed(&self, addresses: &[&str]) -> Result<HashSet<String>, StoreError> {
        let found = self.store.suppressed(addresses, self.own_erased()).await?;
        self.check_own(found.iter().map(String::as_str))?;
        Ok(found.into_iter().collect())
    }

    fn own_erased(&self) -> &ErasedRange {
        self.settings.erasure_key.as_ref().map_or(ErasedRange::EMPTY, ErasureKey::own)
    }

    /// Refuses addresses that were erased with another key: whether they are those that are asked for, only it can tell.
    fn check_own<'a>(&self, mut addresses: impl Iterator<Item = &'a str>) -> Result<(), StoreError> {
        if !addresses.any(|address| self.own_erased().excludes(address)) {
            return Ok(());
        }
        Err(StoreError::new(
            "addresses were erased with another erasure key, and could be mailed: set that key, by MailBuilder::erasure_key \
             or, for the command line, SENDARIX_ERASURE_KEY",
        ))
    }

    /// Fails if an address was erased with another key than this one's.
    pub(super) async fn check_erasure_key(&self) -> Result<(), StoreError> {
        self.suppressed(&[]).await.map(drop)
    }
}
