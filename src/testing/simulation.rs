//! A sender that behaves as Sendarix does.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::random::Random;
use super::signed_headers;
use crate::contract::{ATTEMPTS, SENDER_TIMEOUT};
use crate::event::{SendarixEvent, digest_id};
use crate::verify::SigningSecret;

/// Delivers events as Sendarix does, and keeps a ledger of what became of each.
///
/// Each event is sent until it is answered with a 2xx, six times at most and on Sendarix's schedule, signed anew each time.
/// An answer that takes longer than 10 s counts as no answer. On top of that come the faults that you choose: answers that are lost on
/// their way back, load balancers that send a request twice, events that overtake each other, bursts. Chance follows from
/// the [`seed`](Self::seed).
///
/// How a request travels is the part of `send`: through a client to a real server, or through a layer in this process.
///
/// ```
/// # #[cfg(all(feature = "axum", feature = "memory"))]
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, body::Body, routing::post};
/// use sendarix_webhooks::testing::{Sample, Simulation, SimulatedRequest};
/// use sendarix_webhooks::{EventType, Receiver, SendarixEvent, SendarixLayer, SigningSecret};
/// use tower::ServiceExt;
///
/// let secret = SigningSecret::new("test")?;
/// let layer = SendarixLayer::new(Receiver::builder(secret.clone()).dangerously_without_dead_letters().build()?);
/// let app: Router = Router::new().route("/hook", post(|_: SendarixEvent| async {}).layer(layer));
///
/// let send = move |request: SimulatedRequest| {
///     let app = app.clone();
///     async move {
///         let mut post = axum::http::Request::post("/hook");
///         for (name, value) in request.headers {
///             post = post.header(name, value);
///         }
///         let response = app.oneshot(post.body(Body::from(request.body)).unwrap()).await?;
///         Ok::<u16, std::convert::Infallible>(response.status().as_u16())
///     }
/// };
/// let events = (0..100).map(|_| Sample::new(EventType::Delivered).body());
/// let ledger = Simulation::new(secret).compress(10_000.0).lose_answers(0.5).run(events, send).await;
/// assert_eq!(ledger.events().iter().filter(|event| event.acknowledged_by().is_none()).count(), ledger.given_up());
/// println!("{ledger}");
/// # Ok(()) }
/// # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Simulation {
    secret: SigningSecret,
    seed: u64,
    compression: f64,
    timeout: Duration,
    jitter: f64,
    lost_answers: f64,
    duplicates: f64,
    reorder_within: Duration,
    per_second: f64,
    burst: usize,
    connections: usize,
}

/// One request of a simulated sender.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimulatedRequest {
    /// The headers: signature, timestamp and content type.
    pub headers: Vec<(&'static str, String)>,
    /// The exact bytes that were signed.
    pub body: Bytes,
    /// Which attempt at this event it is, counted from 1.
    pub attempt: usize,
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptResult {
    /// It was answered with this status.
    Answered(u16),
    /// It was answered with this status, and the answer did not reach the sender: it was lost, or a load balancer has
    /// waited for that to its second copy.
    AnswerLost(u16),
    /// There was no answer within the timeout.
    TimedOut,
    /// The request could not be made, or its answer not be read.
    Failed(String),
}

impl AttemptResult {
    fn is_acknowledged(&self) -> bool {
        matches!(self, Self::Answered(200..300))
    }
}

/// One request and what became of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// Which attempt, counted from 1. A duplicate has the same number.
    pub number: usize,
    /// When it was made, since the simulation began.
    pub at: Duration,
    /// How long its answer took.
    pub took: Duration,
    /// What became of it.
    pub result: AttemptResult,
}

/// One event, and all attempts at it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LedgerEntry {
    /// The event's id, or the digest that takes its place.
    pub event_id: String,
    /// Every request, in the order in which they were sent.
    pub attempts: Vec<Attempt>,
}

impl LedgerEntry {
    /// The attempt whose 2xx has reached the sender, counted from 1; `None` if it has given the event up.
    #[must_use]
    pub fn acknowledged_by(&self) -> Option<usize> {
        self.attempts.iter().find(|attempt| attempt.result.is_acknowledged()).map(|attempt| attempt.number)
    }
}

/// What became of every event.
#[derive(Clone, Debug)]
pub struct Ledger {
    events: Vec<LedgerEntry>,
    took: Duration,
}

