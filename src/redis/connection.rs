//! A connection to Redis that is exchanged as soon as it is in doubt.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value};
use scopeguard::ScopeGuard;

use crate::storage::StoreError;

/// Where connections come from.
pub(super) enum Connections {
    Own(Box<Own>),
    Yours(Provider),
}

/// One connection for everybody, over which the commands of all are sent without waiting for each other.
///
/// The driver's `ConnectionManager` does not exchange a connection that stops answering, nor one to a primary that has
/// become a replica, and waits ever longer between two attempts to connect. Here a connection is given up at the first
/// sign of any of that, and the next caller opens another.
pub(super) struct Own {
    client: Client,
    current: Mutex<Current>,
    /// Held while one caller opens a connection for all.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    connection: Option<MultiplexedConnection>,
    /// Tells one connection from those before it.
    number: u64,
}

/// Sends a command over a connection of the application's own.
type Provider = Box<dyn Fn(Cmd) -> Sending + Send + Sync>;
type Sending = Pin<Box<dyn Future<Output = Result<Value, StoreError>> + Send>>;

/// How long opening a connection may take, so that a server that hangs is tried again soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

impl Connections {
    pub(super) fn own(client: Client) -> Self {
        Self::Own(Box::new(Own { client, current: Mutex::default(), opening: tokio::sync::Mutex::default() }))
    }

    pub(super) fn yours<F, Fut, C, E>(provide: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<C, E>> + Send + 'static,
        C: ConnectionLike + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self::Yours(Box::new(move |command| {
            let provided = provide();
            Box::pin(async move {
                let mut connection = provided.await.map_err(StoreError::new)?;
                command.query_async(&mut connection).await.map_err(StoreError::new)
            })
        }))
    }

    /// How many connections have been opened; 1 where the application provides them.
    pub(super) fn opened(&self) -> u64 {
        match self {
            Self::Own(own) => own.current().number,
            Self::Yours(_) => 1,
        }
    }

    /// Sends a command, which must be safe to send twice: if a connection turns out to be dead, it is sent again over a
    /// new one.
    pub(super) async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let value = match self {
            Self::Own(own) => own.send(command).await.map_err(StoreError::new)?,
            Self::Yours(send) => send(command.clone()).await?,
        };
        T::from_redis_value(value).map_err(StoreError::new)
    }
}

impl Own {
    async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        loop {
            let (mut connection, number, fresh) = self.connection().await?;
            // The connection is given up where its answer is an error, or the caller is cancelled.
            let discard = scopeguard::guard((), |()| {
                let mut current = self.current();
                if current.number == number {
                    current.connection = None;
                }
            });
            match command.query_async(&mut connection).await {
                Err(error) if is_doubtful(&error) => {
                    drop(discard);
                    if fresh {
                        return Err(error);
                    }
                }
                answer => {
                    ScopeGuard::into_inner(discard);
                    return answer;
                }
            }
        }
    }

    /// The connection, its number, and whether it was opened just now.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64, bool), RedisError> {
        if let Some((connection, number)) = self.current().get() {
            return Ok((connection, number, false));
        }
        let _opening = self.opening.lock().await;
        if let Some((connection, number)) = self.current().get() {
            return Ok((connection, number, true));
        }
        // How long to wait for an answer is the receiver's to say.
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(None);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut current = self.current();
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok((connection, current.number, true))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn get(&self) -> Option<(MultiplexedConnection, u64)> {
        Some((self.connection.clone()?, self.number))
    }
}

/// Whether an error speaks against the connection, and not only against the command.
fn is_doubtful(error: &RedisError) -> bool {
    let of_a_replica = [ServerErrorKind::ReadOnly, ServerErrorKind::MasterDown].map(ErrorKind::Server);
    // Before version 7, Redis only quotes the error of a command inside a script.
    let quoted = || error.detail().is_some_and(|detail| detail.contains("-READONLY") || detail.contains("-MASTERDOWN"));
    error.is_io_error() || error.is_unrecoverable_error() || of_a_replica.contains(&error.kind()) || quoted()
}

/// Leaves out how to reach the server, which may include a password.
impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own(_) => "Own",
            Self::Yours(_) => "Yours",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_known_by_its_error_also_where_that_is_only_quoted() {
        let of_a_replica = [
            "-READONLY You can't write against a read only replica.\r\n",
            // As Redis 5 and 6 say it.
            "-ERR Error running script (call to f_0): @user_script:9: @user_script: 9: -READONLY You can't write.\r\n",
            "-ERR Error running script (call to f_0): @user_script:2: -MASTERDOWN Link with MASTER is down.\r\n",
        ];
        for (reply, expected) in
            of_a_replica.map(|reply| (reply, true)).into_iter().chain([("-ERR wrong number of arguments\r\n", false)])
        {
            let error = redis::parse_redis_value(reply.as_bytes()).unwrap().extract_error().unwrap_err();
            assert_eq!(is_doubtful(&error), expected, "{error:?}");
        }
    }
}
