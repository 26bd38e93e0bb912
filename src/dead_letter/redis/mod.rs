//! Dead letters in Redis.

use std::sync::Arc;

use super::record::StoredLetter;
use super::{DeadLetter, DeadLetterError, DeadLetterFuture, DeadLetters};
use crate::store::redis::{Expectation, Script, Server};
use crate::store::{DatabaseId, EventKey};

/// Keeps dead letters in Redis, beside the events of a [`RedisStore`](crate::store::RedisStore), which makes them:
/// [`dead_letters`](crate::store::RedisStore::dead_letters).
///
/// **A letter is as durable as the server makes it.** It survives a power failure only with `appendonly yes` and
/// `appendfsync always`, and a failover only if the replica had it. The store warns of a server without `appendonly`. Where
/// no letter may be lost, keep them in PostgreSQL or a file.
///
/// The letters of an endpoint are in the hash `sendarix:letters:{ENDPOINT}`, each as JSON under its event's id, and the ids
/// in the sorted set `sendarix:letter-ids:{ENDPOINT}`. They hold recipients and whatever else the events and the handler's
/// errors say.
#[derive(Clone, Debug)]
pub struct RedisDeadLetters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: Arc<Server>,
    prefix: Arc<str>,
    replace: Script,
    resolve: Script,
    list: Script,
    keeps_letters: Arc<Expectation>,
}

/// So often at most is a letter put in the place of another that keeps changing.
const TRIES: usize = 10;

/// Lua passes on some thousand values at most.
const MAX_PAGE: usize = 1000;

impl RedisDeadLetters {
    pub(crate) fn new(server: Arc<Server>, prefix: Arc<str>) -> Self {
        Self(Arc::new(Inner {
            server,
            prefix,
            replace: Script::new(include_str!("replace.lua")),
            resolve: Script::new(include_str!("resolve.lua")),
            list: Script::new(include_str!("list.lua")),
            keeps_letters: Expectation::new(
                "aof_enabled",
                "1",
                "this Redis has no append-only file, so a restart may lose dead letters; set appendonly to yes and \
                    appendfsync to always",
            ),
        }))
    }

    /// The hash and the sorted set of an endpoint, which a cluster keeps on one server because of the braces.
    fn keys(&self, endpoint: &str) -> [String; 2] {
        ["letters", "letter-ids"].map(|kind| format!("{}:{kind}:{{{endpoint}}}", self.0.prefix))
    }

    async fn find(&self, key: &EventKey) -> Result<Option<String>, DeadLetterError> {
        let [letters, _] = self.keys(key.endpoint());
        let mut find = redis::cmd("HGET");
        find.arg(letters).arg(key.event_id());
        self.0.server.send(&find).await.map_err(DeadLetterError::new)
    }

    async fn try_record(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        self.0.server.expect(&self.0.keeps_letters);
        let keys = self.keys(letter.key.endpoint());
        for _ in 0..TRIES {
            let earlier = self.find(&letter.key).await?;
            let letter = match &earlier {
                Some(earlier) => letter.clone().superseding(&read(earlier)?),
                None => letter.clone(),
            };
            let json = serde_json::to_string(&StoredLetter::new(&letter)).map_err(DeadLetterError::new)?;
            let arguments = (letter.key.event_id(), earlier.unwrap_or_default(), json);
            let replaced = self.0.server.run(&self.0.replace, &keys, arguments).await;
            if replaced.map_err(DeadLetterError::new)? {
                return Ok(());
            }
        }
        Err(DeadLetterError::new("the letter went on changing"))
    }

    async fn try_resolve(&self, key: &EventKey) -> Result<(), DeadLetterError> {
        let resolved = self.0.server.run(&self.0.resolve, &self.keys(key.endpoint()), key.event_id()).await;
        resolved.map(|_: u64| ()).map_err(DeadLetterError::new)
    }

    async fn try_list(
        &self,
        endpoint: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let first = after.map_or("-".to_owned(), |after| format!("({after}"));
        let keys = self.keys(endpoint);
        let list = self.0.server.run(&self.0.list, &keys, (first, limit.min(MAX_PAGE)));
        let letters: Vec<String> = list.await.map_err(DeadLetterError::new)?;
        letters.iter().map(|letter| read(letter)).collect()
    }
}

fn read(json: &str) -> Result<DeadLetter, DeadLetterError> {
    let stored: StoredLetter<'_> = serde_json::from_str(json).map_err(DeadLetterError::new)?;
    stored.try_into().map_err(DeadLetterError::new)
}

impl DeadLetters for RedisDeadLetters {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> DeadLetterFuture<'a, ()> {
        Box::pin(self.try_record(letter))
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> DeadLetterFuture<'a, ()> {
        Box::pin(self.try_resolve(key))
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> DeadLetterFuture<'a, Option<DeadLetter>> {
        Box::pin(async move { self.find(key).await?.as_deref().map(read).transpose() })
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> DeadLetterFuture<'a, Vec<DeadLetter>> {
        Box::pin(self.try_list(endpoint, after, limit))
    }

    fn database(&self) -> Option<DatabaseId> {
        Some(DatabaseId::of(&self.0.server))
    }
}
