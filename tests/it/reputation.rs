//! Rates over sliding windows, by a clock that the tests move.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sendarix_webhooks::mail::{Exceeded, Measure, Reputation};
use sendarix_webhooks::testing::{ManualClock, Sample};
use sendarix_webhooks::verify::Clock;
use sendarix_webhooks::{EventType, SendarixEvent};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

struct Watch {
    clock: ManualClock,
    reputation: Reputation,
    exceeded: Arc<Mutex<Vec<Exceeded>>>,
}

impl Watch {
    fn start(windows: &[Duration]) -> Self {
        let clock = ManualClock::at(UNIX_EPOCH + HOUR * 500_000);
        let exceeded = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&exceeded);
        let builder = windows.iter().fold(Reputation::builder(), |builder, window| builder.window(*window));
        let builder =
            builder.on_exceeded(move |exceeded| told.lock().unwrap().push(exceeded.clone())).clock(clock.clone());
        Self { clock, reputation: builder.build(), exceeded }
    }

    fn record_at(&self, event_type: EventType, count: usize, at: SystemTime) {
        for _ in 0..count {
            let body = Sample::new(event_type).timestamp(at).body();
            self.reputation.record(&SendarixEvent::decode(body).unwrap());
        }
    }

    fn record(&self, event_type: EventType, count: usize) {
        self.record_at(event_type, count, self.clock.now());
    }

    fn take_exceeded(&self) -> Vec<(Measure, Duration)> {
        self.exceeded.lock().unwrap().drain(..).map(|exceeded| (exceeded.measure, exceeded.window)).collect()
    }
}

#[test]
fn rates_are_of_the_window() {
    let watch = Watch::start(&[HOUR, 24 * HOUR]);
    assert_eq!(watch.reputation.rates(HOUR).unwrap().bounce_rate(), None);
    assert_eq!(watch.reputation.rates(MINUTE), None);
    watch.record(EventType::Delivered, 90);
    watch.record(EventType::Bounce, 10);
    watch.record(EventType::SoftBounce, 10);
    watch.record(EventType::Complaint, 9);
    for window in [HOUR, 24 * HOUR] {
        let rates = watch.reputation.rates(window).unwrap();
        assert_eq!((rates.bounce_rate(), rates.complaint_rate()), (Some(0.1), Some(0.1)), "{window:?}");
    }
    // In the window until it has slid past, to a sixtieth of it.
    watch.clock.advance(HOUR - MINUTE);
    assert_eq!(watch.reputation.rates(HOUR).unwrap().bounced, 10);
    watch.record(EventType::Delivered, 100);
    watch.clock.advance(2 * MINUTE);
    assert_eq!(watch.reputation.rates(HOUR).unwrap().bounce_rate(), Some(0.0));
    assert_eq!(watch.reputation.rates(24 * HOUR).unwrap().bounce_rate(), Some(0.05));
}

#[test]
fn a_threshold_is_told_once_until_the_rate_was_below() {
    let watch = Watch::start(&[HOUR]);
    watch.record(EventType::Bounce, 10);
    watch.record(EventType::Delivered, 9);
    assert_eq!(watch.take_exceeded(), [], "too few to say anything");
    watch.record(EventType::Delivered, 1);
    watch.record(EventType::Bounce, 10);
    assert_eq!(watch.take_exceeded(), [(Measure::Bounces, HOUR)]);
    watch.clock.advance(2 * HOUR);
    watch.record(EventType::Delivered, 95);
    watch.record(EventType::Bounce, 5);
    assert_eq!(watch.take_exceeded(), [], "5 % is not above 5 %");
    watch.record(EventType::Bounce, 1);
    assert_eq!(watch.take_exceeded(), [(Measure::Bounces, HOUR)]);
    watch.record(EventType::Complaint, 1);
    assert_eq!(watch.take_exceeded(), [(Measure::Complaints, HOUR)]);
    let shown = watch.reputation.rates(HOUR).unwrap();
    assert_eq!((shown.delivered, shown.bounced, shown.complained), (95, 6, 1));
}

