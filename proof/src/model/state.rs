use super::delivery::{Delivery, Step, Tie};
use super::{ATTEMPTS, Effects, Flaw, Handling, Network, Protocol};

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub sender: Sender,
    /// What is under way, one delivery an instance, and in order.
    pub deliveries: Vec<Delivery>,
    pub record: Record,
    /// Whether the event is a dead letter.
    pub letter: bool,
    /// Whether it ever was, so that an operator may have read the letter.
    pub was_kept: bool,
    /// How often the event was handled.
    pub effects: u8,
    /// How often its record became `Completed`.
    pub completions: u8,
    /// How many deliveries lost their claim between effect and completion, or because their lease was over.
    pub cut_off: u8,
    /// Crashes, messages lost, and answers that were too late; not counted further than makes a difference.
    pub faults: u8,
    /// Whether a delivery gave up recording how the event ended.
    pub is_unrecorded: bool,
    /// How many forged requests there were.
    pub forged: u8,
    /// How many requests were sent twice.
    pub copies: u8,
    /// How many letters were redriven.
    pub redrives: u8,
}

/// The sender, as far as it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sender {
    pub attempts: u8,
    pub is_waiting: bool,
    pub acknowledged: bool,
}

/// What the dedup store has of the event. Whose it is, each delivery knows by its [`Tie`], as it does by its token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Record {
    #[default]
    Absent,
    Live(Lease),
    Failed,
    GivenUp,
    Completed,
}

/// How much of a claim's lease is left, by the sender's clock: two of its pauses are longer than a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lease {
    Fresh,
    /// The sender has begun an attempt since.
    Old,
    Over,
}

impl Sender {
    pub(super) fn goes_on(self) -> bool {
        !self.acknowledged && !self.is_waiting && self.attempts < ATTEMPTS
    }
}

impl Record {
    /// Whether no delivery could claim the event now, though it has not ended.
    pub(super) fn is_owned(self) -> bool {
        matches!(self, Self::Live(Lease::Fresh | Lease::Old))
    }
}

impl State {
    pub(super) fn is_safe(&self) -> bool {
        self.effects > 0 || self.letter
    }

    /// Nothing is under way, and nothing will be.
    pub(super) fn is_quiet(&self) -> bool {
        self.deliveries.is_empty() && !self.sender.is_waiting && !self.sender.goes_on()
    }

    pub(super) fn age_lease(&mut self) {
        match self.record {
            Record::Live(Lease::Fresh) => self.record = Record::Live(Lease::Old),
            _ => self.end_lease(),
        }
    }

    pub(super) fn end_lease(&mut self) {
        if self.record.is_owned() {
            self.record = Record::Live(Lease::Over);
            let owner_goes_on = self.deliveries.iter().any(|delivery| delivery.tie == Tie::Owner);
            self.cut_off += u8::from(owner_goes_on);
        }
    }

    pub(super) fn hang_up(&mut self, protocol: &Protocol) {
        self.fault(protocol);
        self.sender.is_waiting = false;
        for delivery in &mut self.deliveries {
            delivery.is_awaited = false;
        }
    }

    pub(super) fn crash(&mut self, protocol: &Protocol, number: usize) {
        self.cut_off += u8::from(self.is_between(number));
        let delivery = self.deliveries.remove(number);
        // The sender may wait for a copy.
        if delivery.is_awaited && !self.deliveries.iter().any(|delivery| delivery.is_awaited) {
            self.sender.is_waiting = false;
        }
        self.fault(protocol);
    }

    pub(super) fn give_up_recording(&mut self, number: usize) {
        self.is_unrecorded = true;
        self.cut_off += u8::from(self.is_between(number));
        self.finish(number, true);
    }

    /// Whether a delivery has had its effect, and nothing is recorded of it so far.
    fn is_between(&self, number: usize) -> bool {
        self.is_owner(number) && self.record.is_owned() && self.deliveries[number].step == Step::Completing
    }

