//! Events and dead letters of several instances, in Redis.

mod connection;
mod letters;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Client, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, ToRedisArgs, Value};

use self::connection::Connections;
pub use self::letters::RedisDeadLetters;
use crate::contract::MAX_LEASE;
use crate::dead_letter::DeadLetters;
use crate::logging::{Chain, TARGET};
use crate::store::{Claim, ClaimToken, DedupStore, EventKey, StoreConfigError, StoreError, StoreFuture};

/// Remembers events in Redis 5 or later or Valkey, for any number of instances.
///
/// An event is one key, and each step one script and one round trip. A cluster serves it as well, over a
/// `ClusterConnection` of [your own](Self::with_connections): all keys of an endpoint are on one of its servers. The server's
/// clock decides, so the instances need not agree about the time.
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use sendarix_webhooks::{Receiver, RedisStore, SigningSecret};
///
/// let store = RedisStore::open("redis://cache.internal")?;
/// let receiver = Receiver::builder(SigningSecret::new("a secret from the dashboard")?).store(store).build()?;
/// # Ok(()) }
/// ```
///
/// # Connections
///
/// The store opens one connection when it is needed, and sends everything over it. While the server cannot be
/// reached, deliveries are answered 503; once it can, they go through again, and nothing has to be restarted. A primary
/// that has become a replica (`READONLY`) is left at once. For TLS switch on a `tokio-…-comp` feature of redis 1 in your
/// own `Cargo.toml`, and use a `rediss://` URL.
///
/// # What Redis cannot promise
///
/// - **It forgets when it has to.** With a `maxmemory-policy` other than `noeviction` it drops events to make room, and
///   copies of them are handled again. The store asks whenever it has connected, and warns.
/// - **Replication is asynchronous.** After a failover the last events are forgotten: whatever the old primary had not
///   sent on. Copies of them are handled again, also while their first delivery is being handled.
/// - **A restart forgets** what was not on the disk: everything without persistence, the last second with `appendonly
///   yes`, nothing with `appendfsync always`. So does `FLUSHALL`.
///
/// In each case an event may be handled twice, and none is lost. Where that is too much, use a
/// `PostgresStore`.
///
/// # The keys
///
/// `sendarix:claim:{ENDPOINT}:EVENT_ID` is a text, `STATE TOKEN ATTEMPT UNTIL`, the last one the end of a live claim's lease
/// in Unix milliseconds. It expires by itself. An event takes about 200 bytes.
#[derive(Clone, Debug)]
pub struct RedisStore {
    server: Arc<Server>,
    prefix: Arc<str>,
}

/// A server, and what it has been asked once.
#[derive(Debug)]
pub(super) struct Server {
    connections: Connections,
    claim: Script,
    settle: Script,
    reopen: Script,
    replace: Script,
    resolve: Script,
    list: Script,
    keeps_events: Arc<ServerSetting>,
    keeps_letters: Arc<ServerSetting>,
}

/// How long the number of a failed attempt is remembered: a day, which is longer than the sender's schedule.
const FAILED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

impl RedisStore {
    /// A store at this URL (`redis://user:password@host:port/database`). Does not connect yet.
    ///
    /// # Errors
    ///
    /// The URL cannot be read.
    pub fn open(url: &str) -> Result<Self, StoreConfigError> {
        let client = Client::open(url).map_err(|error| {
            // The URL may have a password in it.
            let message = "the Redis URL cannot be read; it looks like redis://user:password@host:6379/0";
            StoreConfigError::new(message, Some(error.into()))
        })?;
        Ok(Self::new(Connections::own(client)))
    }

    /// A store over connections of your own: each step calls `provide` for one. It may return clones of a
    /// `MultiplexedConnection`, `ConnectionManager` or `ClusterConnection` of redis 1, or lend one from a pool.
    ///
    /// To reconnect is then their part.
    ///
    /// ```
    /// # use sendarix_webhooks::RedisStore;
    /// # fn example(connection: redis::aio::MultiplexedConnection) {
    /// let store = RedisStore::with_connections(move || {
    ///     let connection = connection.clone();
    ///     async { Ok::<_, redis::RedisError>(connection) }
    /// });
    /// # }
    /// ```
    pub fn with_connections<F, Fut, C, E>(provide: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<C, E>> + Send + 'static,
        C: ConnectionLike + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self::new(Connections::yours(provide))
    }

