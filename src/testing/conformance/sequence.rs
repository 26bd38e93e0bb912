use std::sync::Arc;
use std::time::Duration;

use super::super::random::Random;
use super::{LONG, must, new_key};
use crate::store::{Claim, ClaimToken, DedupStore, EventKey};

/// Checks [`DedupStore`] against a model of the protocol, over one random sequence of steps: a few claims fight for a few
/// events, leases end, and any step may be sent again as if its reply had been lost.
/// [`dedup_store`](super::dedup_store) runs it once with a random seed.
///
/// # Panics
///
/// The store and the model disagree, or the store returns an error. The message has the seed, which repeats the
/// sequence, and the steps so far.
pub async fn dedup_store_sequence(store: Arc<dyn DedupStore>, seed: u64) {
    let mut random = Random(seed);
    let tokens = [(); 3].map(|()| ClaimToken::random());
    let mut events: Vec<(EventKey, Model)> = (0..4).map(|_| (new_key(), Model::Absent)).collect();
    let mut steps = Vec::new();
    for _ in 0..300 {
        let (event, owner) = (random.below(events.len()), random.below(tokens.len()));
        let Some(((key, model), token)) = events.get_mut(event).zip(tokens.get(owner).copied()) else { continue };
        if matches!(model, Model::Completed { .. } | Model::GivenUp { .. }) && random.below(4) == 0 {
            (*key, *model) = (new_key(), Model::Absent);
        }
        let step = match random.below(10) {
            0..3 => Step::Claim(LONG),
            3 => Step::Claim(Duration::from_millis(1)),
            4..6 => Step::Complete,
            6 => Step::Release,
            7 => Step::GiveUp,
            8 => Step::IsCompleted,
            _ => Step::Reopen,
        };
        let times = if random.below(4) == 0 { 2 } else { 1 };
        for _ in 0..times {
            let answer = match step {
                Step::Claim(lease) => Reply::of(must(store.claim(key, token, lease).await)),
                Step::Complete => Reply::Done(must(store.complete(key, token, LONG).await)),
                Step::Release => Reply::Done(must(store.release(key, token).await)),
                Step::GiveUp => Reply::Done(must(store.give_up(key, token, LONG).await)),
                Step::IsCompleted => Reply::Done(must(store.is_completed(key).await)),
                Step::Reopen => {
                    must(store.reopen(key).await);
                    Reply::Reopened
                }
            };
            let expected = model.step(step, token);
            steps.push(format!("{step:?} of event {event} by {owner}: {answer:?}"));
            assert_eq!(answer, expected, "the store, then the model; seed {seed}:\n{}", steps.join("\n"));
            if matches!(step, Step::Claim(lease) if lease < LONG) {
                // Until it is over for certain.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Claim(Duration),
    Complete,
    Release,
    GiveUp,
    Reopen,
    IsCompleted,
}

#[derive(Debug, PartialEq)]
enum Reply {
    Reopened,
    Granted(u32),
    InFlight,
    Completed,
    GivenUp,
    Done(bool),
}

impl Reply {
    fn of(claim: Claim) -> Self {
        match claim {
            Claim::Granted { attempt } => Self::Granted(attempt),
            Claim::InFlight { .. } => Self::InFlight,
            Claim::Completed => Self::Completed,
            Claim::GivenUp => Self::GivenUp,
        }
    }
}

/// What a store must hold of one event.
#[derive(Clone, Copy)]
enum Model {
    Absent,
    Live { token: ClaimToken, attempt: u32, over: bool },
    Failed { token: ClaimToken, attempt: u32 },
    GivenUp { token: ClaimToken, attempt: u32 },
    Completed { token: ClaimToken },
}

impl Model {
    fn step(&mut self, step: Step, token: ClaimToken) -> Reply {
        let (next, reply) = match (step, *self) {
            (Step::Claim(_), Self::Completed { .. }) => return Reply::Completed,
            (Step::Claim(_), Self::GivenUp { .. }) => return Reply::GivenUp,
            (Step::Claim(_), Self::Live { token: owner, over: false, .. }) if owner != token => return Reply::InFlight,
            (Step::Claim(lease), state) => {
                let attempt = match state {
                    Self::Live { token: owner, attempt, .. } if owner == token => attempt,
                    Self::Live { attempt, .. } | Self::Failed { attempt, .. } => attempt + 1,
                    Self::Absent | Self::GivenUp { .. } | Self::Completed { .. } => 1,
                };
                (Self::Live { token, attempt, over: lease < LONG }, Reply::Granted(attempt))
            }
            (Step::Complete, Self::Live { token: owner, .. } | Self::Completed { token: owner }) if owner == token => {
                (Self::Completed { token }, Reply::Done(true))
            }
            (Step::Release, Self::Live { token: owner, attempt, .. } | Self::Failed { token: owner, attempt })
                if owner == token =>
            {
                (Self::Failed { token, attempt }, Reply::Done(true))
            }
            (Step::GiveUp, Self::Live { token: owner, attempt, .. } | Self::GivenUp { token: owner, attempt })
                if owner == token =>
            {
                (Self::GivenUp { token, attempt }, Reply::Done(true))
            }
            (Step::Reopen, Self::GivenUp { token, attempt }) => (Self::Failed { token, attempt }, Reply::Reopened),
            (Step::Reopen, _) => return Reply::Reopened,
            (Step::IsCompleted, state) => return Reply::Done(matches!(state, Self::Completed { .. })),
            (Step::Complete | Step::Release | Step::GiveUp, _) => return Reply::Done(false),
        };
        *self = next;
        reply
    }
}