/// What is redelivered after an outage is not news, and a clock that is wrong counts as now.
#[test]
fn events_count_under_their_own_time() {
    let watch = Watch::start(&[HOUR]);
    let now = watch.clock.now();
    watch.record_at(EventType::Bounce, 50, now - 2 * HOUR);
    watch.record_at(EventType::Bounce, 50, UNIX_EPOCH - HOUR);
    assert_eq!(watch.reputation.rates(HOUR).unwrap().bounced, 0);
    watch.record_at(EventType::Bounce, 3, now - 30 * MINUTE);
    watch.record_at(EventType::Bounce, 4, now + 24 * HOUR);
    assert_eq!(watch.reputation.rates(HOUR).unwrap().bounced, 7);
    watch.clock.advance(40 * MINUTE);
    assert_eq!(watch.reputation.rates(HOUR).unwrap().bounced, 4);
    watch.clock.set(UNIX_EPOCH);
    watch.record(EventType::Bounce, 1);
    assert_eq!(watch.reputation.rates(HOUR).unwrap().bounced, 1);
}

#[test]
fn a_complaint_counts_without_its_delivery() {
    let watch = Watch::start(&[HOUR]);
    watch.record(EventType::Complaint, 19);
    assert_eq!(watch.take_exceeded(), [], "too few to say anything");
    watch.record(EventType::Complaint, 1);
    assert_eq!(watch.take_exceeded(), [(Measure::Complaints, HOUR)]);
    assert_eq!(watch.reputation.rates(HOUR).unwrap().complaint_rate(), Some(1.0));
}

#[test]
fn each_key_exceeds_and_recovers_alone() {
    let (clock, told) = (ManualClock::at(UNIX_EPOCH + HOUR * 500_000), Arc::new(Mutex::new(Vec::new())));
    let (exceeded, recovered) = (Arc::clone(&told), Arc::clone(&told));
    let reputation = Reputation::builder()
        .minimum(1)
        .count_by(|event| event.message_id.split_once('-').map(|(campaign, _)| campaign.to_owned()))
        .max_keys(2)
        .on_exceeded(move |news| exceeded.lock().unwrap().push(format!("{} exceeded", news.key)))
        .on_recovered(move |news| recovered.lock().unwrap().push(format!("{} recovered", news.key)))
        .clock(clock.clone())
        .build();
    let record = |event_type, campaign: &str| {
        let sample = Sample::new(event_type).timestamp(clock.now()).message_id(format!("{campaign}-1"));
        reputation.record(&SendarixEvent::decode(sample.body()).unwrap());
    };
    let take = || told.lock().unwrap().drain(..).collect::<Vec<_>>();
    record(EventType::Delivered, "spring");
    record(EventType::Bounce, "summer");
    record(EventType::Bounce, "summer");
    assert_eq!(take(), ["summer exceeded"]);
    (0..19).for_each(|_| record(EventType::Delivered, "summer"));
    assert_eq!(take(), [] as [&str; 0], "2 of 21 is above 5 %");
    (0..20).for_each(|_| record(EventType::Delivered, "summer"));
    assert_eq!(take(), ["summer recovered"]);

    record(EventType::Complaint, "summer");
    assert_eq!(take(), ["summer exceeded"]);
    clock.advance(2 * HOUR);
    reputation.check();
    assert_eq!(take(), ["summer recovered"], "no event has come since");

    record(EventType::Delivered, "spring");
    record(EventType::Delivered, "autumn");
    record(EventType::Delivered, "winter");
    let counted = ["spring", "summer", "autumn", "winter"].map(|key| reputation.rates_of(key, HOUR).unwrap().delivered);
    assert_eq!(counted, [0, 0, 1, 1], "two keys at most");

    assert_eq!(take(), [] as [&str; 0]);
    record(EventType::Bounce, "autumn");
    record(EventType::Delivered, "winter");
    assert_eq!(take(), ["autumn exceeded"]);
    record(EventType::Delivered, "spring");
    assert_eq!(take(), ["autumn recovered"], "it is forgotten");
}
