//! Secrets that are read again while the application runs, such as from a secrets manager.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::SigningSecrets;
use crate::logging::{Chain, TARGET};

/// How often secrets were read again, by `result`: `changed`, `unchanged` or `failed`.
#[cfg(feature = "metrics")]
pub const SECRET_REFRESHES: &str = "sendarix_secret_refreshes_total";

/// A source that gives no answer is asked again with the next interval.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// A forged request must not make the application ask its secrets manager more often than this.
const AFTER_FAILED_SIGNATURE: Duration = Duration::from_secs(60);

impl SigningSecrets {
    /// Reads the secrets again after each interval, for as long as the returned guard is kept. Every clone of these secrets,
    /// the receiver's too, accepts what was read from the next request on.
    ///
    /// The secrets in use stay when reading fails, panics or takes longer than 30 s; the log then says why. They are
    /// exchanged only where what was read differs. An interval of less than a second counts as one.
    ///
    /// ```no_run
    /// use sendarix_webhooks::SigningSecrets;
    /// use std::time::Duration;
    ///
    /// async fn read() -> Result<SigningSecrets, Box<dyn std::error::Error + Send + Sync>> {
    ///     // A file may hang, such as on a network's disk: not on the threads of the server.
    ///     Ok(tokio::task::spawn_blocking(|| SigningSecrets::from_file("/run/secrets/sendarix")).await??)
    /// }
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let secrets = read().await?;
    /// let refresh = secrets.refresh(Duration::from_secs(60), read);
    /// // … on SIGHUP:
    /// refresh.now();
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn refresh<F, Fut, E>(&self, interval: Duration, read: F) -> SecretsRefresh
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Self, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
    {
        let wake = Arc::new(Notify::new());
        let (secrets, woken, read) = (self.clone(), Arc::clone(&wake), Arc::new(read));
        // An increase is seen only where there was a value before.
        count(None);
        let task = tokio::spawn(async move {
            loop {
                // An error says that the interval is over.
                let _ = timeout(interval.max(Duration::from_secs(1)), woken.notified()).await;
                let read = Arc::clone(&read);
                let result = match read_within_limit(async move { read().await }).await {
                    Ok(read) if secrets.is_same(&read) => "unchanged",
                    Ok(read) => {
                        tracing::info!(target: TARGET, secrets = ?read, "the signing secrets have changed");
                        secrets.replace(read);
                        "changed"
                    }
                    Err(error) => {
                        let error = Chain(error.as_ref());
                        let message = "the signing secrets cannot be read again; those in use stay";
                        tracing::error!(target: TARGET, %error, "{message}");
                        "failed"
                    }
                };
                count(Some(result));
            }
        });
        SecretsRefresh { secrets: self.clone(), wake, task }
    }
}

async fn read_within_limit<Fut, E>(read: Fut) -> Result<SigningSecrets, Box<dyn Error + Send + Sync>>
where
    Fut: Future<Output = Result<SigningSecrets, E>> + Send + 'static,
    E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
{
    // In a task, so that a panic ends this attempt and not all of them. It is aborted where the set is dropped.
    let mut reading = JoinSet::new();
    reading.spawn(read);
    match timeout(READ_LIMIT, reading.join_next()).await {
        Ok(Some(Ok(read))) => read.map_err(Into::into),
        Ok(Some(Err(panicked))) => Err(panicked.into()),
        Ok(None) | Err(_) => Err(format!("no answer within {READ_LIMIT:?}").into()),
    }
}

#[cfg(feature = "metrics")]
fn count(result: Option<&'static str>) {
    for one in ["changed", "unchanged", "failed"] {
        metrics::counter!(SECRET_REFRESHES, "result" => one).increment(u64::from(result == Some(one)));
    }
}

#[cfg(not(feature = "metrics"))]
fn count(_: Option<&'static str>) {}

/// Keeps the secrets fresh until it is dropped: see [`SigningSecrets::refresh`].
#[must_use = "the secrets are read again only for as long as this is kept"]
pub struct SecretsRefresh {
    secrets: SigningSecrets,
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

impl SecretsRefresh {
    /// Reads the secrets now, such as on SIGHUP. Does not wait for it.
    pub fn now(&self) {
        self.wake.notify_one();
    }

    /// Reads the secrets also when the signature of a request matches none of them, and at most once a minute for that. So a
    /// secret that was exchanged without notice is there when Sendarix retries.
    pub fn when_a_signature_fails(self) -> Self {
        self.secrets.on_failed_signature().arm(&self.wake);
        self
    }
}

impl Drop for SecretsRefresh {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for SecretsRefresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretsRefresh").field(&self.secrets).finish()
    }
}

/// Wakes the refresh after a failed signature. It costs one load where nothing is armed.
#[derive(Default)]
pub(super) struct OnFailedSignature(OnceLock<Mutex<Alarm>>);

#[derive(Default)]
struct Alarm {
    wake: Option<Arc<Notify>>,
    last: Option<Instant>,
}

impl OnFailedSignature {
    fn arm(&self, wake: &Arc<Notify>) {
        let alarm = self.0.get_or_init(Mutex::default);
        alarm.lock().unwrap_or_else(PoisonError::into_inner).wake = Some(Arc::clone(wake));
    }

    pub(super) fn tell(&self) {
        let Some(alarm) = self.0.get() else { return };
        let mut alarm = alarm.lock().unwrap_or_else(PoisonError::into_inner);
        if alarm.last.is_none_or(|last| last.elapsed() >= AFTER_FAILED_SIGNATURE) {
            alarm.last = Some(Instant::now());
            alarm.wake.iter().for_each(|wake| wake.notify_one());
        }
    }
}
