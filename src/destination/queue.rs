//! Work that takes longer, put into a durable queue before the event is acknowledged.
//!
//! Sendarix asks for an answer within a second and waits 10 s. Whatever may take longer, or may fail for an hour, belongs into
//! a queue, with separate workers. [`Enqueue`] puts events into one of
//! [apalis](https://docs.rs/apalis) 1, with PostgreSQL, Redis or SQLite behind it; a worker of apalis takes them out, and
//! [`Inbox::process`](crate::Inbox::process) gives it claims and dead letters. `examples/job-queue` shows both.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use apalis_core::backend::finalize::Durable;
use apalis_core::backend::{TaskSink, TaskSinkError};
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::metadata::MetadataStore;
use sqlx::error::DatabaseError;
use tokio::time::timeout;

use super::trace_context::TraceContext;
use super::{Destination, DestinationFuture};
use crate::event::{SendarixEvent, printable_id};
use crate::inbox::{Delivery, HandlerError};
use crate::logging::causes;

/// A handler that puts every event into a queue, once.
///
/// The event is acknowledged when it is durably there. If it is there already, since an earlier delivery was cut off just
/// then, that is a success: the queue tells jobs apart by the event's id, as their idempotency key.
///
/// ```
/// # #[cfg(feature = "axum")]
/// # fn example<Q>(queue: Q, receiver: sendarix_webhooks::Receiver)
/// # where
/// #     Q: apalis_core::backend::TaskSink<
/// #         sendarix_webhooks::SendarixEvent,
/// #         apalis_core::backend::finalize::Durable,
/// #         Error: std::error::Error + 'static,
/// #     >,
/// #     Q: Clone + Send + Sync + 'static,
/// # {
/// use axum::{Router, routing::post};
/// use sendarix_webhooks::{SendarixLayer, destination::Enqueue};
///
/// // let queue = apalis_postgres::PostgresStorage::<SendarixEvent>::new(&pool);
/// let enqueue = Enqueue::new(queue);
/// let layer = SendarixLayer::new(receiver);
/// let app: Router = Router::new().route("/webhooks/sendarix", post(enqueue.handler()).layer(layer));
/// # }
/// ```
///
/// # How long the queue knows an event
///
/// It should know it for as long as Sendarix may send it again ([`RETRY_SCHEDULE`](crate::RETRY_SCHEDULE)). What it has
/// forgotten becomes a second job if the process was killed between queue and acknowledgement.
///
/// - PostgreSQL and SQLite know it while the job's row is there: do not delete finished jobs earlier.
/// - **Redis knows it only with `idempotency_ttl` in apalis's `Config`: set it.** `apalis-redis` 1.0.0 takes its default,
///   which says that keys never expire, for keys that expire at once.
///
/// # What "durably" means
///
/// - Redis keeps jobs as its persistence is set up: use `appendonly yes` and `appendfsync always`.
/// - `SqliteStorage::setup` of `apalis-sqlite` 1.0.0 sets `PRAGMA synchronous = OFF` on the connection that it uses, which then
///   forgets jobs in a power failure. Give it a separate pool and close that.
/// - Name the queue with `with_config`: by default it has the name of a Rust type, which may change.
///
/// # When a job fails
///
/// By default apalis tries a job 25 times, at once with PostgreSQL and SQLite, and then leaves it alone. What
/// [`Inbox::process`](crate::Inbox::process) delivers is a dead letter from its first failure on, and can be redriven.
/// [`configure`](Self::configure) sets the number of attempts, apalis's retry layer a pause between them.
///
/// # What a job is
///
/// The event as it [serializes](SendarixEvent#in-a-queue): the exact text that was signed, which every later version of
/// this crate reads.
#[derive(Clone)]
pub struct Enqueue<Q> {
    queue: Q,
    limit: Duration,
    configure: Configure,
    trace_context: TraceContext,
}

type Configure = Arc<dyn Fn(TaskBuilder<SendarixEvent>) -> TaskBuilder<SendarixEvent> + Send + Sync>;

/// Why an event is not in the queue, as far as is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The queue failed.
    #[error("the event could not be put into the queue")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// The queue did not answer in time. The event may be there.
    #[error("the queue did not take the event within {0:?}")]
    TimedOut(Duration),
}

/// Half of what Sendarix waits, so that an answer is still possible.
const LIMIT: Duration = Duration::from_secs(5);