    fn new(connections: Connections) -> Self {
        let server = Server {
            connections,
            claim: Script::new(include_str!("claim.lua")),
            settle: Script::new(include_str!("settle.lua")),
            reopen: Script::new(include_str!("reopen.lua")),
            replace: Script::new(include_str!("replace.lua")),
            resolve: Script::new(include_str!("resolve.lua")),
            list: Script::new(include_str!("list.lua")),
            keeps_events: ServerSetting::new(
                "maxmemory_policy",
                "noeviction",
                "this Redis may evict events to make room, and copies of them would be handled again; set maxmemory-policy \
                    to noeviction",
            ),
            keeps_letters: ServerSetting::new(
                "aof_enabled",
                "1",
                "this Redis has no append-only file, so a restart may lose dead letters; set appendonly to yes and \
                    appendfsync to always",
            ),
        };
        Self { server: Arc::new(server), prefix: "sendarix".into() }
    }

    /// What the keys begin with. Default: `sendarix`. Choose it before the [dead letters](Self::dead_letters) are made.
    /// Braces, which a cluster would read as its own, become `%7B` and `%7D`.
    #[must_use]
    pub fn prefix(self, prefix: &str) -> Self {
        Self { prefix: prefix.replace('{', "%7B").replace('}', "%7D").into(), ..self }
    }

    /// The dead letters, which are in the same server.
    #[must_use]
    pub fn dead_letters(&self) -> RedisDeadLetters {
        RedisDeadLetters(self.clone())
    }

    async fn try_claim(&self, key: &EventKey, token: ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        let (lease, failed_for) = (milliseconds(lease), milliseconds(FAILED_FOR));
        let keys = [self.key(key)];
        let arguments = (token.to_hex(), lease, failed_for, milliseconds(MAX_LEASE));
        let claim = self.server.run(&self.server.claim, &keys, arguments);
        let (answer, number): (String, u64) = claim.await?;
        self.server.expect(&self.server.keeps_events);
        match &*answer {
            "granted" => Ok(Claim::Granted { attempt: u32::try_from(number).unwrap_or(u32::MAX) }),
            "live" => Ok(Claim::InFlight { remaining: Duration::from_millis(number) }),
            "given_up" => Ok(Claim::GivenUp),
            _ => Ok(Claim::Completed),
        }
    }

    /// Brings a live claim of this token into another state.
    async fn settle(&self, key: &EventKey, token: ClaimToken, state: &str, kept: Duration) -> Result<bool, StoreError> {
        let mut keys = vec![self.key(key)];
        if state == "completed" {
            keys.extend(letters_keys(&self.prefix, key.endpoint()));
        }
        self.server.run(&self.server.settle, &keys, (token.to_hex(), state, milliseconds(kept), key.event_id())).await
    }

    fn key(&self, key: &EventKey) -> String {
        claim_key(&self.prefix, key)
    }
}

/// The braces make a cluster keep all keys of an endpoint on one server, so that one script can touch an event and its
/// letter.
pub(super) fn claim_key(prefix: &str, key: &EventKey) -> String {
    format!("{prefix}:claim:{{{}}}:{}", escaped(key.endpoint()), key.event_id())
}

/// The hash and the sorted set of an endpoint's letters.
pub(super) fn letters_keys(prefix: &str, endpoint: &str) -> [String; 2] {
    ["letters", "letter-ids"].map(|kind| format!("{prefix}:{kind}:{{{}}}", escaped(endpoint)))
}

/// A receiver's name has none of these, but keys can be made of anything.
fn escaped(endpoint: &str) -> String {
    endpoint.replace('%', "%25").replace(':', "%3A").replace('{', "%7B").replace('}', "%7D")
}

impl DedupStore for RedisStore {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        StoreFuture::new(self.try_claim(key, token, lease))
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(self.settle(key, token, "completed", retention))
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        StoreFuture::new(self.settle(key, token, "failed", FAILED_FOR))
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(self.settle(key, token, "given_up", retention))
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            let keys = [self.key(key)];
            let reopened = self.server.run(&self.server.reopen, &keys, milliseconds(FAILED_FOR)).await;
            reopened.map(|_: u64| ())
        })
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            let mut find = redis::cmd("GET");
            find.arg(self.key(key));
            let event: Option<String> = self.server.connections.send(&find).await?;
            Ok(event.is_some_and(|event| event.starts_with("completed ")))
        })
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::new(self.dead_letters()))
    }
}

