//! What the receiver counts, through the facade [`metrics`](https://docs.rs/metrics): which exporter the numbers go to is the
//! application's choice. Install it before the first request comes; the receiver asks for its counters then, and only then.
//!
//! Every name but the last four, which are those of secrets, of queues and of the memory store, has the label `endpoint`. No
//! label has values from outside: outcomes, reasons and types are closed sets, and the labels of secrets and queues are your
//! own. All series but those of secrets, of queues, of the memory store and of open letters are there from the first request
//! on, with 0.
//!
//! | name | kind | labels | counts |
//! |---|---|---|---|
//! | [`REQUESTS`] | counter | `outcome` | requests by what became of them. One that was `slow` is counted again once it is over |
//! | [`REFUSALS`] | counter | `reason` | requests that were refused before their signature was proven |
//! | [`EVENTS`] | counter | `event_type` | events when they are first claimed, so each once, however often it comes. Types that the receiver does not want are not claimed and not counted; those that are not documented are `unknown` |
//! | [`PERMANENT_BOUNCES`] | counter | | events of type `bounce` that are [permanent](crate::event::Bounce::is_permanent), when they are first claimed |
//! | [`UNREADABLE_DATA`] | counter | | events whose `data` was no JSON object, when they are first claimed |
//! | [`REDELIVERIES`] | counter | `outcome` | events that the application delivered: jobs, and the parts of a fan-out, whose endpoint is `NAME/PART` |
//! | [`REDRIVES`] | counter | `outcome` | dead letters that were delivered again |
//! | [`SECRET_MATCHES`] | counter | `secret` | authentic requests by the label of the secret that signed them |
//! | [`DEAD_LETTERS`] | counter | `reason` | dead letters that were kept. `failed` is resolved by itself when a retry succeeds; `failed_last` was Sendarix's sixth attempt or a later one |
//! | [`DISCARDED_LETTERS`] | counter | | dead letters that were [discarded](crate::Inbox::discard) or purged |
//! | [`OPEN_LETTERS`] | gauge | `reason` | dead letters that are there, as [`count_letters`](crate::Inbox::count_letters) found them last; there is no such series before its first call. Instances that share a store report the same letters: take `max by (endpoint, reason)`, not `sum`. Reasons that a newer version has written are `other` |
//! | [`STORE_ERRORS`] | counter | `store` | steps of the `dedup` or `dead_letters` store that failed or took too long |
//! | [`ABANDONED_REQUESTS`] | counter | | requests that ended before their body was verified: broken off, or cancelled by the server because the client closed its sending side |
//! | [`TAKEOVERS`] | counter | | claims that were lost because the handler took longer than the lease |
//! | [`REQUEST_DURATION`] | histogram, seconds | `outcome` | from a request's head to its answer |
//! | [`EVENT_LAG`] | histogram, seconds | | from an event's signed time to when it was first claimed |
//! | [`RUNNING_HANDLERS`] | gauge | | handlers that are running |
//! | [`SECRET_REFRESHES`] | counter | `result` | how often secrets were [read again](crate::SigningSecrets::refresh): `changed`, `unchanged` or `failed` |
//! | [`QUEUE_DEPTH`] | gauge | `queue` | jobs that wait. The application sets it: [queues](crate::guide::queues) |
//! | [`FORGOTTEN`] | counter | | ids that a full [`MemoryStore`](crate::store::MemoryStore) forgot early |
//! | [`REMEMBERED_BYTES`] | gauge, bytes | | what the ids that `MemoryStore`s remember take |
//!
//! `monitoring/` in the repository has alert rules for Prometheus and a dashboard for Grafana that use these names. With
//! `metrics-exporter-prometheus`, set buckets for the histograms: without, they are summaries of one process.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};

use super::{DeliveryKind, FailedStore};
use crate::contract::ATTEMPTS;
use crate::dead_letter::DeadLetterReason;
use crate::event::{EventType, SendarixEvent};
use crate::outcome::{Outcome, RefusalKind};
#[cfg(feature = "memory")]
pub use crate::store::memory::{FORGOTTEN, REMEMBERED_BYTES};
pub use crate::verify::refresh::SECRET_REFRESHES;