impl<Q> Enqueue<Q>
where
    Q: TaskSink<SendarixEvent, Durable, Error: Error + 'static> + Clone + Send + Sync + 'static,
{
    /// Puts events into this queue: a `PostgresStorage`, `RedisStorage` or `SqliteStorage` of `SendarixEvent`s. Its tables must be
    /// there (`setup`).
    pub fn new(queue: Q) -> Self {
        Self { queue, limit: LIMIT, configure: Arc::new(|task| task), trace_context: TraceContext::default() }
    }

    /// Gives every job a priority, a number of attempts, or a later time.
    #[must_use]
    pub fn configure(
        self,
        configure: impl Fn(TaskBuilder<SendarixEvent>) -> TaskBuilder<SendarixEvent> + Send + Sync + 'static,
    ) -> Self {
        Self { configure: Arc::new(configure), ..self }
    }

    /// Sends the trace along with each job, in the job's metadata, as this function returns it: `traceparent` and `tracestate`. It
    /// is called in the span of the delivery. A [`configure`](Self::configure) that sets all metadata replaces it.
    /// [The guide](crate::guide::observability#traces) has such a function, and the worker.
    #[must_use]
    pub fn trace_context(self, current: impl Fn() -> HashMap<String, String> + Send + Sync + 'static) -> Self {
        Self { trace_context: TraceContext::new(current), ..self }
    }

    /// How long the queue may take. Default: 5 s, half of what Sendarix waits.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Puts an event into the queue. Returns once it is durably there, by this call or an earlier one.
    ///
    /// # Errors
    ///
    /// The queue failed, or did not answer in time.
    pub async fn push(&self, event: SendarixEvent) -> Result<(), EnqueueError> {
        let key = printable_id(&event.event_id).into_owned();
        let trace = MetadataStore::from_map(self.trace_context.fields());
        let task = (self.configure)(TaskBuilder::new(event).with_metadata(trace));
        let task = task.idempotency_key(key).build();
        let mut queue = self.queue.clone();
        match timeout(self.limit, queue.push_task(task)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(TaskSinkError::PushError(error))) if is_known(&error) => Ok(()),
            Ok(Err(error)) => Err(EnqueueError::Failed(in_full(&error).into())),
            Err(_) => Err(EnqueueError::TimedOut(self.limit)),
        }
    }

    /// The handler: for axum, for actix-web and for [`Verified::deliver`](crate::receiver::Verified::deliver). As a tower service
    /// it is a [`Terminal`](super::Terminal).
    pub fn handler(&self) -> impl Fn(Delivery) -> DestinationFuture + Clone + Send + Sync + 'static {
        let enqueue = self.clone();
        move |delivery| enqueue.take(delivery)
    }
}

/// Whether the queue has the event already, by the database's own answer: that the job would violate the unique index of
/// idempotency keys. Any other error, also one that speaks of that index, says nothing of the kind. The queues of SQLite and
/// Redis answer a known key with a success.
fn is_known(error: &(dyn Error + 'static)) -> bool {
    let answer = causes(error).find_map(|error| error.downcast_ref::<Box<dyn DatabaseError>>());
    answer.is_some_and(|error| {
        error.code().as_deref() == Some(UNIQUE_VIOLATION) && error.constraint() == Some("idx_jobs_idempotency_key")
    })
}

/// `unique_violation` in `PostgreSQL`, Appendix A.
const UNIQUE_VIOLATION: &str = "23505";

/// The text of the error and its causes: the type itself need not be one that can be kept.
fn in_full<E: fmt::Display>(error: &TaskSinkError<E>) -> String {
    match error {
        TaskSinkError::PushError(error) => error.to_string(),
        TaskSinkError::CodecError(error) => error.to_string(),
        TaskSinkError::SendError(error) => error.to_string(),
        _ => "the queue gives no reason".to_owned(),
    }
}

impl<Q> Destination for Enqueue<Q>
where
    Q: TaskSink<SendarixEvent, Durable, Error: Error + 'static> + Clone + Send + Sync + 'static,
{
    fn take(&self, delivery: Delivery) -> DestinationFuture {
        let enqueue = self.clone();
        Box::pin(async move { enqueue.push(delivery.event().clone()).await.map_err(HandlerError::retry) })
    }
}

impl<Q> fmt::Debug for Enqueue<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enqueue").field("limit", &self.limit).finish_non_exhaustive()
    }
}
