//! The claim protocol as a model: one event, the instances that receive it, and all that can come between them.
//!
//! A search visits every state that any order of steps leads to. An instance takes the steps of
//! `sendarix_webhooks::Receiver`, one at a time, and each of them may be its last:
//!
//! | of the world | in the model |
//! |---|---|
//! | six attempts, of which every second comes when a lease is over | [`Action::Begin`] |
//! | the sender hangs up, or waits too long, and the delivery goes on | [`Action::HangUp`] |
//! | an instance is killed | [`Action::Crash`] |
//! | a process stands still for any time, and goes on as if nothing were | nothing happens to it, and meanwhile [`Action::LeaseEnds`] |
//! | a store that is away, and one whose reply is lost | [`Network`] |
//! | a handler that succeeds, fails, or fails for good | [`Handling`] |
//! | a load balancer sends a request twice, and the sender waits for both | [`Action::Copy`] |
//! | an operator redrives a letter, which was read at any time before and may be gone | [`Action::Redrive`] |
//! | a handler that has committed, and commits again | [`Action::CommitAgain`] |
//! | a request without a valid signature | [`Action::Forge`] |
//!
//! A handler that has had its effect and fails all the same is one that fails, beside an effect that no claim could prevent.
//!
//! What it leaves out: a message to the store that is late instead of lost; a letter that is older than the retention. A lease is
//! taken to be over by the second attempt after its claim, and so to be at most as long as the two shortest pauses of the sender
//! together, 5 min 30 s.
//!
//! [`Flaw`] has the mistakes that the protocol must not make. A model that finds none of them wrong proves nothing.

mod delivery;
mod flaw;
mod state;

use stateright::{Model, Property};

pub use self::delivery::{Delivery, Step, Tie};
pub use self::flaw::Flaw;
pub use self::state::{Lease, Record, Sender, State};

/// Where the effects of a handler are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effects {
    /// In the transaction that completes the claim.
    Transactional,
    /// Elsewhere.
    Apart,
}

/// What is searched.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub effects: Effects,
    pub flaw: Option<Flaw>,
    /// How many deliveries can be under way at once.
    pub instances: usize,
    /// How many requests an attacker makes without the secret.
    pub forgeries: u8,
    /// How many requests are sent twice.
    pub copies: u8,
    /// How often an operator redrives a letter.
    pub redrives: u8,
    /// How many faults must not be enough to keep an event away.
    pub tolerated_faults: u8,
}

/// By Sendarix's schedule.
pub const ATTEMPTS: u8 = 6;

/// This many faults leave one of the six attempts undisturbed, whenever they come. A crash may cost two: its own, and the next
/// if that comes within the lease.
pub const TOLERATED_FAULTS: u8 = 2;

/// What became of a message between an instance and its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    Fine,
    RequestLost,
    ReplyLost,
}

/// What became of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handling {
    Succeeds,
    Fails,
    FailsForGood,
}

/// Something happens. The numbers are those of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The sender makes its next attempt.
    Begin,
    /// An attacker sends the same event.
    Forge,
    /// The sender's request is sent a second time.
    Copy,
    Redrive,
    HangUp,
    LeaseEnds,
    Crash(usize),
    Verify(usize),
    Handle(usize, Handling),
    /// The next step of a delivery at the dedup store.
    Store(usize, Network),
    /// The next step of a delivery at the dead-letter store.
    Letter(usize, Network),
    CommitAgain(usize),
    /// A mistake alone: see [`Flaw::LetterWithoutClaim`].
    KeepUnclaimed(usize),
    /// The answer goes out before the end could be recorded.
    AnswerFirst(usize),
    /// The end could not be recorded for as long as the lease was, by the instance's clock.
    GiveUpRecording(usize),
}

/// The names of the properties.
pub mod property {
    pub const KEPT: &str = "an acknowledged event is handled or kept";
    pub const NOT_STUCK: &str = "an event whose sender has finished is handled or kept, but for many faults";
    pub const ONE_COMPLETION: &str = "no two owners complete an event";
    pub const ONE_EFFECT: &str = "in a transaction, there is one effect";
    pub const COUNTED: &str = "otherwise there is at most one more for each delivery that was cut off";
    pub const TRUE_RECORD: &str = "what is recorded as handled or given up is handled or kept";
    pub const LETTER_GOES: &str = "without a fault, no letter is left of an event that was handled";
    pub const HANDLED: &str = "an event can be handled";
    pub const REDRIVEN: &str = "an event that was given up can be handled after all";
}

impl Protocol {
    pub const fn new(effects: Effects) -> Self {
        let (flaw, tolerated_faults) = (None, TOLERATED_FAULTS);
        Self { effects, flaw, instances: 3, forgeries: 1, copies: 0, redrives: 0, tolerated_faults }
    }

