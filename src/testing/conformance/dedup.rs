use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::letters::sample_letter;
use super::{LONG, dedup_store_sequence, must, new_key};
use crate::store::{Claim, ClaimToken, DedupStore, EventKey};

/// A lease that the suite waits for.
const SHORT: Duration = Duration::from_millis(200);

/// The longest that the suite waits for a condition before it calls it broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Checks the rules of [`DedupStore`]. Takes at least 12 s: it waits that long to see whether the store forgets too early.
///
/// # Panics
///
/// A rule is broken, or the store returns an error.
pub async fn dedup_store(store: Arc<dyn DedupStore>) {
    let suite = DedupSuite { store };
    let remembered = suite.end_some_events().await;
    suite.a_claim_excludes_others_until_it_is_completed().await;
    suite.a_released_event_can_be_claimed_again().await;
    suite.every_step_can_be_sent_again().await;
    suite.an_ended_lease_is_taken_over_and_the_late_owner_changes_nothing().await;
    suite.an_ended_lease_that_nobody_took_over_can_still_be_completed().await;
    suite.a_repeated_claim_renews_the_lease().await;
    suite.an_event_that_was_given_up_is_claimed_again_only_after_it_is_reopened().await;
    suite.keys_are_compared_as_a_whole().await;
    suite.one_of_many_racing_claims_is_granted().await;
    suite.an_ended_event_is_remembered_for_the_retention().await;
    suite.its_own_letters_are_gone_once_their_event_is_completed().await;
    dedup_store_sequence(Arc::clone(&suite.store), rand::random()).await;
    suite.ended_events_are_still_remembered(remembered).await;
}

/// Longer than a cache with a life of ten seconds remembers.
const LONGER_THAN_A_CACHE: Duration = Duration::from_secs(12);

struct DedupSuite {
    store: Arc<dyn DedupStore>,
}

/// Events that must be remembered when the suite ends.
struct Remembered {
    since: Instant,
    completed: EventKey,
    given_up: EventKey,
    failed: EventKey,
}

impl DedupSuite {
    async fn its_own_letters_are_gone_once_their_event_is_completed(&self) {
        let Some(letters) = self.store.dead_letters() else { return };
        let (key, token) = (new_key(), ClaimToken::random());
        let letter = sample_letter(key.clone());
        assert_eq!(self.claim(&key, token, LONG).await, Claim::Granted { attempt: 1 });
        must(letters.record(&letter).await);
        assert!(must(letters.get(&key).await).is_some(), "the letter of a live claim is kept");
        assert!(self.complete(&key, token).await);
        assert_eq!(must(letters.get(&key).await), None, "completing an event deletes its letter");
        must(letters.record(&letter).await);
        assert_eq!(must(letters.get(&key).await), None, "a completed event gets no letter");
    }

    async fn end_some_events(&self) -> Remembered {
        let (completed, given_up, failed) = (new_key(), new_key(), new_key());
        for key in [&completed, &given_up, &failed] {
            let token = ClaimToken::random();
            assert_eq!(self.claim(key, token, LONG).await, Claim::Granted { attempt: 1 });
            assert!(if *key == completed {
                self.complete(key, token).await
            } else if *key == given_up {
                must(self.store.give_up(key, token, LONG).await)
            } else {
                self.release(key, token).await
            });
        }
        Remembered { since: Instant::now(), completed, given_up, failed }
    }

    async fn ended_events_are_still_remembered(&self, remembered: Remembered) {
        let Remembered { since, completed, given_up, failed } = remembered;
        tokio::time::sleep_until((since + LONGER_THAN_A_CACHE).into()).await;
        let waited = since.elapsed();
        let claim = async |key| self.claim(key, ClaimToken::random(), LONG).await;
        assert_eq!(claim(&completed).await, Claim::Completed, "a completed event is forgotten within {waited:?}");
        assert!(must(self.store.is_completed(&completed).await), "a completed event is forgotten within {waited:?}");
        assert_eq!(claim(&given_up).await, Claim::GivenUp, "a given up event is forgotten within {waited:?}");
        let failed = claim(&failed).await;
        assert_eq!(failed, Claim::Granted { attempt: 2 }, "a failed attempt is forgotten within {waited:?}");
    }