/// Requests, by `outcome`.
pub const REQUESTS: &str = "sendarix_requests_total";
/// Requests that were refused before their signature was proven, by `reason`.
pub const REFUSALS: &str = "sendarix_refusals_total";
/// Events, each once, by `event_type`.
pub const EVENTS: &str = "sendarix_events_total";
/// Events of type `bounce` that are permanent, each once.
pub const PERMANENT_BOUNCES: &str = "sendarix_permanent_bounces_total";
/// Events whose `data` was no JSON object, each once.
pub const UNREADABLE_DATA: &str = "sendarix_unreadable_data_total";
/// Requests that ended before their body was verified, without an answer.
pub const ABANDONED_REQUESTS: &str = "sendarix_abandoned_requests_total";
/// Events that the application delivered, such as jobs and parts of a fan-out, by `outcome`.
pub const REDELIVERIES: &str = "sendarix_redeliveries_total";
/// Dead letters that were delivered again, by `outcome`.
pub const REDRIVES: &str = "sendarix_redrives_total";
/// Authentic requests, by the label of the `secret` that signed them.
pub const SECRET_MATCHES: &str = "sendarix_secret_matches_total";
/// Dead letters that were kept, by `reason`.
pub const DEAD_LETTERS: &str = "sendarix_dead_letters_total";
/// Dead letters that were discarded or purged.
pub const DISCARDED_LETTERS: &str = "sendarix_discarded_letters_total";
/// Dead letters that are there, by `reason`, as they were counted last.
pub const OPEN_LETTERS: &str = "sendarix_open_dead_letters";
/// Steps of a `store` that failed.
pub const STORE_ERRORS: &str = "sendarix_store_errors_total";
/// Claims that were lost to another delivery.
pub const TAKEOVERS: &str = "sendarix_takeovers_total";
/// Seconds from a request's head to its answer, by `outcome`.
pub const REQUEST_DURATION: &str = "sendarix_request_duration_seconds";
/// Seconds from an event's signed time to when it was first claimed.
pub const EVENT_LAG: &str = "sendarix_event_lag_seconds";
/// Jobs that wait, by `queue`. The application sets it.
pub const QUEUE_DEPTH: &str = "sendarix_queue_depth";
/// Handlers that are running.
pub const RUNNING_HANDLERS: &str = "sendarix_running_handlers";

/// The counters of one receiver, looked up once.
pub(super) struct Meter {
    endpoint: String,
    requests: Box<[Counter]>,
    redrives: Box<[Counter]>,
    redeliveries: Box<[Counter]>,
    durations: Box<[Histogram]>,
    refusals: Box<[Counter]>,
    events: Box<[Counter]>,
    unknown_events: Counter,
    permanent_bounces: Counter,
    unreadable_data: Counter,
    abandoned: Counter,
    letters: Box<[Counter]>,
    last_letters: Counter,
    discarded_letters: Counter,
    dedup_errors: Counter,
    letter_errors: Counter,
    takeovers: Counter,
    lag: Histogram,
    running: Gauge,
}

/// Counts a handler as running until it is dropped.
pub(super) struct Handling(Gauge);

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl Meter {
    pub(super) fn new(endpoint: &str) -> Self {
        describe();
        let counter = |name, label, value: &str| metrics::counter!(name, "endpoint" => endpoint.to_owned(), label => value.to_owned());
        let plain = |name| metrics::counter!(name, "endpoint" => endpoint.to_owned());
        let durations = each(
            Outcome::ALL,
            |outcome| metrics::histogram!(REQUEST_DURATION, "endpoint" => endpoint.to_owned(), "outcome" => outcome.as_str()),
        );
        Self {
            requests: each(Outcome::ALL, |outcome| counter(REQUESTS, "outcome", outcome.as_str())),
            redrives: each(Outcome::ALL, |outcome| counter(REDRIVES, "outcome", outcome.as_str())),
            durations,
            redeliveries: each(Outcome::ALL, |outcome| counter(REDELIVERIES, "outcome", outcome.as_str())),
            refusals: each(RefusalKind::ALL, |kind| counter(REFUSALS, "reason", kind.as_str())),
            events: each(EventType::ALL, |event_type| counter(EVENTS, "event_type", event_type.as_str())),
            unknown_events: counter(EVENTS, "event_type", "unknown"),
            permanent_bounces: plain(PERMANENT_BOUNCES),
            unreadable_data: plain(UNREADABLE_DATA),
            abandoned: plain(ABANDONED_REQUESTS),
            letters: each(DeadLetterReason::ALL, |reason| counter(DEAD_LETTERS, "reason", reason.as_str())),
            last_letters: counter(DEAD_LETTERS, "reason", "failed_last"),
            discarded_letters: plain(DISCARDED_LETTERS),
            dedup_errors: counter(STORE_ERRORS, "store", "dedup"),
            letter_errors: counter(STORE_ERRORS, "store", "dead_letters"),
            takeovers: plain(TAKEOVERS),
            lag: metrics::histogram!(EVENT_LAG, "endpoint" => endpoint.to_owned()),
            running: metrics::gauge!(RUNNING_HANDLERS, "endpoint" => endpoint.to_owned()),
            endpoint: endpoint.to_owned(),
        }
    }

    /// The labels of secrets change while the process runs, so this one is looked up each time.
    pub(super) fn secret_matched(&self, label: &str) {
        let labels = [("endpoint", self.endpoint.clone()), ("secret", label.to_owned())];
        metrics::counter!(SECRET_MATCHES, &labels).increment(1);
    }

    pub(super) fn new_event(&self, event: &SendarixEvent, lag: impl FnOnce() -> Duration) {
        increment(match event.kind.event_type() {
            Some(event_type) => of(EventType::ALL, &self.events, &event_type),
            None => Some(&self.unknown_events),
        });
        if event.is_permanent() {
            self.permanent_bounces.increment(1);
        }
        self.lag.record(lag());
    }

    pub(super) fn unreadable_data(&self) {
        self.unreadable_data.increment(1);
    }

    pub(super) fn abandoned(&self) {
        self.abandoned.increment(1);
    }

    pub(super) fn handling(&self) -> Handling {
        self.running.increment(1);
        Handling(self.running.clone())
    }

    pub(super) fn settled(&self, outcome: Outcome, duration: impl FnOnce() -> Duration, kind: DeliveryKind) {
        let counters = match kind {
            DeliveryKind::Request => &self.requests,
            DeliveryKind::Redrive => &self.redrives,
            DeliveryKind::Redelivery => &self.redeliveries,
        };
        increment(of(Outcome::ALL, counters, &outcome));
        if let (DeliveryKind::Request, Some(durations)) = (kind, of(Outcome::ALL, &self.durations, &outcome)) {
            durations.record(duration());
        }
    }

    pub(super) fn refused(&self, kind: RefusalKind) {
        increment(of(Outcome::ALL, &self.requests, &kind.outcome()));
        increment(of(RefusalKind::ALL, &self.refusals, &kind));
    }

    pub(super) fn taken_over(&self) {
        self.takeovers.increment(1);
    }

    pub(super) fn store_failed(&self, store: FailedStore) {
        match store {
            FailedStore::Dedup => self.dedup_errors.increment(1),
            FailedStore::DeadLetters => self.letter_errors.increment(1),
        }
    }

    pub(super) fn letter_kept(&self, reason: &DeadLetterReason, attempts: u32) {
        if *reason == DeadLetterReason::Failed && attempts as usize >= ATTEMPTS.len() {
            return self.last_letters.increment(1);
        }
        increment(of(DeadLetterReason::ALL, &self.letters, reason));
    }

    pub(super) fn letter_discarded(&self) {
        self.discarded_letters.increment(1);
    }

    pub(super) fn letters_counted(&self, counts: &HashMap<DeadLetterReason, u64>) {
        let known =
            DeadLetterReason::ALL.iter().map(|reason| (reason.as_str(), counts.get(reason).copied().unwrap_or(0)));
        let other =
            counts.iter().filter(|(reason, _)| !DeadLetterReason::ALL.contains(reason)).map(|(_, letters)| letters);
        for (reason, letters) in known.chain([("other", other.sum())]) {
            let labels = [("endpoint", self.endpoint.clone()), ("reason", reason.to_owned())];
            // A gauge is a float, exact up to 2^53.
            metrics::gauge!(OPEN_LETTERS, &labels).set(letters as f64);
        }
    }
}

