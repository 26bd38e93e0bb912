use super::{Action, Effects, Flaw, Handling, Network, Protocol};

/// One request at one instance, or one letter that is redriven there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Delivery {
    pub step: Step,
    pub tie: Tie,
    pub is_authentic: bool,
    /// Whether the sender still waits for its answer.
    pub is_awaited: bool,
}

/// What a delivery does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Verifying,
    /// Lets an event that was given up be claimed again.
    Reopening,
    Claiming,
    Handling,
    /// Effect and completion at once.
    Committing,
    Completing,
    Resolving,
    /// Writes a letter for an event that the sender will deliver again.
    KeepingRetried,
    /// Writes a letter for an event that it will not.
    KeepingDead,
    GivingUp,
    Releasing,
}

/// What a delivery's token is to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tie {
    Stranger,
    /// The record is a claim with this token.
    Owner,
    /// This token has ended the claim, and may say so again.
    Ended,
}

impl Delivery {
    pub(super) fn of_request(protocol: &Protocol, is_authentic: bool) -> Self {
        let claims_first = protocol.has(Flaw::ClaimBeforeVerification);
        let step = if claims_first { Step::Claiming } else { Step::Verifying };
        Self { step, tie: Tie::Stranger, is_authentic, is_awaited: is_authentic }
    }

    pub(super) fn of_letter() -> Self {
        Self { step: Step::Reopening, tie: Tie::Stranger, is_authentic: true, is_awaited: false }
    }

    pub(super) fn actions(&self, number: usize, protocol: &Protocol, actions: &mut Vec<Action>) {
        const NETWORKS: [Network; 3] = [Network::Fine, Network::RequestLost, Network::ReplyLost];
        match self.step {
            Step::Verifying => {
                actions.push(Action::Verify(number));
                if self.is_authentic && protocol.has(Flaw::LetterWithoutClaim) {
                    actions.push(Action::KeepUnclaimed(number));
                }
            }
            Step::Handling => {
                let ends = [Handling::Succeeds, Handling::Fails, Handling::FailsForGood];
                actions.extend(ends.map(|end| Action::Handle(number, end)));
            }
            Step::Reopening
            | Step::Claiming
            | Step::Committing
            | Step::Completing
            | Step::GivingUp
            | Step::Releasing => {
                actions.extend(NETWORKS.map(|network| Action::Store(number, network)));
            }
            Step::Resolving | Step::KeepingRetried | Step::KeepingDead => {
                actions.extend(NETWORKS.map(|network| Action::Letter(number, network)));
            }
        }
        if self.step == Step::Resolving && self.tie == Tie::Ended && protocol.effects == Effects::Transactional {
            actions.push(Action::CommitAgain(number));
        }
        let is_ending = matches!(self.step, Step::Completing | Step::GivingUp) && !protocol.flawed_order();
        if is_ending && self.is_awaited {
            actions.push(Action::AnswerFirst(number));
        }
        if is_ending {
            actions.push(Action::GiveUpRecording(number));
        }
    }
}

impl Protocol {
    /// Whether the end is recorded before there is something that could be acknowledged.
    fn flawed_order(&self) -> bool {
        self.has(Flaw::CompletionBeforeHandler) || self.has(Flaw::GiveUpBeforeLetter)
    }
}