impl Server {
    /// Runs a script, which must be safe to run twice. A server that does not know it gets its text.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: impl ToRedisArgs,
    ) -> Result<T, StoreError> {
        let mut by_hash = redis::cmd("EVALSHA");
        by_hash.arg(&script.hash).arg(keys.len()).arg(keys).arg(&arguments);
        match self.connections.send(&by_hash).await {
            Err(error) if is_unknown_script(&error) => {
                let mut by_text = redis::cmd("EVAL");
                by_text.arg(script.text).arg(keys.len()).arg(keys).arg(&arguments);
                self.connections.send(&by_text).await
            }
            answer => answer,
        }
    }

    /// Looks in the background how the server is set up, once for each connection, and warns if it is not as expected.
    pub(super) fn expect(self: &Arc<Self>, expected: &Arc<ServerSetting>) {
        let opened = self.connections.opened();
        if expected.looked_at.swap(opened, Ordering::Relaxed) == opened {
            return;
        }
        let (server, expected) = (Arc::clone(self), Arc::clone(expected));
        drop(tokio::spawn(async move {
            match server.connections.send(&redis::cmd("INFO")).await {
                Ok(info) => {
                    if let Some(value) = expected.deviation(info) {
                        let setting = expected.field;
                        tracing::warn!(target: TARGET, setting, value, "{}", expected.advice);
                    }
                }
                Err(error) if is_refusal(&error) => {
                    let (error, setting) = (Chain(&error), expected.field);
                    let message = "this Redis does not tell how it is set up; see to the setting yourself";
                    tracing::warn!(target: TARGET, %error, setting, expected = expected.value, "{message}");
                }
                // The next one looks.
                Err(_) => expected.looked_at.store(0, Ordering::Relaxed),
            }
        }));
    }
}

/// A setting of the server that the store warns of when it has another value.
#[derive(Debug)]
pub(super) struct ServerSetting {
    /// Its name in `INFO`.
    field: &'static str,
    value: &'static str,
    advice: &'static str,
    /// The number of the connection over which the setting was last asked for.
    looked_at: AtomicU64,
}

impl ServerSetting {
    pub(super) fn new(field: &'static str, value: &'static str, advice: &'static str) -> Arc<Self> {
        Arc::new(Self { field, value, advice, looked_at: AtomicU64::new(0) })
    }

    /// The value that the server has instead.
    fn deviation(&self, info: Value) -> Option<String> {
        // Over a connection to a cluster, each server answers.
        let infos = match info {
            Value::Map(servers) => servers.into_iter().map(|(_, info)| info).collect(),
            info => vec![info],
        };
        let infos: Vec<String> = infos.into_iter().filter_map(|info| String::from_redis_value(info).ok()).collect();
        let mut fields = infos.iter().flat_map(|info| info.lines()).filter_map(|line| line.split_once(':'));
        fields.find(|(field, value)| *field == self.field && *value != self.value).map(|(_, value)| value.to_owned())
    }
}

/// A script, and the hash by which a server that has seen it knows it.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }
}

fn is_unknown_script(error: &StoreError) -> bool {
    kind(error) == Some(ErrorKind::Server(ServerErrorKind::NoScript))
}

/// Whether the server has understood the command, and does not do it.
fn is_refusal(error: &StoreError) -> bool {
    matches!(kind(error), Some(ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError)))
}

fn kind(error: &StoreError) -> Option<ErrorKind> {
    Some(error.source()?.downcast_ref::<RedisError>()?.kind())
}

/// At least 1, and a century at most.
fn milliseconds(duration: Duration) -> u64 {
    const CENTURY: u128 = 100 * 365 * 24 * 60 * 60 * 1000;
    u64::try_from(duration.as_micros().div_ceil(1000).clamp(1, CENTURY)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_of_a_cluster_is_enough_to_be_warned_of() {
        let setting = ServerSetting::new("maxmemory_policy", "noeviction", "advice");
        let info = |policy: &str| {
            Value::BulkString(format!("# Memory\r\nused_memory:1\r\nmaxmemory_policy:{policy}\r\n").into_bytes())
        };
        let cluster = |policies: [&str; 2]| {
            Value::Map(policies.map(|policy| (Value::SimpleString("a server".to_owned()), info(policy))).to_vec())
        };
        assert_eq!(setting.deviation(info("noeviction")), None);
        assert_eq!(setting.deviation(info("allkeys-lru")).as_deref(), Some("allkeys-lru"));
        assert_eq!(setting.deviation(cluster(["noeviction", "noeviction"])), None);
        assert_eq!(setting.deviation(cluster(["noeviction", "volatile-ttl"])).as_deref(), Some("volatile-ttl"));
    }
}
