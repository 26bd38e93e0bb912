//! How is the sender doing? Bounce and complaint rates over sliding windows.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use crate::closed_set::closed_set;
use crate::event::{EventKind, SendarixEvent, Timestamp};
use crate::verify::{Clock, SystemClock};

/// The share of bounces above which Sendarix advises to act: 5 %.
pub const BOUNCE_THRESHOLD: f64 = 0.05;

/// The share of complaints that Google's guidelines for senders ask to stay below: 0.1 %. From 0.3 % on they filter.
pub const COMPLAINT_THRESHOLD: f64 = 0.001;

/// Counts deliveries, bounces and complaints over one or more sliding windows, and tells when a rate passes its threshold.
///
/// Give it each event once: last in the handler, which duplicates do not reach, and which does not fail afterwards and run
/// again. It takes three kilobytes for each window, however many
/// events there are. Clones share everything. It knows the events of this process since its start; for several instances
/// and for longer, the [metrics](crate::telemetry::metrics) and their alert rules are the place.
///
/// ```
/// use std::time::Duration;
/// use sendarix_webhooks::{EventType, SendarixEvent, reputation::Reputation, testing::Sample};
///
/// let hour = Duration::from_secs(3600);
/// let reputation = Reputation::builder()
///     .window(hour)
///     .on_exceeded(|exceeded| eprintln!("{exceeded}"))
///     .build();
/// for event_type in [EventType::Delivered, EventType::Delivered, EventType::Delivered, EventType::Bounce] {
///     reputation.record(&SendarixEvent::decode(Sample::new(event_type).body())?);
/// }
/// assert_eq!(reputation.rates(hour).unwrap().bounce_rate(), Some(0.25));
/// # Ok::<(), sendarix_webhooks::DecodeError>(())
/// ```
#[derive(Clone)]
pub struct Reputation(Arc<Inner>);

struct Inner {
    windows: Mutex<Vec<Window>>,
    thresholds: [(Measure, f64); 2],
    minimum: u64,
    on_exceeded: Option<Callback>,
    clock: Box<dyn Clock>,
}

type Callback = Box<dyn Fn(&Exceeded) + Send + Sync>;

/// Sets up a [`Reputation`].
#[must_use]
pub struct ReputationBuilder {
    windows: Vec<Duration>,
    bounces: f64,
    complaints: f64,
    minimum: u64,
    on_exceeded: Option<Callback>,
    clock: Box<dyn Clock>,
}

closed_set! {
    /// What is measured.
    pub enum Measure {
        /// Permanent bounces, of all messages that were delivered or bounced.
        Bounces = "bounces",
        /// Complaints, of all messages that were delivered.
        Complaints = "complaints",
    }
}

/// A rate has passed its threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Exceeded {
    /// Which rate.
    pub measure: Measure,
    /// The rate, 1 being all.
    pub rate: f64,
    /// What it should be below.
    pub threshold: f64,
    /// Over how long.
    pub window: Duration,
    /// All that was counted in that time.
    pub rates: Rates,
}

/// What was counted in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rates {
    /// `delivered` events.
    pub delivered: u64,
    /// `bounce` events that are not soft.
    pub bounced: u64,
    /// `complaint` events.
    pub complained: u64,
}

impl Rates {
    /// Bounces, of all messages that were delivered or bounced; `None` if there are none.
    #[must_use]
    pub fn bounce_rate(&self) -> Option<f64> {
        share(self.bounced, self.delivered + self.bounced)
    }

    /// Complaints, of all messages that were delivered; `None` if none was. It passes 1 where the deliveries were longer ago
    /// than the window.
    #[must_use]
    pub fn complaint_rate(&self) -> Option<f64> {
        share(self.complained, self.delivered)
    }