impl Simulation {
    /// A sender without any fault, as fast as 16 connections allow.
    pub fn new(secret: SigningSecret) -> Self {
        Self {
            secret,
            seed: 0,
            compression: 1.0,
            timeout: SENDER_TIMEOUT,
            jitter: 0.0,
            lost_answers: 0.0,
            duplicates: 0.0,
            reorder_within: Duration::ZERO,
            per_second: f64::INFINITY,
            burst: 1,
            connections: 16,
        }
    }

    /// Decides all that is left to chance.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Lets the schedule of the attempts, and [`reorder`](Self::reorder), pass this many times faster. The timeout stays.
    pub fn compress(self, times: f64) -> Self {
        Self { compression: times.max(f64::MIN_POSITIVE), ..self }
    }

    /// How long to wait for an answer. Default: 10 s, as Sendarix.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Makes each pause longer or shorter by up to this share of itself.
    pub fn jitter(self, share: f64) -> Self {
        Self { jitter: share.clamp(0.0, 1.0), ..self }
    }

    /// Loses this share of the answers on their way back, so that what they acknowledged comes again.
    pub fn lose_answers(self, share: f64) -> Self {
        Self { lost_answers: share, ..self }
    }

    /// Sends this share of the requests twice at the same time, as a load balancer does that tries again by itself. The
    /// sender sees the answer to the second.
    pub fn duplicate(self, share: f64) -> Self {
        Self { duplicates: share, ..self }
    }

    /// Delays each event's first attempt by anything up to this, so that events overtake each other.
    pub fn reorder(self, within: Duration) -> Self {
        Self { reorder_within: within, ..self }
    }

    /// Begins this many events a second, in bursts of this many at once.
    pub fn pace(self, events_per_second: f64, burst: usize) -> Self {
        Self { per_second: events_per_second.max(f64::MIN_POSITIVE), burst: burst.max(1), ..self }
    }

    /// How many requests may be under way at the same time. Default: 16.
    pub fn connections(self, connections: usize) -> Self {
        Self { connections: connections.clamp(1, Semaphore::MAX_PERMITS), ..self }
    }

    /// Delivers the events with these bodies, until each is acknowledged or given up.
    pub async fn run<S, F, E>(self, bodies: impl IntoIterator<Item = impl Into<Bytes>>, send: S) -> Ledger
    where
        S: Fn(SimulatedRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<u16, E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let start = Instant::now();
        let (per_second, burst) = (self.per_second, self.burst);
        let permits = Arc::new(Semaphore::new(self.connections));
        let sender = Arc::new(Sender { settings: self, start, permits, send });
        let mut deliveries = JoinSet::new();
        for (number, body) in bodies.into_iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "no sender sends that many events")]
            let due = Duration::try_from_secs_f64((number / burst * burst) as f64 / per_second);
            sleep_until(start + due.unwrap_or_default()).await;
            let (sender, body) = (Arc::clone(&sender), body.into());
            deliveries.spawn(async move { (number, sender.deliver(number, body).await) });
        }
        let mut events = deliveries.join_all().await;
        events.sort_unstable_by_key(|(number, _)| *number);
        Ledger { events: events.into_iter().map(|(_, entry)| entry).collect(), took: start.elapsed() }
    }
}

struct Sender<S> {
    settings: Simulation,
    start: Instant,
    permits: Arc<Semaphore>,
    send: S,
}

