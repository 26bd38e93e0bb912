//! Bounce and complaint rates of the sender, over sliding windows.

mod rates;
mod window;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::rates::Rates;
use self::window::{MINUTE, Window};
use super::Fact;
use crate::closed_set::closed_set;
use crate::event::{SendarixEvent, Timestamp};
use crate::verify::{Clock, SystemClock};

/// The share of bounces above which Sendarix advises to act: 5 %.
pub const BOUNCE_THRESHOLD: f64 = 0.05;

/// The share of complaints that Google's guidelines for senders ask to stay below: 0.1 %. From 0.3 % on they filter.
pub const COMPLAINT_THRESHOLD: f64 = 0.001;

/// Counts deliveries, bounces and complaints over one or more sliding windows, and tells when a rate passes its threshold,
/// and when it has recovered.
///
/// Give it each event once: last in the handler, which duplicates do not reach, and which does not fail afterwards and run
/// again. It takes three kilobytes for each window and each [key](ReputationBuilder::count_by), however many
/// events there are. Clones share everything. It knows the events of this process since its start. For several instances
/// and for longer, [`Mail::rates`](super::Mail::rates) counts in the database.
///
/// ```
/// use std::time::Duration;
/// use sendarix_webhooks::{EventType, SendarixEvent, mail::Reputation, testing::Sample};
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
    counted: Mutex<Counted>,
    windows: Vec<Duration>,
    thresholds: [(Measure, f64); 2],
    minimum: u64,
    key: Option<Key>,
    max_keys: usize,
    on_exceeded: Option<Callback<Exceeded>>,
    on_recovered: Option<Callback<Recovered>>,
    clock: Box<dyn Clock>,
}

type Key = Box<dyn Fn(&SendarixEvent) -> Option<String> + Send + Sync>;

type Callback<T> = Box<dyn Fn(&T) + Send + Sync>;

/// The windows of each key, and when each was last counted under.
#[derive(Default)]
struct Counted {
    keys: HashMap<String, (u64, Vec<Window>)>,
    latest: u64,
}

/// Sets up a [`Reputation`].
#[must_use]
pub struct ReputationBuilder(Inner);

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
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Exceeded {
    /// What the events were counted under; empty without a key.
    pub key: String,
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

/// A rate that had passed its threshold is below it again.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Recovered {
    /// What the events were counted under; empty without a key.
    pub key: String,
    /// Which rate.
    pub measure: Measure,
    /// Over how long.
    pub window: Duration,
    /// All that was counted in that time.
    pub rates: Rates,
}

impl Reputation {
    /// Starts with Sendarix's threshold for bounces, Google's for complaints, and no window.
    pub fn builder() -> ReputationBuilder {
        ReputationBuilder(Inner {
            counted: Mutex::default(),
            windows: Vec::new(),
            thresholds: [(Measure::Bounces, BOUNCE_THRESHOLD), (Measure::Complaints, COMPLAINT_THRESHOLD)],
            minimum: 20,
            key: None,
            max_keys: 1000,
            on_exceeded: None,
            on_recovered: None,
            clock: Box::new(SystemClock),
        })
    }

    /// Counts an event under the time that it was signed with, so that one that comes late raises no rate of today.
    pub fn record(&self, event: &SendarixEvent) {
        let counted = Rates::of_fact(Fact::of(event));
        let key = match &self.0.key {
            Some(key) => key(event),
            None => Some(String::new()),
        };
        if let Some(key) = key.filter(|_| counted != Rates::default()) {
            let now = self.now();
            let changes = {
                let mut all = self.counted();
                let forgotten = all.make_room_for(&key, self.0.max_keys);
                let windows = all.windows(&key, &self.0.windows);
                windows.iter_mut().for_each(|window| window.add(event.timestamp.min(now), counted, now));
                let mut changes = self.0.judge(&key, windows, now, self.0.minimum);
                // What a key that is forgotten has exceeded counts as recovered, or it would stay exceeded for ever.
                let recovered =
                    |(key, mut windows): (String, Vec<Window>)| self.0.judge(&key, &mut windows, now, u64::MAX);
                changes.extend(forgotten.into_iter().flat_map(recovered));
                changes
            };
            self.tell(changes);
        }
    }

    /// Looks at every rate again, so that recoveries are told also while no events come. Call it now and then, such as once a
    /// minute.
    pub fn check(&self) {
        let now = self.now();
        let changes: Vec<Change> = {
            let mut all = self.counted();
            all.keys
                .iter_mut()
                .flat_map(|(key, (_, windows))| self.0.judge(key, windows, now, self.0.minimum))
                .collect()
        };
        self.tell(changes);
    }

    /// What was counted within the window of this length, under the empty key; `None` if there is no such window.
    #[must_use]
    pub fn rates(&self, window: Duration) -> Option<Rates> {
        self.rates_of("", window)
    }

    /// What was counted under a key within the window of this length; `None` if there is no such window.
    #[must_use]
    pub fn rates_of(&self, key: &str, window: Duration) -> Option<Rates> {
        let now = self.now();
        let place = self.0.windows.iter().position(|length| *length == window)?;
        let all = self.counted();
        let found = all.keys.get(key).and_then(|(_, windows)| windows.get(place));
        Some(found.map_or_else(Rates::default, |window| window.sum(now)))
    }