    fn fault(&mut self, protocol: &Protocol) {
        self.faults = (self.faults + 1).min(protocol.tolerated_faults + 1);
    }

    /// Answers the sender, if it still listens.
    pub(super) fn answer(&mut self, number: usize, acknowledged: bool) {
        let delivery = &mut self.deliveries[number];
        if std::mem::take(&mut delivery.is_awaited) {
            self.sender.is_waiting = false;
            self.sender.acknowledged = acknowledged;
            // Of two copies, the first answer counts.
            self.deliveries.iter_mut().for_each(|delivery| delivery.is_awaited = false);
        }
    }

    pub(super) fn finish(&mut self, number: usize, acknowledged: bool) {
        self.answer(number, acknowledged);
        self.deliveries.remove(number);
    }

    pub(super) fn verify(&mut self, protocol: &Protocol, number: usize) {
        let delivery = &mut self.deliveries[number];
        if !delivery.is_authentic {
            self.finish(number, false);
        } else if protocol.has(Flaw::ClaimBeforeVerification) {
            delivery.step = Step::Handling;
        } else {
            delivery.step = Step::Claiming;
        }
    }

    pub(super) fn handle(&mut self, protocol: &Protocol, number: usize, handling: Handling) {
        self.deliveries[number].step = match handling {
            Handling::Fails => Step::KeepingRetried,
            Handling::FailsForGood if protocol.has(Flaw::GiveUpBeforeLetter) => Step::GivingUp,
            Handling::FailsForGood => Step::KeepingDead,
            Handling::Succeeds if protocol.effects == Effects::Transactional => Step::Committing,
            Handling::Succeeds => {
                self.effects += 1;
                if protocol.has(Flaw::CompletionBeforeHandler) { Step::Resolving } else { Step::Completing }
            }
        };
    }

    /// One step at the dedup store, which is atomic there, and whose reply may be lost.
    pub(super) fn ask_store(&mut self, protocol: &Protocol, number: usize, network: Network) {
        let step = self.deliveries[number].step;
        let reached = network != Network::RequestLost;
        let lost = network != Network::Fine;
        if lost {
            self.fault(protocol);
        }
        match step {
            Step::Reopening => {
                let reopens = self.record == Record::GivenUp
                    || self.record == Record::Completed && protocol.has(Flaw::ReopenCompleted);
                if reached && reopens {
                    self.record = Record::Failed;
                    self.disown();
                }
                if lost {
                    self.finish(number, false);
                } else {
                    self.deliveries[number].step = Step::Claiming;
                }
            }
            Step::Claiming => {
                let found = self.record;
                let granted = matches!(found, Record::Absent | Record::Failed | Record::Live(Lease::Over));
                if reached && granted {
                    self.disown();
                    self.record = Record::Live(Lease::Fresh);
                    self.deliveries[number].tie = Tie::Owner;
                }
                match found {
                    _ if lost => {
                        self.answer(number, false);
                        self.deliveries[number].step = Step::Releasing;
                    }
                    _ if granted => self.deliveries[number].step = protocol.after_claim(),
                    Record::Live(_) => self.finish(number, protocol.has(Flaw::AcknowledgeInFlight)),
                    // A letter of a handled event is left over.
                    Record::Completed => self.deliveries[number].step = Step::Resolving,
                    _ => self.finish(number, true),
                }
            }
            Step::Completing => {
                if reached && (self.is_owner(number) || protocol.has(Flaw::UnconditionalCompletion)) {
                    self.complete(number);
                }
                if !lost && protocol.has(Flaw::CompletionBeforeHandler) {
                    self.deliveries[number].step = Step::Handling;
                } else if !lost {
                    self.resolve_or_finish(number, true);
                }
            }
            Step::Committing => {
                let commits = self.is_owner(number) || protocol.has(Flaw::UnconditionalCommit);
                if reached && commits {
                    self.effects += 1;
                    self.complete(number);
                }
                // Without a word from the store, the handler has failed.
                let handled = !lost && commits;
                self.deliveries[number].step = if handled { Step::Resolving } else { Step::KeepingRetried };
            }
            Step::GivingUp => {
                if reached && self.is_owner(number) {
                    self.record = Record::GivenUp;
                    self.deliveries[number].tie = Tie::Ended;
                }
                if !lost {
                    if protocol.has(Flaw::GiveUpBeforeLetter) {
                        self.deliveries[number].step = Step::KeepingDead;
                    } else {
                        self.resolve_or_finish(number, true);
                    }
                }
            }
            Step::Releasing => {
                let live = matches!(self.record, Record::Live(_));
                if reached && (self.is_owner(number) || live && protocol.has(Flaw::UnconditionalRelease)) {
                    self.disown();
                    self.record = Record::Failed;
                    self.deliveries[number].tie = Tie::Ended;
                }
                self.answer(number, false);
                if !lost {
                    self.resolve_or_finish(number, false);
                }
            }
            Step::Verifying | Step::Handling | Step::Resolving | Step::KeepingRetried | Step::KeepingDead => {}
        }
    }

