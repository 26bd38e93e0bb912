//! Erasing what is kept of a person.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::address::ERASED;
use super::{Address, Mail, MailStore};
use crate::dead_letter::{DeadLetters, key_of};
use crate::event::{EventKey, SendarixEvent};
use crate::storage::StoreError;

/// The secret by which a suppression outlives its address.
pub(super) struct ErasureKey {
    mac: Hmac<Sha256>,
    own: ErasedRange,
}

/// The range, in the order of bytes, of the addresses that were erased with one key: from the first text up to the second.
#[derive(Debug)]
pub struct ErasedRange {
    pub(crate) from: Cow<'static, str>,
    pub(crate) to: Cow<'static, str>,
}

impl ErasedRange {
    /// The empty range of a mail state without a key.
    pub(super) const EMPTY: &'static Self = &Self { from: Cow::Borrowed(ERASED), to: Cow::Borrowed(ERASED) };

    /// Whether an address was erased with another key.
    pub(super) fn excludes(&self, address: &str) -> bool {
        address.starts_with(ERASED) && !(&*self.from..&*self.to).contains(&address)
    }
}

impl ErasureKey {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    pub(super) fn new(key: &[u8]) -> Self {
        let mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
        // An address has no NUL, so none has this hash.
        let id = mac.clone().chain_update("\0the key itself").finalize().into_bytes();
        let id = const_hex::encode(id);
        // In ASCII, `;` comes after `:`.
        let own = ErasedRange { from: format!("{ERASED}{id:.16}:").into(), to: format!("{ERASED}{id:.16};").into() };
        Self { mac, own }
    }

    /// What stands in the place of the address.
    pub(super) fn erased(&self, address: &Address) -> Address {
        let hash = self.mac.clone().chain_update(address.as_str()).finalize().into_bytes();
        Address::kept(format!("{}{}", self.own.from, const_hex::encode(hash)))
    }

    pub(super) fn own(&self) -> &ErasedRange {
        &self.own
    }
}

impl fmt::Debug for ErasureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErasureKey(REDACTED)")
    }
}

/// How many letters are read at a time.
const PAGE: usize = 100;

impl<S: MailStore> Mail<S> {
    /// Deletes what is kept of an address: its timeline and the states of its messages. Its suppression stays under a keyed
    /// hash, so that the address is still not mailed. Returns how many events were deleted.
    ///
    /// Dead letters are deleted by [`erase_letters`](Self::erase_letters). Jobs of a queue hold the events that they are to
    /// handle: let the workers finish first, or delete the jobs as [the guide](crate::guide::mail_state) says. An event that
    /// arrives later is kept again. If the connection breaks meanwhile, the number may be too low.
    ///
    /// The database decides when deleted texts leave its files: PostgreSQL after a vacuum, SQLite (which overwrites them) after a
    /// checkpoint of its log; and backups keep them. What the application counts by, and the reasons of its handlers' errors, are its own texts.
    ///
    /// # Errors
    ///
    /// The builder was not given an [`erasure_key`](super::MailBuilder::erasure_key), addresses on the list were erased with
    /// another one, or the database failed.
    pub async fn erase(&self, address: impl Into<Address>) -> Result<u64, StoreError> {
        let address = address.into();
        let key = self.settings.erasure_key.as_ref().ok_or_else(|| {
            StoreError::new("`erase` needs a secret to keep the suppression: call MailBuilder::erasure_key")
        })?;
        self.check_erasure_key().await?;
        // Of an entry of the list, as an export has it.
        if address.as_str().starts_with(ERASED) {
            return Ok(0);
        }
        self.store.erase(&address, &key.erased(&address)).await
    }

    /// Deletes the dead letters of an endpoint that are about an address, and returns how many.
    ///
    /// It reads every letter of the endpoint. A letter whose body is no event is deleted if the body has the address in it as it
    /// is compared, in upper or lower case, with no part of another address beside it. A letter that cannot be read at all stays.
    ///
    /// # Errors
    ///
    /// The dead letters cannot be listed or deleted.
    pub async fn erase_letters(
        address: impl Into<Address>,
        letters: &dyn DeadLetters,
        endpoint: &str,
    ) -> Result<u64, StoreError> {
        let address = address.into();
        let (mut after, mut erased) = (None::<String>, 0);
        loop {
            let page = letters.list(endpoint, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(erased) };
            after = Some(key_of(last).event_id().to_owned());
            for letter in page.into_iter().flatten() {
                if is_about(&letter.body, &address) {
                    letters.resolve(&EventKey::clone(&letter.key)).await?;
                    erased += 1;
                }
            }
        }
    }
}

fn is_about(body: &[u8], address: &Address) -> bool {
    match SendarixEvent::decode(body.to_vec()) {
        Ok(event) => Address::new(&event.recipient) == *address,
        Err(_) => mentions(&String::from_utf8_lossy(body).to_lowercase(), address.as_str()),
    }
}

/// Whether the address is in the text, and not as a part of another one.
fn mentions(text: &str, address: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || ".!#$%&'*+-/=?^_`{|}~@".contains(c);
    address.contains('@')
        && text.match_indices(address).any(|(start, found)| {
            let (before, after) = (text.get(..start), text.get(start + found.len()..));
            let before = before.and_then(|before| before.chars().next_back());
            let after = after.and_then(|after| after.chars().next());
            !before.into_iter().chain(after).any(is_part)
        })
}
