//! How a delivery ended, without the handler's response.

use std::time::Duration;

use super::Outcome;

/// How a delivery ended: what is logged, counted and answered.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) outcome: Outcome,
    /// The HTTP status of the answer.
    pub(crate) status: u16,
    /// Which attempt at the event this was, if there was one.
    pub(crate) attempt: Option<u32>,
    /// What went wrong, for the log.
    pub(crate) error: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    /// Whether the event that failed is kept as a dead letter.
    pub(crate) is_kept: bool,
}

impl Settled {
    pub(crate) fn new(outcome: Outcome, status: u16) -> Self {
        Self { outcome, status, attempt: None, error: None, retry_after: None, is_kept: false }
    }

    pub(crate) fn attempt(self, attempt: u32) -> Self {
        Self { attempt: Some(attempt), ..self }
    }

    pub(crate) fn error(self, error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..self }
    }

    pub(crate) fn retry_after(self, time: Duration) -> Self {
        Self { retry_after: Some(time), ..self }
    }

    pub(crate) fn kept(self, is_kept: bool) -> Self {
        Self { is_kept, ..self }
    }

    pub(crate) fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}
