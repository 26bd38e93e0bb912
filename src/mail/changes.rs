//! Changes of status as a stream.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
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

/// The changes of status since the stream was made: see [`Mail::changes`](super::Mail::changes). It does not end.
pub struct StatusChanges {
    changes: mpsc::Receiver<Result<StatusChange, MissedChanges>>,
    /// Sends them.
    task: AbortHandle,
}

impl StatusChanges {
    /// The next change; `None` only when the runtime shuts down.
    pub async fn next(&mut self) -> Option<Result<StatusChange, MissedChanges>> {
        self.changes.recv().await
    }
}

impl Stream for StatusChanges {
    type Item = Result<StatusChange, MissedChanges>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.changes.poll_recv(cx)
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
    local: broadcast::Sender<StatusChange>,
}

/// How many changes wait for a slow reader, before it misses some.
const WAITING: usize = 1024;

impl Changes {
    pub(super) fn new(announced: bool) -> Self {
        Self { announced, local: broadcast::Sender::new(WAITING) }
    }

    pub(crate) fn send(&self, message_id: &str, address: &Address, status: MessageStatus) {
        // Without a reader there is nothing to do.
        let _ = self.local.send(StatusChange { message_id: message_id.to_owned(), address: address.clone(), status });
    }

    /// The changes of this process.
    pub(crate) fn local(&self) -> StatusChanges {
        let mut local = self.local.subscribe();
        StatusChanges::from_task(|changes| async move {
            loop {
                let change = match local.recv().await {
                    Ok(change) => Ok(change),
                    Err(RecvError::Lagged(_)) => Err(MissedChanges),
                    Err(RecvError::Closed) => return,
                };
                if changes.send(change).await.is_err() {
                    return;
                }
            }
        })
    }
}

impl StatusChanges {
    /// The changes that a task sends, which ends with the stream.
    pub(crate) fn from_task<F: Future<Output = ()> + Send + 'static>(
        task: impl FnOnce(mpsc::Sender<Result<StatusChange, MissedChanges>>) -> F,
    ) -> Self {
        let (sender, changes) = mpsc::channel(1);
        Self { changes, task: tokio::spawn(task(sender)).abort_handle() }
    }
}

impl Drop for StatusChanges {
    fn drop(&mut self) {
        self.task.abort();
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
