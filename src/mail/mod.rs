//! What an e-mail application keeps of its events: a suppression list, the state of each message, the timeline of each
//! recipient, and the rates of bounces and complaints.
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # mod example {
//! use sendarix_webhooks::mail::Mail;
//! use sendarix_webhooks::{Delivery, HandlerError, PostgresStore, dead_letter::StoreError};
//!
//! async fn on_event(delivery: Delivery, mail: Mail<PostgresStore>) -> Result<(), HandlerError> {
//!     mail.record(&delivery).await?; // the event's effects and its completion, in one transaction
//!     Ok(())
//! }
//!
//! async fn may_be_mailed(mail: &Mail<PostgresStore>, address: &str) -> Result<bool, StoreError> {
//!     Ok(!mail.is_suppressed(address).await?)
//! }
//! # }
//! ```
//!
//! A [`Mail`] keeps all of it in the database of a [`PostgresStore`](crate::PostgresStore) or a
//! [`SqliteStore`](crate::SqliteStore), or in a [`MemoryMail`] for tests and for one process. [The guide](crate::guide::mail_state)
//! has the tables.
//!
//! # What it holds
//!
//! - **An event counts once.** The table of events has one row for an event's id, and the other tables change with the
//!   statement that adds this row. So a copy changes nothing, also after the retention, until [`purge`](Mail::purge)
//!   deletes the row.
//! - **The order of arrival does not matter.** States are merged under the row's lock, and the suppression of an address is
//!   decided by the times that Sendarix signed.
//! - **A release stands.** An event that happened before an address was [released](Mail::release) does not suppress
//!   it again, whenever it arrives. This holds for an address that was not on the list, too. An event that happened later does.
//! - **Addresses are compared** as [`Address`] says, and kept as Sendarix sent them.
//!
//! Give sandbox events an endpoint and tables of their application's staging, never these.

mod address;
mod builder;
mod changes;
mod erasure;
mod memory;
mod message;
mod queries;
mod record;
mod reputation;
mod store;
mod suppression;

pub use self::address::Address;
pub use self::builder::{Mail, MailBuilder};
pub use self::changes::{MissedChanges, StatusChange, StatusChanges};
pub use self::memory::MemoryMail;
pub use self::message::{Failure, Message, MessageState, MessageStatus, Seen};
pub use self::reputation::{
    BOUNCE_THRESHOLD, COMPLAINT_THRESHOLD, Exceeded, Measure, Rates, Recovered, Reputation, ReputationBuilder,
};
pub use self::store::MailStore;
pub use self::suppression::{Release, Suppressed, SuppressionEntry, SuppressionReason};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use self::address::{ERASED, ERASED_END};
pub(crate) use self::changes::Changes;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use self::erasure::ErasedRange;
pub(crate) use self::message::Fact;
pub(crate) use self::record::{Record, Recorded, SoftBounceRule};
pub(crate) use self::store::Backend;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use self::suppression::GivenEntry;
