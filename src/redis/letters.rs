//! Dead letters in Redis.

use super::{RedisStore, claim_key, letters_keys};
use crate::dead_letter::{DeadLetter, DeadLetters, ListedLetter, StoredLetter, UnreadableLetter};
use crate::event::EventKey;
use crate::logging::{Chain, TARGET};
use crate::storage::{StoreError, StoreFuture};

/// Keeps dead letters in Redis, beside the events of a [`RedisStore`](crate::RedisStore), which makes them:
/// [`dead_letters`](crate::RedisStore::dead_letters).
///
/// **A letter is as durable as the server makes it.** It survives a power failure only with `appendonly yes` and
/// `appendfsync always`, and a failover only if the replica had it. The store warns of a server without `appendonly`. Where
/// no letter may be lost, keep them in PostgreSQL or a file.
///
/// The letters of an endpoint are in the hash `sendarix:letters:{ENDPOINT}`, each as JSON under its event's id, and the ids
/// in the sorted set `sendarix:letter-ids:{ENDPOINT}`. They hold recipients and whatever else the events and the handler's
/// errors say.
#[derive(Clone, Debug)]
pub struct RedisDeadLetters(pub(super) RedisStore);

/// How often a letter is put in the place of another that keeps changing.
const TRIES: usize = 10;

/// Lua passes on some thousand values at most.
const MAX_PAGE: usize = 1000;

impl RedisDeadLetters {
    fn keys(&self, endpoint: &str) -> [String; 2] {
        letters_keys(&self.0.prefix, endpoint)
    }

    async fn find(&self, key: &EventKey) -> Result<Option<Vec<u8>>, StoreError> {
        let [letters, _] = self.keys(key.endpoint());
        let mut find = redis::cmd("HGET");
        find.arg(letters).arg(key.event_id());
        self.0.server.connections.send(&find).await
    }

    async fn try_record(&self, letter: &DeadLetter) -> Result<(), StoreError> {
        self.0.server.expect(&self.0.server.keeps_letters);
        let [letters, ids] = self.keys(letter.key.endpoint());
        let keys = [letters, ids, claim_key(&self.0.prefix, &letter.key)];
        for _ in 0..TRIES {
            let earlier = self.find(&letter.key).await?;
            let letter = match earlier.as_deref().map(read) {
                Some(Ok(earlier)) => letter.clone().superseding(&earlier),
                Some(Err(error)) => {
                    let error = Chain(&error);
                    let message = "a dead letter could not be read; a new one of the same event takes its place";
                    tracing::warn!(target: TARGET, %error, "{message}");
                    letter.clone()
                }
                None => letter.clone(),
            };
            let json = serde_json::to_string(&StoredLetter::new(&letter)).map_err(StoreError::new)?;
            let arguments = (letter.key.event_id(), earlier.unwrap_or_default(), json);
            if self.0.server.run(&self.0.server.replace, &keys, arguments).await? {
                return Ok(());
            }
        }
        Err(StoreError::new("the letter went on changing"))
    }

    async fn try_resolve(&self, key: &EventKey) -> Result<(), StoreError> {
        let resolved = self.0.server.run(&self.0.server.resolve, &self.keys(key.endpoint()), key.event_id()).await;
        resolved.map(|_: u64| ())
    }

    async fn try_discard(&self, letter: &DeadLetter) -> Result<bool, StoreError> {
        let Some(json) = self.find(&letter.key).await? else { return Ok(false) };
        if read(&json)? != *letter {
            return Ok(false);
        }
        let arguments = (letter.key.event_id(), json);
        let keys = self.keys(letter.key.endpoint());
        let discarded: u64 = self.0.server.run(&self.0.server.resolve, &keys, arguments).await?;
        Ok(discarded == 1)
    }

    async fn try_list(
        &self,
        endpoint: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ListedLetter>, StoreError> {
        let first = after.map_or("-".to_owned(), |after| format!("({after}"));
        let keys = self.keys(endpoint);
        let list = self.0.server.run(&self.0.server.list, &keys, (first, limit.min(MAX_PAGE)));
        let letters: Vec<(Vec<u8>, Vec<u8>)> = list.await?;
        let read = |(id, letter): &(Vec<u8>, Vec<u8>)| {
            let key = || EventKey::new(endpoint, String::from_utf8_lossy(id));
            read(letter).map_err(|error| UnreadableLetter::new(key(), error))
        };
        Ok(letters.iter().map(read).collect())
    }
}

fn read(json: &[u8]) -> Result<DeadLetter, StoreError> {
    StoredLetter::read(json).and_then(DeadLetter::try_from).map_err(StoreError::new)
}

impl DeadLetters for RedisDeadLetters {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        StoreFuture::new(self.try_record(letter))
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::new(self.try_resolve(key))
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        StoreFuture::new(async move { self.find(key).await?.as_deref().map(read).transpose() })
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedLetter>> {
        StoreFuture::new(self.try_list(endpoint, after, limit))
    }

    fn discard<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, bool> {
        StoreFuture::new(self.try_discard(letter))
    }
}