    async fn an_ended_event_is_remembered_for_the_retention(&self) {
        const RETENTION: Duration = Duration::from_secs(1);
        for gives_up in [false, true] {
            let (key, token) = (new_key(), ClaimToken::random());
            assert_eq!(self.claim(&key, token, LONG).await, Claim::Granted { attempt: 1 });
            let before = Instant::now();
            let ended = if gives_up {
                self.store.give_up(&key, token, RETENTION).await
            } else {
                self.store.complete(&key, token, RETENTION).await
            };
            assert!(must(ended));
            while let answer = self.claim(&key, ClaimToken::random(), LONG).await
                && before.elapsed() < RETENTION
            {
                let expected = if gives_up { Claim::GivenUp } else { Claim::Completed };
                assert_eq!(answer, expected, "forgotten after {:?} of {RETENTION:?}", before.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn a_claim_excludes_others_until_it_is_completed(&self) {
        let (key, owner, other) = (new_key(), ClaimToken::random(), ClaimToken::random());
        assert_eq!(self.claim(&key, owner, LONG).await, Claim::Granted { attempt: 1 }, "a new event can be claimed");
        match self.claim(&key, other, LONG).await {
            Claim::InFlight { remaining } => {
                assert!(
                    !remaining.is_zero() && remaining <= LONG,
                    "the rest of the lease is {remaining:?} of {LONG:?}"
                );
            }
            answer => panic!("a live claim excludes another, but the store answered {answer:?}"),
        }
        assert!(!self.complete(&key, other).await, "only the owner can complete");
        assert!(!self.release(&key, other).await, "only the owner can release");
        let still = self.claim(&key, other, LONG).await;
        assert!(matches!(still, Claim::InFlight { .. }), "a refused step changes nothing, but: {still:?}");
        assert!(!must(self.store.is_completed(&key).await), "a live claim is not completed");
        assert!(self.complete(&key, owner).await, "the owner can complete");
        assert!(must(self.store.is_completed(&key).await), "and then it is");
        assert_eq!(self.claim(&key, other, LONG).await, Claim::Completed, "a completed event is not claimed again");
        assert_eq!(self.claim(&key, owner, LONG).await, Claim::Completed, "not even by its owner");
        assert!(!self.release(&key, owner).await, "a completed event is not released");
        assert!(!self.complete(&key, other).await, "a completed event is not completed by another");
        assert_eq!(self.claim(&key, other, LONG).await, Claim::Completed, "a completed event stays so");
    }

    async fn a_released_event_can_be_claimed_again(&self) {
        let (key, first, second) = (new_key(), ClaimToken::random(), ClaimToken::random());
        assert_eq!(self.claim(&key, first, LONG).await, Claim::Granted { attempt: 1 });
        assert!(self.release(&key, first).await, "the owner can release");
        assert!(!self.complete(&key, first).await, "a released claim cannot be completed");
        let again = self.claim(&key, second, LONG).await;
        assert_eq!(again, Claim::Granted { attempt: 2 }, "the attempts are counted");
        assert!(!self.release(&key, first).await, "the owner before cannot release");
        assert!(self.release(&key, second).await);
        let third = ClaimToken::random();
        assert_eq!(self.claim(&key, third, LONG).await, Claim::Granted { attempt: 3 });
        assert!(self.complete(&key, third).await);
    }

    async fn every_step_can_be_sent_again(&self) {
        let (key, token) = (new_key(), ClaimToken::random());
        for _ in 0..3 {
            let claim = self.claim(&key, token, LONG).await;
            assert_eq!(claim, Claim::Granted { attempt: 1 }, "a claim sent again is the same claim");
        }
        for _ in 0..3 {
            assert!(self.release(&key, token).await, "a release sent again is the same release");
        }
        let next = ClaimToken::random();
        assert_eq!(self.claim(&key, next, LONG).await, Claim::Granted { attempt: 2 }, "and counts once");
        for _ in 0..3 {
            assert!(self.complete(&key, next).await, "a completion sent again is the same completion");
        }
    }

    async fn an_ended_lease_is_taken_over_and_the_late_owner_changes_nothing(&self) {
        let (key, late, next) = (new_key(), ClaimToken::random(), ClaimToken::random());
        let before = Instant::now();
        assert_eq!(self.claim(&key, late, SHORT).await, Claim::Granted { attempt: 1 });
        loop {
            match self.claim(&key, next, LONG).await {
                Claim::InFlight { remaining } => {
                    assert!(remaining <= SHORT, "the rest of the lease is {remaining:?} of {SHORT:?}");
                    assert!(before.elapsed() < PATIENCE, "a lease of {SHORT:?} never ends");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                answer => {
                    assert_eq!(answer, Claim::Granted { attempt: 2 }, "a takeover counts as an attempt");
                    break;
                }
            }
        }
        assert!(before.elapsed() >= SHORT, "taken over after {:?} of a lease of {SHORT:?}", before.elapsed());
        assert!(!self.complete(&key, late).await, "the late owner cannot complete");
        assert!(!self.release(&key, late).await, "the late owner cannot release");
        assert!(self.complete(&key, next).await, "the new owner can complete");
        assert!(!self.complete(&key, late).await, "the late owner cannot complete what the new owner has completed");
    }

    async fn an_ended_lease_that_nobody_took_over_can_still_be_completed(&self) {
        let (key, token) = (new_key(), ClaimToken::random());
        assert_eq!(self.claim(&key, token, Duration::from_millis(1)).await, Claim::Granted { attempt: 1 });
        tokio::time::sleep(SHORT).await;
        assert!(self.complete(&key, token).await, "an event that was handled is completed, however late");
        assert_eq!(self.claim(&key, ClaimToken::random(), LONG).await, Claim::Completed);
    }

    async fn a_repeated_claim_renews_the_lease(&self) {
        let (key, token) = (new_key(), ClaimToken::random());
        assert_eq!(self.claim(&key, token, SHORT).await, Claim::Granted { attempt: 1 });
        assert_eq!(self.claim(&key, token, LONG).await, Claim::Granted { attempt: 1 });
        tokio::time::sleep(SHORT * 2).await;
        let other = self.claim(&key, ClaimToken::random(), LONG).await;
        assert!(matches!(other, Claim::InFlight { .. }), "a claim sent again renews its lease, but: {other:?}");
    }

    async fn an_event_that_was_given_up_is_claimed_again_only_after_it_is_reopened(&self) {
        let (key, first, second) = (new_key(), ClaimToken::random(), ClaimToken::random());
        let give_up = async |token| must(self.store.give_up(&key, token, LONG).await);
        let reopen = async || must(self.store.reopen(&key).await);
        reopen().await;
        assert_eq!(self.claim(&key, first, LONG).await, Claim::Granted { attempt: 1 });
        assert!(!give_up(second).await, "only the owner can give up");
        reopen().await;
        let live = self.claim(&key, second, LONG).await;
        assert!(matches!(live, Claim::InFlight { .. }), "a live claim is not reopened, but: {live:?}");
        for _ in 0..2 {
            assert!(give_up(first).await, "the owner can give up, and say so again");
        }
        assert_eq!(self.claim(&key, second, LONG).await, Claim::GivenUp, "an event given up is not claimed");
        assert!(!must(self.store.is_completed(&key).await), "nor is it completed");
        assert!(!self.complete(&key, first).await && !self.release(&key, first).await, "it has ended");
        for _ in 0..2 {
            reopen().await;
        }
        assert_eq!(self.claim(&key, second, LONG).await, Claim::Granted { attempt: 2 }, "until it is reopened");
        assert!(!give_up(first).await, "the owner before cannot give up");
        assert!(self.complete(&key, second).await);
        assert!(!give_up(second).await, "a completed event is not given up");
        reopen().await;
        assert_eq!(self.claim(&key, first, LONG).await, Claim::Completed, "a completed event is not reopened");
    }

    async fn keys_are_compared_as_a_whole(&self) {
        let id = new_key().event_id().to_owned();
        let keys = [
            EventKey::new("a", id.as_str()),
            EventKey::new("b", id.as_str()),
            EventKey::new("a", id.to_uppercase()),
            EventKey::new("a", format!("{id} ")),
            EventKey::new("a", format!(" {id}")),
            EventKey::new("a", format!("{id}\u{1}")),
            EventKey::new("a", format!("{id}\u{1}\u{1F4E7}'\";--{{}}:*%")),
            EventKey::new("a", format!("{id}{}", "x".repeat(255 - id.len()))),
            EventKey::new("a", format!("{id}{}", "y".repeat(255 - id.len()))),
        ];
        for key in &keys {
            let claim = self.claim(key, ClaimToken::random(), LONG).await;
            assert_eq!(claim, Claim::Granted { attempt: 1 }, "{key:?} is taken for another key");
        }
    }

    async fn one_of_many_racing_claims_is_granted(&self) {
        let mut races = JoinSet::new();
        let keys: Vec<EventKey> = (0..50).map(|_| new_key()).collect();
        for key in keys.iter().flat_map(|key| std::iter::repeat_n(key, 8)).cloned() {
            let store = Arc::clone(&self.store);
            races.spawn(async move { (must(store.claim(&key, ClaimToken::random(), LONG).await), key) });
        }
        let mut granted = Vec::new();
        while let Some(race) = races.join_next().await {
            if let (Claim::Granted { attempt: 1 }, key) = must(race) {
                granted.push(key);
            }
        }
        let mut keys = keys;
        keys.sort_unstable();
        granted.sort_unstable();
        assert!(granted == keys, "of 8 racing claims of each of 50 events, {} were granted", granted.len());
    }

    async fn claim(&self, key: &EventKey, token: ClaimToken, lease: Duration) -> Claim {
        must(self.store.claim(key, token, lease).await)
    }

    async fn complete(&self, key: &EventKey, token: ClaimToken) -> bool {
        must(self.store.complete(key, token, LONG).await)
    }

    async fn release(&self, key: &EventKey, token: ClaimToken) -> bool {
        must(self.store.release(key, token).await)
    }
}