    /// Ends a delivery. Where the event has been handled, by this delivery or another, its letter is resolved first.
    fn resolve_or_finish(&mut self, number: usize, acknowledged: bool) {
        if self.record == Record::Completed {
            self.deliveries[number].step = Step::Resolving;
        } else {
            self.finish(number, acknowledged);
        }
    }

    /// One step at the dead-letter store.
    pub(super) fn keep_letter(&mut self, protocol: &Protocol, number: usize, network: Network) {
        let step = self.deliveries[number].step;
        let lost = network != Network::Fine;
        if lost {
            self.fault(protocol);
        }
        if network != Network::RequestLost {
            self.letter = step != Step::Resolving;
            self.was_kept |= self.letter;
        }
        match step {
            // The event has been handled, and at worst the letter stays.
            Step::Resolving => self.finish(number, true),
            Step::KeepingRetried => self.deliveries[number].step = Step::Releasing,
            Step::KeepingDead if protocol.has(Flaw::LetterWithoutClaim) && !self.is_owner(number) => {
                self.finish(number, !lost);
            }
            Step::KeepingDead if protocol.has(Flaw::GiveUpBeforeLetter) => self.finish(number, !lost),
            Step::KeepingDead if lost && protocol.has(Flaw::AcknowledgeWithoutLetter) => self.finish(number, true),
            Step::KeepingDead => self.deliveries[number].step = if lost { Step::Releasing } else { Step::GivingUp },
            _ => {}
        }
    }

    /// An instance that does not know the event's type keeps it without asking who has it.
    pub(super) fn keep_unclaimed(&mut self, number: usize) {
        self.deliveries[number].step = Step::KeepingDead;
    }

    /// A handler that has committed tries a second transaction.
    pub(super) fn commit_again(&mut self, protocol: &Protocol) {
        self.effects += u8::from(protocol.has(Flaw::SecondCommit));
    }

    fn is_owner(&self, number: usize) -> bool {
        self.deliveries[number].tie == Tie::Owner
    }

    /// A claim that is taken over, or freed, has no owner any more.
    fn disown(&mut self) {
        for delivery in &mut self.deliveries {
            delivery.tie = Tie::Stranger;
        }
    }

    fn complete(&mut self, number: usize) {
        let delivery = &mut self.deliveries[number];
        // The same completion, sent again, changes nothing.
        self.completions += u8::from(delivery.tie != Tie::Ended);
        delivery.tie = Tie::Ended;
        self.record = Record::Completed;
    }
}

impl Protocol {
    fn after_claim(&self) -> Step {
        match self.flaw {
            Some(Flaw::ClaimBeforeVerification) => Step::Verifying,
            Some(Flaw::CompletionBeforeHandler) => Step::Completing,
            _ => Step::Handling,
        }
    }
}
