//! Stores that can be broken from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetters, ListedLetter, UnreadableLetter};
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore, StoreError, StoreFuture};

/// Both stores in one, to be broken from outside and counted.
#[derive(Clone, Debug, Default)]
pub struct FaultyStores(Arc<Faults>);

#[derive(Debug, Default)]
struct Faults {
    memory: MemoryStore,
    letters: std::sync::Mutex<std::collections::BTreeMap<EventKey, DeadLetter>>,
    unlisted: std::sync::Mutex<Option<String>>,
    unreadable: std::sync::Mutex<Option<String>>,
    pub claims_fail: AtomicBool,
    pub claims_hang: AtomicBool,
    pub claims_wait: AtomicBool,
    pub claim_replies_lost: AtomicBool,
    pub completions_fail: AtomicBool,
    pub releases_fail: AtomicBool,
    pub letters_fail: AtomicBool,
    pub reopening_is_forgotten: AtomicBool,
    pub calls: AtomicUsize,
    /// In milliseconds.
    reads_take: AtomicUsize,
}

macro_rules! switches {
    ($($name:ident),*) => { impl FaultyStores { $(
        pub fn $name(&self, on: bool) {
            self.0.$name.store(on, Ordering::SeqCst);
        }
    )* } };
}
switches!(
    claims_fail,
    claims_hang,
    claims_wait,
    claim_replies_lost,
    completions_fail,
    releases_fail,
    letters_fail,
    reopening_is_forgotten
);

impl FaultyStores {
    /// How often any of them was asked for anything.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    pub fn letters(&self) -> Vec<DeadLetter> {
        self.0.letters.lock().unwrap().values().cloned().collect()
    }

    /// The letters of this endpoint cannot be listed any more.
    pub fn listing_fails_for(&self, endpoint: &str) {
        *self.0.unlisted.lock().unwrap() = Some(endpoint.to_owned());
    }

    /// The letter of this event cannot be read any more.
    pub fn reading_fails_for(&self, event_id: &str) {
        *self.0.unreadable.lock().unwrap() = Some(event_id.to_owned());
    }

    /// How long it takes to look for a completion, and to read a letter.
    pub fn reads_take(&self, time: Duration) {
        self.0.reads_take.store(usize::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    async fn begin_to_read(&self) {
        match self.0.reads_take.load(Ordering::SeqCst) {
            0 => {}
            time => tokio::time::sleep(Duration::from_millis(time as u64)).await,
        }
    }

    fn is(&self, switch: &AtomicBool) -> bool {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        switch.load(Ordering::SeqCst)
    }
}

/// An error whose text must never reach a sender.
pub const INTERNAL: &str = "postgres://user:password@10.0.0.7 refused";

impl DedupStore for FaultyStores {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        StoreFuture::new(async move {
            if self.0.claims_hang.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            while self.0.claims_wait.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if self.is(&self.0.claims_fail) {
                return Err(StoreError::new(INTERNAL));
            }
            let claim = self.0.memory.claim(key, token, lease).await;
            if self.0.claim_replies_lost.load(Ordering::SeqCst) { Err(StoreError::new(INTERNAL)) } else { claim }
        })
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            if self.is(&self.0.completions_fail) {
                return Err(StoreError::new(INTERNAL));
            }
            self.0.memory.complete(key, token, retention).await
        })
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            if self.is(&self.0.releases_fail) {
                return Err(StoreError::new(INTERNAL));
            }
            self.0.memory.release(key, token).await
        })
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            if self.is(&self.0.completions_fail) {
                return Err(StoreError::new(INTERNAL));
            }
            self.0.memory.give_up(key, token, retention).await
        })
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            if self.is(&self.0.reopening_is_forgotten) {
                return Ok(());
            }
            self.0.memory.reopen(key).await
        })
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            let fails = self.is(&self.0.claims_fail);
            if self.0.claims_hang.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            self.begin_to_read().await;
            if fails {
                return Err(StoreError::new(INTERNAL));
            }
            self.0.memory.is_completed(key).await
        })
    }
}

impl DeadLetters for FaultyStores {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            if self.is(&self.0.letters_fail) {
                return Err(StoreError::new(INTERNAL));
            }
            let mut letters = self.0.letters.lock().unwrap();
            let mut letter = letter.clone();
            if let Some(earlier) = letters.get(&letter.key) {
                letter = letter.superseding(earlier);
            }
            letters.insert(letter.key.clone(), letter);
            Ok(())
        })
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            self.0.letters.lock().unwrap().remove(key);
            Ok(())
        })
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        StoreFuture::new(async move {
            self.begin_to_read().await;
            if self.0.unreadable.lock().unwrap().as_deref() == Some(key.event_id()) {
                return Err(StoreError::new(INTERNAL));
            }
            Ok(self.0.letters.lock().unwrap().get(key).cloned())
        })
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedLetter>> {
        StoreFuture::new(async move {
            if self.0.unlisted.lock().unwrap().as_deref() == Some(endpoint) {
                return Err(StoreError::new(INTERNAL));
            }
            let letters = self.0.letters.lock().unwrap();
            let of_endpoint = letters.values().filter(|letter| letter.key.endpoint() == endpoint);
            let rest = of_endpoint.filter(|letter| after.is_none_or(|after| letter.key.event_id() > after));
            let unreadable = self.0.unreadable.lock().unwrap();
            let read = |letter: &DeadLetter| match unreadable.as_deref() {
                Some(id) if id == letter.key.event_id() => {
                    Err(UnreadableLetter::new(letter.key.clone(), StoreError::new(INTERNAL)))
                }
                _ => Ok(letter.clone()),
            };
            Ok(rest.take(limit).map(read).collect())
        })
    }

    fn discard<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            let mut letters = self.0.letters.lock().unwrap();
            let is_same = letters.get(&letter.key) == Some(letter);
            if is_same {
                letters.remove(&letter.key);
            }
            Ok(is_same)
        })
    }
}