impl<S, F, E> Sender<S>
where
    S: Fn(SimulatedRequest) -> F + Send + Sync + 'static,
    F: Future<Output = Result<u16, E>> + Send + 'static,
    E: fmt::Display + Send + 'static,
{
    async fn deliver(self: &Arc<Self>, number: usize, body: Bytes) -> LedgerEntry {
        let settings = &self.settings;
        // Each event has its own chance, however they take turns.
        let mut random = Random(settings.seed ^ (number as u64).wrapping_mul(0xd134_2543_de82_ef95));
        sleep(self.compressed(settings.reorder_within, random.share())).await;
        let event_id =
            SendarixEvent::decode(body.clone()).map_or_else(|_| digest_id(&body), |event| event.event_id.clone());
        let mut entry = LedgerEntry { event_id, attempts: Vec::new() };
        for (attempt, pause) in (1..).zip(ATTEMPTS) {
            sleep(self.compressed(pause, 1.0 + settings.jitter * (2.0 * random.share() - 1.0))).await;
            let mut copies = JoinSet::new();
            for copy in 0..=usize::from(random.share() < settings.duplicates) {
                let (sender, body) = (Arc::clone(self), body.clone());
                let is_lost = random.share() < settings.lost_answers;
                copies.spawn(async move { (copy, sender.attempt(attempt, body, is_lost).await) });
            }
            let mut copies = copies.join_all().await;
            copies.sort_unstable_by_key(|(copy, _)| *copy);
            let seen = copies.pop();
            for (_, mut unseen) in copies {
                if let AttemptResult::Answered(status) = unseen.result {
                    unseen.result = AttemptResult::AnswerLost(status);
                }
                entry.attempts.push(unseen);
            }
            entry.attempts.extend(seen.map(|(_, attempt)| attempt));
            if entry.attempts.last().is_some_and(|last| last.result.is_acknowledged()) {
                break;
            }
        }
        entry
    }

    fn compressed(&self, time: Duration, by: f64) -> Duration {
        Duration::try_from_secs_f64(time.as_secs_f64() * by / self.settings.compression).unwrap_or(time)
    }

    async fn attempt(&self, number: usize, body: Bytes, is_lost: bool) -> Attempt {
        let _permit = self.permits.acquire().await;
        let begun = Instant::now();
        let signed = signed_headers(&self.settings.secret, &body, SystemTime::now());
        let headers = signed.into_iter().chain([("content-type", "application/json".to_owned())]).collect();
        let request = SimulatedRequest { headers, body, attempt: number };
        let result = match timeout(self.settings.timeout, (self.send)(request)).await {
            Ok(Ok(status)) if is_lost => AttemptResult::AnswerLost(status),
            Ok(Ok(status)) => AttemptResult::Answered(status),
            Ok(Err(error)) => AttemptResult::Failed(error.to_string()),
            Err(_) => AttemptResult::TimedOut,
        };
        Attempt { number, at: begun - self.start, took: begun.elapsed(), result }
    }
}

impl Ledger {
    /// Every event, in the order in which they were begun.
    #[must_use]
    pub fn events(&self) -> &[LedgerEntry] {
        &self.events
    }

    /// How many events the sender believes to have been taken.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.events.len() - self.given_up()
    }

    /// How many events the sender has given up: lost to it, unless an acknowledgement was lost on its way.
    #[must_use]
    pub fn given_up(&self) -> usize {
        self.events.iter().filter(|event| event.acknowledged_by().is_none()).count()
    }

    /// The time within which this share of all answers came; `None` if there was none.
    #[must_use]
    pub fn answer_time(&self, share: f64) -> Option<Duration> {
        let answered =
            |attempt: &&Attempt| matches!(attempt.result, AttemptResult::Answered(_) | AttemptResult::AnswerLost(_));
        let mut times: Vec<Duration> = self.attempts().filter(answered).map(|attempt| attempt.took).collect();
        times.sort_unstable();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank"
        )]
        let rank = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1));
        times.get(rank - 1).copied()
    }

    fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.events.iter().flat_map(|event| &event.attempts)
    }
}

/// What an operator wants to know of it, in a few lines.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (events, requests) = (self.events.len(), self.attempts().count());
        writeln!(
            f,
            "{events} events in {:.2} s: {} acknowledged, {} given up",
            self.took.as_secs_f64(),
            self.acknowledged(),
            self.given_up()
        )?;
        let mut results = std::collections::BTreeMap::new();
        for attempt in self.attempts() {
            let label = match &attempt.result {
                AttemptResult::Answered(status) => format!("{status}"),
                AttemptResult::AnswerLost(status) => format!("{status}, lost on its way"),
                AttemptResult::TimedOut => "no answer within the timeout".to_owned(),
                AttemptResult::Failed(error) => format!("no answer: {}", error.escape_debug()),
            };
            *results.entry(label).or_insert(0_usize) += 1;
        }
        for (label, count) in results {
            writeln!(f, "{count:>9} × {label}")?;
        }
        write!(f, "{requests} requests; latency in ms:")?;
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
            let time = self.answer_time(share).unwrap_or_default().as_secs_f64() * 1000.0;
            write!(f, " {name} {time:.1}")?;
        }
        Ok(())
    }
}
