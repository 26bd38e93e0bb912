//! Changes of status as a stream.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::AbortHandle;

use super::{Address, MessageStatus};

/// The status of a message to one recipient has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusChange {
    /// The message.
    pub message_id: String,
    /// The recipient, as addresses are compared.
    pub address: Address,
    /// The new status.
    pub status: MessageStatus,
}

/// Changes may have been missed: the connection was interrupted, or the reader was too slow. Read the states that matter
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changes of status may have been missed; read the states again")]
#[non_exhaustive]
pub struct MissedChanges;

type Item = Result<StatusChange, MissedChanges>;

/// The changes of status since the stream was made: see [`Mail::changes`](super::Mail::changes). It does not end. A change may
/// be told twice.
pub struct StatusChanges {
    next: Pin<Box<dyn Future<Output = (Item, broadcast::Receiver<Item>)> + Send + Sync>>,
    /// Keeps the stream from ending.
    _sender: broadcast::Sender<Item>,
    /// What sends changes into this stream alone.
    task: Option<AbortHandle>,
}

impl StatusChanges {
    fn new(sender: broadcast::Sender<Item>) -> Self {
        Self { next: Box::pin(receive(sender.subscribe())), _sender: sender, task: None }
    }

    /// The next change.
    ///
    /// # Errors
    ///
    /// Changes may have been missed. The stream goes on.
    pub async fn next(&mut self) -> Result<StatusChange, MissedChanges> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        let (item, receiver) = ready!(self.next.as_mut().poll(cx));
        self.next = Box::pin(receive(receiver));
        Poll::Ready(item)
    }

    /// The changes that a task sends, which ends with the stream. It never waits for the reader.
    #[cfg(feature = "postgres")]
    pub(crate) fn from_task<F: Future<Output = ()> + Send + 'static>(
        task: impl FnOnce(broadcast::Sender<Item>) -> F,
    ) -> Self {
        let sender = broadcast::Sender::new(WAITING);
        let mut changes = Self::new(sender.clone());
        changes.task = Some(tokio::spawn(task(sender)).abort_handle());
        changes
    }
}

async fn receive(mut receiver: broadcast::Receiver<Item>) -> (Item, broadcast::Receiver<Item>) {
    let item = match receiver.recv().await {
        Ok(item) => item,
        Err(RecvError::Lagged(_) | RecvError::Closed) => Err(MissedChanges),
    };
    (item, receiver)
}

impl Stream for StatusChanges {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.poll(cx).map(Some)
    }
}

impl Drop for StatusChanges {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl fmt::Debug for StatusChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusChanges").finish_non_exhaustive()
    }
}

/// Where the changes of this process go.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Whether PostgreSQL tells other processes.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "the other stores tell none"))]
    pub(crate) announced: bool,
    local: broadcast::Sender<Item>,
}

/// How many changes wait for a slow reader, before it misses some.
const WAITING: usize = 1024;

impl Changes {
    pub(super) fn new(announced: bool) -> Self {
        Self { announced, local: broadcast::Sender::new(WAITING) }
    }

    pub(crate) fn send(&self, message_id: &str, address: &Address, status: MessageStatus) {
        // Without a reader there is nothing to do.
        let _ =
            self.local.send(Ok(StatusChange { message_id: message_id.to_owned(), address: address.clone(), status }));
    }

    /// The changes of this process.
    pub(crate) fn local(&self) -> StatusChanges {
        StatusChanges::new(self.local.clone())
    }
}

/// A change as PostgreSQL announces it, in JSON.
#[cfg(feature = "postgres")]
#[derive(serde::Deserialize)]
struct Announced {
    message_id: String,
    address: String,
    status: MessageStatus,
}

#[cfg(feature = "postgres")]
impl StatusChange {
    /// The change in this announcement.
    pub(crate) fn announced(payload: &str) -> Result<Self, MissedChanges> {
        let Announced { message_id, address, status } = serde_json::from_str(payload).map_err(|_| MissedChanges)?;
        Ok(Self { message_id, address: Address::kept(address), status })
    }
}