    /// The callbacks run without the lock, so that they may ask for rates.
    fn tell(&self, changes: Vec<Change>) {
        for change in changes {
            match (change, &self.0.on_exceeded, &self.0.on_recovered) {
                (Change::Exceeded(exceeded), Some(tell), _) => tell(&exceeded),
                (Change::Recovered(recovered), _, Some(tell)) => tell(&recovered),
                _ => {}
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now().into()
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Change {
    Exceeded(Exceeded),
    Recovered(Recovered),
}

impl Inner {
    /// Which rates of a key have passed their thresholds or recovered since the last time. Of fewer messages than the minimum
    /// none has.
    fn judge(&self, key: &str, windows: &mut [Window], now: Timestamp, minimum: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for window in windows {
            let rates = window.sum(now);
            let enough = rates.messages() >= minimum;
            for (passed, (measure, threshold)) in window.passed.iter_mut().zip(self.thresholds) {
                let passes = rates.of(measure).filter(|rate| enough && *rate > threshold);
                let (key, window) = (|| key.to_owned(), window.length);
                match passes {
                    Some(rate) if !*passed => {
                        changes.push(Change::Exceeded(Exceeded {
                            key: key(),
                            measure,
                            rate,
                            threshold,
                            window,
                            rates,
                        }));
                    }
                    None if *passed => {
                        changes.push(Change::Recovered(Recovered { key: key(), measure, window, rates }));
                    }
                    _ => {}
                }
                *passed = passes.is_some();
            }
        }
        changes
    }
}

impl Counted {
    /// Forgets the key that was counted under longest ago, if there is no room for this one.
    fn make_room_for(&mut self, key: &str, max_keys: usize) -> Option<(String, Vec<Window>)> {
        if self.keys.contains_key(key) || self.keys.len() < max_keys.max(1) {
            return None;
        }
        let oldest = self.keys.iter().min_by_key(|(_, (last, _))| *last).map(|(key, _)| key.clone())?;
        let (key, (_, windows)) = self.keys.remove_entry(&oldest)?;
        Some((key, windows))
    }

    fn windows(&mut self, key: &str, lengths: &[Duration]) -> &mut [Window] {
        self.latest += 1;
        let new = || (0, lengths.iter().copied().map(Window::new).collect());
        let (last, windows) = self.keys.entry(key.to_owned()).or_insert_with(new);
        *last = self.latest;
        windows
    }
}

impl ReputationBuilder {
    /// Adds a sliding window of at least one minute. Without any window there is one of an hour.
    pub fn window(mut self, length: Duration) -> Self {
        self.0.windows.push(length.max(MINUTE));
        self
    }

    /// The share of bounces that is too much. Default: [`BOUNCE_THRESHOLD`].
    pub fn bounce_threshold(mut self, share: f64) -> Self {
        self.0.thresholds[0].1 = share;
        self
    }

    /// The share of complaints that is too much. Default: [`COMPLAINT_THRESHOLD`].
    pub fn complaint_threshold(mut self, share: f64) -> Self {
        self.0.thresholds[1].1 = share;
        self
    }

    /// From how many messages in a window on a rate says anything. Default: 20, of which one bounce is 5 %. Of so few, any
    /// complaint is too much, which is what Sendarix advises.
    pub fn minimum(self, messages: u64) -> Self {
        Self(Inner { minimum: messages, ..self.0 })
    }

    /// What to do when a rate passes its threshold: once, and again only after it was below. It runs within
    /// [`record`](Reputation::record), so it should only pass the news on.
    pub fn on_exceeded(self, callback: impl Fn(&Exceeded) + Send + Sync + 'static) -> Self {
        Self(Inner { on_exceeded: Some(Box::new(callback)), ..self.0 })
    }

    /// What to do when a rate is below its threshold again. It runs within [`record`](Reputation::record) or
    /// [`check`](Reputation::check).
    pub fn on_recovered(self, callback: impl Fn(&Recovered) + Send + Sync + 'static) -> Self {
        Self(Inner { on_recovered: Some(Box::new(callback)), ..self.0 })
    }

    /// What an event counts under, such as a campaign or an account; `None`: it is not counted. Default: all events count
    /// under the empty key.
    pub fn count_by(self, key: impl Fn(&SendarixEvent) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Inner { key: Some(Box::new(key)), ..self.0 })
    }

    /// How many keys are counted at the same time. A new one takes the place of the key that was counted under longest ago,
    /// which then counts as recovered. Default: 1000.
    pub fn max_keys(self, max: usize) -> Self {
        Self(Inner { max_keys: max, ..self.0 })
    }

    /// Where the time of day comes from. Default: the operating system.
    pub fn clock(self, clock: impl Clock) -> Self {
        Self(Inner { clock: Box::new(clock), ..self.0 })
    }

    /// The counters, at zero.
    #[must_use]
    pub fn build(mut self) -> Reputation {
        if self.0.windows.is_empty() {
            self.0.windows.push(Duration::from_secs(3600));
        }
        Reputation(Arc::new(self.0))
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.measure {
            Measure::Bounces => "messages bounced",
            Measure::Complaints => "deliveries were called spam",
        };
        let (rate, threshold) = (self.rate * 100.0, self.threshold * 100.0);
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{rate:.2} % of the {what} within {:?}; the limit is {threshold} %", self.window)
    }
}

impl fmt::Debug for Reputation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reputation").field("windows", &self.0.windows).finish_non_exhaustive()
    }
}

impl fmt::Debug for ReputationBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReputationBuilder").field("windows", &self.0.windows).finish_non_exhaustive()
    }
}
