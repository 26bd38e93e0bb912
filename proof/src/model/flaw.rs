use super::{Effects, property};

/// A mistake that a receiver could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Completes an event without asking who owns it by now.
    UnconditionalCompletion,
    /// Takes an event back without asking who owns it by now.
    UnconditionalRelease,
    /// Commits the effect of a handler whose claim was taken over.
    UnconditionalCommit,
    /// A claim lives for ever.
    NoLease,
    /// Claims an event for a request that has not been verified yet.
    ClaimBeforeVerification,
    /// Answers 200 to an event that another delivery is handling.
    AcknowledgeInFlight,
    /// Records an event as handled, and then handles it.
    CompletionBeforeHandler,
    /// Remembers that an event was given up, and then keeps it as a dead letter.
    GiveUpBeforeLetter,
    /// Acknowledges an event that could not be kept.
    AcknowledgeWithoutLetter,
    /// Lets an event be handled again because a letter of it was read before it was handled.
    ReopenCompleted,
    /// Keeps a letter of an event without a claim on it, as of a type that one of two versions does not know.
    LetterWithoutClaim,
    /// Commits a second transaction of a handler that has committed.
    SecondCommit,
}

impl Flaw {
    pub const ALL: [Self; 12] = [
        Self::UnconditionalCompletion,
        Self::UnconditionalRelease,
        Self::UnconditionalCommit,
        Self::NoLease,
        Self::ClaimBeforeVerification,
        Self::AcknowledgeInFlight,
        Self::CompletionBeforeHandler,
        Self::GiveUpBeforeLetter,
        Self::AcknowledgeWithoutLetter,
        Self::ReopenCompleted,
        Self::LetterWithoutClaim,
        Self::SecondCommit,
    ];

    /// The promise that it breaks.
    pub const fn breaks(self) -> &'static str {
        match self {
            Self::UnconditionalCompletion => property::ONE_COMPLETION,
            Self::UnconditionalRelease => property::COUNTED,
            Self::UnconditionalCommit | Self::ReopenCompleted | Self::SecondCommit => property::ONE_EFFECT,
            Self::LetterWithoutClaim => property::LETTER_GOES,
            Self::NoLease | Self::ClaimBeforeVerification => property::NOT_STUCK,
            Self::AcknowledgeInFlight
            | Self::CompletionBeforeHandler
            | Self::GiveUpBeforeLetter
            | Self::AcknowledgeWithoutLetter => property::KEPT,
        }
    }

    pub(super) const fn effects(self) -> Effects {
        match self {
            Self::UnconditionalCommit | Self::ReopenCompleted | Self::SecondCommit => Effects::Transactional,
            _ => Effects::Apart,
        }
    }
}
