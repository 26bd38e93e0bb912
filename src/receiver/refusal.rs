//! Why a request was refused before its signature was proven.

use super::Answer;
use crate::outcome::RefusalKind;

/// A request that was refused: it has touched no store and reached no handler.
///
/// It has been logged when it is made. Its [`kind`](Self::kind) is for decisions and labels, its answer for the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", kind.text())]
#[must_use]
pub struct Refusal {
    pub(super) kind: RefusalKind,
    pub(super) answer: Answer,
}

impl Refusal {
    /// Why the request was refused.
    #[must_use]
    pub fn kind(&self) -> RefusalKind {
        self.kind
    }

    pub(super) fn without_text(self) -> Self {
        Self { answer: self.answer.without_text(), ..self }
    }

    /// What to send back.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        refusal.answer
    }
}