    /// The protocol with an operator and a load balancer that sends a request twice, and with fewer instances: each of them
    /// multiplies the states.
    pub const fn redriven(effects: Effects) -> Self {
        Self { instances: 2, forgeries: 0, copies: 1, redrives: 1, ..Self::new(effects) }
    }

    /// The protocol with a mistake, in the smallest world that shows it.
    pub const fn flawed(flaw: Flaw) -> Self {
        let world = Self { flaw: Some(flaw), instances: 2, forgeries: 0, ..Self::new(flaw.effects()) };
        match flaw {
            // The forger needs no help.
            Flaw::ClaimBeforeVerification => Self { forgeries: ATTEMPTS, tolerated_faults: 0, ..world },
            Flaw::NoLease => Self { tolerated_faults: 1, ..world },
            Flaw::LetterWithoutClaim => Self { copies: 1, ..world },
            Flaw::ReopenCompleted => Self { redrives: 1, ..world },
            _ => world,
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.deliveries.len() < self.instances {
            if state.sender.goes_on() {
                actions.push(Action::Begin);
            }
            if state.forged < self.forgeries && state.sender.goes_on() {
                actions.push(Action::Forge);
            }
        }
        if state.deliveries.len() < self.instances {
            if state.sender.is_waiting && state.copies < self.copies {
                actions.push(Action::Copy);
            }
            if state.was_kept && state.redrives < self.redrives {
                actions.push(Action::Redrive);
            }
        }
        if state.sender.is_waiting {
            actions.push(Action::HangUp);
        }
        if state.record.is_owned() && !self.has(Flaw::NoLease) {
            actions.push(Action::LeaseEnds);
        }
        for (number, delivery) in state.deliveries.iter().enumerate() {
            actions.push(Action::Crash(number));
            delivery.actions(number, self, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Begin => {
                state.sender.attempts += 1;
                state.sender.is_waiting = true;
                if !self.has(Flaw::NoLease) {
                    state.age_lease();
                }
                state.deliveries.push(Delivery::of_request(self, true));
            }
            Action::Forge => {
                state.forged += 1;
                state.deliveries.push(Delivery::of_request(self, false));
            }
            Action::Copy => {
                state.copies += 1;
                state.deliveries.push(Delivery::of_request(self, true));
            }
            Action::Redrive => {
                state.redrives += 1;
                state.deliveries.push(Delivery::of_letter());
            }
            Action::HangUp => state.hang_up(self),
            Action::LeaseEnds => state.end_lease(),
            Action::Crash(number) => state.crash(self, number),
            Action::Verify(number) => state.verify(self, number),
            Action::Handle(number, handling) => state.handle(self, number, handling),
            Action::Store(number, network) => state.ask_store(self, number, network),
            Action::Letter(number, network) => state.keep_letter(self, number, network),
            Action::KeepUnclaimed(number) => state.keep_unclaimed(number),
            Action::CommitAgain(_) => state.commit_again(self),
            Action::AnswerFirst(number) => state.answer(number, true),
            Action::GiveUpRecording(number) => state.give_up_recording(number),
        }
        // Instances are all alike, so their order is nothing that a state could differ in.
        state.deliveries.sort_unstable();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(property::KEPT, |_, state: &State| !state.sender.acknowledged || state.is_safe()),
            Property::always(property::NOT_STUCK, |protocol: &Self, state: &State| {
                !state.is_quiet() || state.faults > protocol.tolerated_faults || state.is_safe()
            }),
            Property::always(property::TRUE_RECORD, |_, state: &State| {
                !matches!(state.record, Record::Completed | Record::GivenUp) || state.is_safe()
            }),
            Property::always(property::ONE_COMPLETION, |_, state: &State| state.completions <= 1),
            Property::always(property::ONE_EFFECT, |protocol: &Self, state: &State| {
                protocol.effects == Effects::Apart || state.effects <= 1
            }),
            Property::always(property::COUNTED, |_, state: &State| state.effects <= 1 + state.cut_off),
            Property::always(property::LETTER_GOES, |_, state: &State| {
                let is_undisturbed = state.faults == 0 && !state.is_unrecorded;
                !(state.is_quiet() && is_undisturbed && state.record == Record::Completed && state.letter)
            }),
            // Else the rest could hold because nothing ever happens.
            Property::sometimes(property::HANDLED, |_, state: &State| {
                state.sender.acknowledged && state.record == Record::Completed && state.is_quiet()
            }),
            Property::sometimes(property::REDRIVEN, |protocol: &Self, state: &State| {
                protocol.redrives == 0 || state.redrives > 0 && state.record == Record::Completed && state.is_quiet()
            }),
        ]
    }
}
