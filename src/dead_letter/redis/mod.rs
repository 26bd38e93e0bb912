//! Dead letters in Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::record::StoredLetter;
use super::{DeadLetter, DeadLetterError, DeadLetterFuture, DeadLetters};
use crate::store::EventKey;
use crate::store::redis::{Script, Server};
use crate::telemetry::TARGET;

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
    /// Whether the server's settings have been looked at.
    inspected: AtomicBool,
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
            inspected: AtomicBool::new(false),
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
        self.inspect_once().await;
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

    /// Warns of a server that keeps letters only in its memory, once.
    async fn inspect_once(&self) {
        if self.0.inspected.load(Ordering::Relaxed) {
            return;
        }
        // Without an answer it is asked again with the next letter.
        let Ok(enabled) = self.0.server.info("aof_enabled").await else { return };
        if enabled.is_some_and(|enabled| enabled == "0") && !self.0.inspected.swap(true, Ordering::Relaxed) {
            let message = "this Redis has no append-only file, so a restart may lose dead letters; set appendonly to yes and \
                appendfsync to always";
            tracing::warn!(target: TARGET, message);
        }
        self.0.inspected.store(true, Ordering::Relaxed);
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

    fn may_hold(&self, _: &EventKey) -> bool {
        false
    }
}