    fn of(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Bounces => self.bounce_rate(),
            Measure::Complaints => self.complaint_rate(),
        }
    }

    fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.bounced += other.bounced;
        self.complained += other.complained;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Reputation {
    /// Starts with Sendarix's threshold for bounces, Google's for complaints, and no window.
    pub fn builder() -> ReputationBuilder {
        ReputationBuilder {
            windows: Vec::new(),
            bounces: BOUNCE_THRESHOLD,
            complaints: COMPLAINT_THRESHOLD,
            minimum: 20,
            on_exceeded: None,
            clock: Box::new(SystemClock),
        }
    }

    /// Counts an event under the time that it was signed with, so that one that comes late raises no rate of today.
    pub fn record(&self, event: &SendarixEvent) {
        let counted = match &event.kind {
            EventKind::Delivered(_) => Rates { delivered: 1, ..Rates::default() },
            EventKind::Bounce(bounce) if bounce.is_permanent() => Rates { bounced: 1, ..Rates::default() },
            EventKind::Complaint(_) => Rates { complained: 1, ..Rates::default() },
            _ => return,
        };
        let now = self.now();
        let mut exceeded = Vec::new();
        for window in self.windows().iter_mut() {
            window.add(event.timestamp.min(now), counted, now);
            let rates = window.sum(now);
            for (passed, (measure, threshold)) in window.passed.iter_mut().zip(self.0.thresholds) {
                let rate = rates.of(measure).filter(|_| rates.delivered + rates.bounced >= self.0.minimum);
                let passes = rate.filter(|rate| *rate > threshold);
                // Once, until it is below the threshold again.
                if let Some(rate) = passes.filter(|_| !*passed) {
                    exceeded.push(Exceeded { measure, rate, threshold, window: window.length, rates });
                }
                *passed = passes.is_some();
            }
        }
        if let Some(on_exceeded) = &self.0.on_exceeded {
            exceeded.iter().for_each(on_exceeded);
        }
    }

    /// What was counted within the window of this length; `None` if there is no such window.
    #[must_use]
    pub fn rates(&self, window: Duration) -> Option<Rates> {
        let now = self.now();
        self.windows().iter().find(|candidate| candidate.length == window).map(|window| window.sum(now))
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now().into()
    }

    fn windows(&self) -> MutexGuard<'_, Vec<Window>> {
        self.0.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReputationBuilder {
    /// Adds a sliding window of at least one minute. Without any window there is one of an hour.
    pub fn window(mut self, length: Duration) -> Self {
        self.windows.push(length.max(MINUTE));
        self
    }

    /// The share of bounces that is too much. Default: [`BOUNCE_THRESHOLD`].
    pub fn bounce_threshold(self, share: f64) -> Self {
        Self { bounces: share, ..self }
    }

    /// The share of complaints that is too much. Default: [`COMPLAINT_THRESHOLD`].
    pub fn complaint_threshold(self, share: f64) -> Self {
        Self { complaints: share, ..self }
    }

    /// From how many messages in a window on a rate says anything. Default: 20, of which one bounce is 5 %. Of so few, any
    /// complaint is too much, which is what Sendarix advises.
    pub fn minimum(self, messages: u64) -> Self {
        Self { minimum: messages, ..self }
    }

    /// What to do when a rate passes its threshold: once, and again only after it was below. It runs within
    /// [`record`](Reputation::record), so it should only pass the news on.
    pub fn on_exceeded(self, callback: impl Fn(&Exceeded) + Send + Sync + 'static) -> Self {
        Self { on_exceeded: Some(Box::new(callback)), ..self }
    }

    /// Where the time of day comes from. Default: the operating system.
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// The counters, at zero.
    #[must_use]
    pub fn build(self) -> Reputation {
        let hour = Duration::from_secs(3600);
        let windows = if self.windows.is_empty() { vec![hour] } else { self.windows };
        Reputation(Arc::new(Inner {
            windows: Mutex::new(windows.into_iter().map(Window::new).collect()),
            thresholds: [(Measure::Bounces, self.bounces), (Measure::Complaints, self.complaints)],
            minimum: self.minimum,
            on_exceeded: self.on_exceeded,
            clock: self.clock,
        }))
    }
}

/// Counts in slices of time, of which the oldest is used again for the newest.
struct Window {
    length: Duration,
    slice: Duration,
    counts: [Slice; SLICES],
    /// Which thresholds are passed, in the order of the measures.
    passed: [bool; 2],
}

#[derive(Clone, Copy, Default)]
struct Slice {
    /// Which slice of all time this is.
    number: u128,
    counted: Rates,
}

/// A window slides in steps of a sixtieth of itself.
const SLICES: usize = 60;

/// The shortest window: its slices are as fine as Sendarix's times.
const MINUTE: Duration = Duration::from_secs(60);

impl Window {
    fn new(length: Duration) -> Self {
        let slice = length / 60;
        Self { length, slice, counts: [Slice::default(); SLICES], passed: [false; 2] }
    }

    fn number(&self, time: Timestamp) -> u128 {
        let since_epoch = Timestamp::from(UNIX_EPOCH).until(time).unwrap_or_default();
        since_epoch.as_nanos() / self.slice.as_nanos()
    }

    fn add(&mut self, at: Timestamp, counted: Rates, now: Timestamp) {
        let (number, newest) = (self.number(at), self.number(now));
        let place = usize::try_from(number % SLICES as u128).unwrap_or_default();
        if let Some(slice) = self.counts.get_mut(place)
            && is_within(number, newest)
        {
            // What is not of this window is past, or from when the clock was wrong.
            if slice.number != number {
                *slice = Slice { number, counted: Rates::default() };
            }
            slice.counted.add(counted);
        }
    }

    fn sum(&self, now: Timestamp) -> Rates {
        let newest = self.number(now);
        let mut sum = Rates::default();
        let slices = self.counts.iter().filter(|slice| is_within(slice.number, newest));
        slices.for_each(|slice| sum.add(slice.counted));
        sum
    }
}

/// Whether a slice is in the window that ends with the newest. No two of them have one place.
fn is_within(number: u128, newest: u128) -> bool {
    number <= newest && number + SLICES as u128 > newest
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.measure {
            Measure::Bounces => "messages bounced",
            Measure::Complaints => "deliveries were called spam",
        };
        let (rate, threshold) = (self.rate * 100.0, self.threshold * 100.0);
        write!(f, "{rate:.2} % of the {what} within {:?}; the limit is {threshold} %", self.window)
    }
}

impl fmt::Debug for Reputation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.now();
        let rates: Vec<(Duration, Rates)> =
            self.windows().iter().map(|window| (window.length, window.sum(now))).collect();
        f.debug_tuple("Reputation").field(&rates).finish()
    }
}

impl fmt::Debug for ReputationBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReputationBuilder").field("windows", &self.windows).finish_non_exhaustive()
    }
}