fn each<T, C>(all: &[T], counter: impl FnMut(&T) -> C) -> Box<[C]> {
    all.iter().map(counter).collect()
}

/// The one that counts this value, in the order in which all of them stand.
fn of<'a, T: PartialEq, C>(all: &[T], counters: &'a [C], value: &T) -> Option<&'a C> {
    counters.get(all.iter().position(|one| one == value)?)
}

fn increment(counter: Option<&Counter>) {
    if let Some(counter) = counter {
        counter.increment(1);
    }
}

fn describe() {
    let counters = [
        (REQUESTS, "Requests by what became of them"),
        (REFUSALS, "Requests that were refused before their signature was proven"),
        (EVENTS, "Events by type, each once"),
        (PERMANENT_BOUNCES, "Permanent bounces, each once"),
        (UNREADABLE_DATA, "Events whose data was no JSON object, each once"),
        (ABANDONED_REQUESTS, "Requests that ended before their body was verified"),
        (REDELIVERIES, "Events that the application delivered"),
        (REDRIVES, "Dead letters that were delivered again"),
        (SECRET_MATCHES, "Authentic requests by the secret that signed them"),
        (DEAD_LETTERS, "Dead letters that were kept"),
        (DISCARDED_LETTERS, "Dead letters that were discarded"),
        (STORE_ERRORS, "Steps of a store that failed or took too long"),
        (TAKEOVERS, "Claims that were lost because the handler took longer than the lease"),
        (SECRET_REFRESHES, "How often signing secrets were read again"),
        #[cfg(feature = "memory")]
        (FORGOTTEN, "Ids that a full memory store forgot early"),
    ];
    for (name, description) in counters {
        metrics::describe_counter!(name, Unit::Count, description);
    }
    metrics::describe_histogram!(REQUEST_DURATION, Unit::Seconds, "From a request's head to its answer");
    metrics::describe_histogram!(EVENT_LAG, Unit::Seconds, "From an event's signed time to when it was first claimed");
    metrics::describe_gauge!(OPEN_LETTERS, Unit::Count, "Dead letters that are there");
    metrics::describe_gauge!(QUEUE_DEPTH, Unit::Count, "Jobs that wait");
    metrics::describe_gauge!(RUNNING_HANDLERS, Unit::Count, "Handlers that are running");
    #[cfg(feature = "memory")]
    metrics::describe_gauge!(REMEMBERED_BYTES, Unit::Bytes, "What the ids that memory stores remember take");
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
