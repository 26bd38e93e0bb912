//! What the receiver counts. In a separate process, since there is one recorder in a process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::missing_panics_doc)]
#![allow(unreachable_pub, unused)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sendarix_webhooks::RefusalKind;
use sendarix_webhooks::dead_letter::LetterFilter;
use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, MemoryStore};
use sendarix_webhooks::telemetry::metrics as names;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{Delivery, EventType, HandlerError, Outcome};
use tokio::sync::Semaphore;

use sendarix_webhooks_test_support::{Endpoint, FaultyStores, Front, Post, eventually, redrive_all};

/// All names that there are.
const NAMES: [&str; 21] = [
    names::REQUESTS,
    names::REFUSALS,
    names::EVENTS,
    names::PERMANENT_BOUNCES,
    names::UNREADABLE_DATA,
    names::ABANDONED_REQUESTS,
    names::REDRIVES,
    names::REDELIVERIES,
    names::SECRET_MATCHES,
    names::DEAD_LETTERS,
    names::DISCARDED_LETTERS,
    names::OPEN_LETTERS,
    names::QUEUE_DEPTH,
    names::SECRET_REFRESHES,
    names::STORE_ERRORS,
    names::TAKEOVERS,
    names::REQUEST_DURATION,
    names::EVENT_LAG,
    names::RUNNING_HANDLERS,
    names::FORGOTTEN,
    names::REMEMBERED_BYTES,
];

/// As an application exports it.
static EXPORTER: LazyLock<PrometheusHandle> = LazyLock::new(|| {
    let buckets = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(buckets, &[0.01, 1.0, 300.0]).unwrap();
    builder.install_recorder().unwrap()
});

/// The numbers of one endpoint.
struct Numbers(&'static str);

impl Numbers {
    /// The value of the series with these labels beside that of the endpoint.
    fn of(&self, name: &str, labels: &str) -> f64 {
        let labels = if labels.is_empty() { String::new() } else { format!(",{labels}") };
        let series = format!("{name}{{endpoint=\"{}\"{labels}}} ", self.0);
        let text = EXPORTER.render();
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        value.unwrap_or_else(|| panic!("no {series} in:\n{text}")).parse().unwrap()
    }

    fn requests(&self, outcome: Outcome) -> f64 {
        self.of(names::REQUESTS, &format!("outcome=\"{outcome}\""))
    }

    fn series(&self) -> usize {
        EXPORTER.render().lines().filter(|line| line.contains(&format!("endpoint=\"{}\"", self.0))).count()
    }
}

async fn endpoint<F>(
    name: &'static str,
    stores: &FaultyStores,
    handler: impl Fn(Delivery) -> F + Send + Sync + 'static,
) -> (Endpoint, Numbers)
where
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    LazyLock::force(&EXPORTER);
    let (store, letters) = (stores.clone(), stores.clone());
    let endpoint = Endpoint::start(
        Front::ANY,
        move |builder| builder.endpoint(name).store(store).dead_letters(letters).body_limit(1000),
        handler,
    );
    (endpoint.await, Numbers(name))
}

async fn by_type(delivery: Delivery) -> Result<(), HandlerError> {
    match delivery.event().kind.event_type() {
        Some(EventType::Bounce) => Err(HandlerError::permanent("never")),
        Some(EventType::Deferred) if delivery.attempt() == 1 => Err(HandlerError::retry("not yet")),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn every_request_counts_under_its_outcome_and_every_event_once() {
    let stores = FaultyStores::default();
    let (endpoint, numbers) = endpoint("outcomes", &stores, by_type).await;
    let sample = |event_type| Sample::new(event_type).body();
    let (open, deferred, bounce) = (sample(EventType::Open), sample(EventType::Deferred), sample(EventType::Bounce));
    for body in [&open, &open, &open, &deferred, &deferred, &bounce, &bounce] {
        endpoint.post(body).await;
    }
    endpoint.post(&Sample::of_unknown_type("new").body()).await;
    endpoint.post(b"no event").await;
    for (outcome, expected) in [
        (Outcome::Processed, 2.0),
        (Outcome::Duplicate, 3.0),
        (Outcome::Failed, 1.0),
        (Outcome::FailedPermanently, 1.0),
        (Outcome::UnknownType, 1.0),
        (Outcome::Malformed, 1.0),
        (Outcome::StoreUnavailable, 0.0),
    ] {
        assert_eq!(numbers.requests(outcome), expected, "{outcome}");
    }
    for (event_type, expected) in [("open", 1.0), ("deferred", 1.0), ("bounce", 1.0), ("unknown", 1.0), ("click", 0.0)]
    {
        assert_eq!(numbers.of(names::EVENTS, &format!("event_type=\"{event_type}\"")), expected, "{event_type}");
    }
    assert_eq!(numbers.of(names::SECRET_MATCHES, "secret=\"current\""), 9.0);
    for reason in ["failed", "failed_permanently", "malformed", "unknown_type"] {
        assert_eq!(numbers.of(names::DEAD_LETTERS, &format!("reason=\"{reason}\"")), 1.0, "{reason}");
    }
    let count = format!("{}_count", names::REQUEST_DURATION);
    assert_eq!(numbers.of(&count, "outcome=\"duplicate\""), 3.0);

    stores.claims_fail(true);
    stores.letters_fail(true);
    endpoint.post(&sample(EventType::Open)).await;
    endpoint.post(b"no event either").await;
    assert_eq!(numbers.requests(Outcome::StoreUnavailable), 2.0);
    assert_eq!(numbers.of(names::STORE_ERRORS, "store=\"dedup\""), 1.0);
    assert_eq!(numbers.of(names::STORE_ERRORS, "store=\"dead_letters\""), 1.0);
}

/// Sendarix gives up, and nothing else would show it.
#[tokio::test]
async fn the_last_failure_counts_as_such() {
    let (endpoint, numbers) =
        endpoint("last", &FaultyStores::default(), |_| async { Err(HandlerError::retry("never")) }).await;
    let body = Sample::new(EventType::Open).body();
    for _ in 0..6 {
        endpoint.post(&body).await;
    }
    assert_eq!(numbers.of(names::DEAD_LETTERS, "reason=\"failed\""), 5.0);
    assert_eq!(numbers.of(names::DEAD_LETTERS, "reason=\"failed_last\""), 1.0);
}

#[tokio::test]
async fn refusals_count_by_reason() {
    let (endpoint, numbers) = endpoint("refusals", &FaultyStores::default(), by_type).await;
    let post = Post::signed(&Sample::new(EventType::Open).body());
    let posts = [
        post.clone().method("GET"),
        post.clone().without("x-sendarix-signature"),
        post.clone().replacing("x-sendarix-signature", "0".repeat(64)),
        post.clone().replacing("x-sendarix-timestamp", "1"),
        Post::signed(&[b' '; 1001]),
    ];
    for post in &posts {
        endpoint.send(post).await;
    }
    for kind in [
        RefusalKind::MethodNotAllowed,
        RefusalKind::SignatureMissing,
        RefusalKind::SignatureMismatch,
        RefusalKind::TimestampTooOld,
        RefusalKind::BodyTooLarge,
    ] {
        assert_eq!(numbers.of(names::REFUSALS, &format!("reason=\"{kind}\"")), 1.0, "{kind}");
    }
    assert_eq!(numbers.requests(Outcome::Unauthenticated), 2.0);
    assert_eq!(numbers.requests(Outcome::MethodNotAllowed), 1.0);
}

/// A sender decides about no label.
#[tokio::test]
async fn a_stranger_makes_no_series() {
    let (endpoint, numbers) = endpoint("bounded", &FaultyStores::default(), by_type).await;
    endpoint.post(&Sample::new(EventType::Open).body()).await;
    let series = numbers.series();
    for number in 0..20 {
        let hostile = format!("hostile{number}");
        let sample = Sample::of_unknown_type(&hostile).event_id(&hostile).recipient(&hostile).message_id(&hostile);
        endpoint.post(&sample.body()).await;
        endpoint.post(hostile.as_bytes()).await;
        let post = Post::signed(&sample.body()).method("HOSTILE").replacing("x-sendarix-timestamp", hostile.clone());
        endpoint.send(&post).await;
    }
    assert_eq!(numbers.series(), series);
    assert!(!EXPORTER.render().to_lowercase().contains("hostile"));
}

#[tokio::test]
async fn lag_is_that_of_the_first_claim() {
    let (endpoint, numbers) = endpoint("lag", &FaultyStores::default(), by_type).await;
    let late = Sample::new(EventType::Open).timestamp(SystemTime::now() - Duration::from_secs(600)).body();
    let ahead = Sample::new(EventType::Open).timestamp(SystemTime::now() + Duration::from_secs(600)).body();
    for body in [&late, &late, &ahead] {
        endpoint.post(body).await;
    }
    let [count, sum, bucket] = ["count", "sum", "bucket"].map(|part| format!("{}_{part}", names::EVENT_LAG));
    assert_eq!(numbers.of(&count, ""), 2.0);
    let sum = numbers.of(&sum, "");
    assert!((600.0..640.0).contains(&sum), "{sum}");
    assert_eq!(numbers.of(&bucket, "le=\"300\""), 1.0);
}

#[tokio::test]
async fn handlers_count_while_they_run_and_redriving_is_no_request() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let stores = FaultyStores::default();
    let (endpoint, numbers) = endpoint("running", &stores, move |delivery| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.unwrap().forget();
            if delivery.attempt() == 1 { Err(HandlerError::permanent("never")) } else { Ok(()) }
        }
    })
    .await;
    let exchange = endpoint.begin(&Post::signed(&Sample::new(EventType::Open).body())).await;
    eventually("the handler runs", || endpoint.handled() == 1).await;
    assert_eq!(numbers.of(names::RUNNING_HANDLERS, ""), 1.0);
    gate.add_permits(1);
    drop(exchange);
    eventually("it has ended", || numbers.requests(Outcome::FailedPermanently) == 1.0).await;
    assert_eq!(numbers.of(names::RUNNING_HANDLERS, ""), 0.0);

    let other = sendarix_webhooks::SendarixEvent::decode(Sample::new(EventType::Click).body()).unwrap();
    endpoint.receiver.inbox().redeliver(other).unwrap().deliver(|_| async { Ok(()) }).await;
    assert_eq!(numbers.of(names::REDELIVERIES, "outcome=\"processed\""), 1.0);
    assert_eq!(numbers.of(names::EVENTS, "event_type=\"click\""), 0.0);

    let redriven = redrive_all(endpoint.receiver.inbox().redrive_all(|_| async { Ok(()) })).await;
    assert_eq!(redriven.len(), 1);
    assert_eq!(numbers.of(names::REDRIVES, "outcome=\"processed\""), 1.0);
    assert_eq!(numbers.requests(Outcome::Processed), 0.0);
    assert_eq!(numbers.of(names::EVENTS, "event_type=\"open\""), 1.0);
}

/// The alert on bounces and `Reputation` count the same.
#[tokio::test]
async fn permanent_bounces_count_once_and_only_they() {
    let stores = FaultyStores::default();
    let (endpoint, numbers) = endpoint("bounces", &stores, |_| async { Ok(()) }).await;
    let reputation = sendarix_webhooks::mail::Reputation::builder().build();
    for data in [
        r#"{"bounce_type":"hard"}"#,
        r#"{"bounce_type":"Soft"}"#,
        r#"{"smtp_code":452}"#,
        r#"{"smtp_code":"550"}"#,
        r#"{"bounce_type":"soft","\ud83d":1}"#,
        "\"a text\"",
    ] {
        let body = String::from_utf8(Sample::new(EventType::Bounce).data("here").body()).unwrap();
        let body = body.replace("\"here\"", data).into_bytes();
        for _ in 0..2 {
            assert_eq!(endpoint.post(&body).await.status, 200);
        }
        reputation.record(&sendarix_webhooks::SendarixEvent::decode(body).unwrap());
    }
    let rates = reputation.rates(Duration::from_secs(3600)).unwrap();
    assert_eq!(numbers.of(names::PERMANENT_BOUNCES, ""), 3.0);
    assert_eq!(rates.bounced, 3);
    assert_eq!(numbers.of(names::EVENTS, "event_type=\"bounce\""), 6.0);
    assert_eq!(numbers.of(names::UNREADABLE_DATA, ""), 1.0);
}

/// The client goes away in the middle of its body, and the server lets go of the request.
#[tokio::test]
async fn requests_that_end_before_they_were_verified_count() {
    let stores = FaultyStores::default();
    let (endpoint, numbers) = endpoint("abandoned", &stores, |_| async { Ok(()) }).await;
    let head = Post { body: Vec::new(), ..Post::signed(&Sample::new(EventType::Open).body()) };
    let admitted = endpoint.receiver.admit(&sendarix_webhooks::Head::new(
        "POST",
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())),
    ));
    drop(admitted.unwrap());
    assert_eq!(numbers.of(names::ABANDONED_REQUESTS, ""), 1.0);
    // Over a socket, hyper either tells of the end of the body or lets go of the request.
    let told = || numbers.of(names::ABANDONED_REQUESTS, "") + numbers.of(names::REFUSALS, "reason=\"body_incomplete\"");
    for expected in 2..=5 {
        let exchange = endpoint.connect().await.begin_open(&head).await;
        exchange.leave(sendarix_webhooks_test_support::Departure::Closed).await;
        eventually("it is counted", || told() == f64::from(expected)).await;
    }
    assert_eq!(endpoint.post(&Sample::new(EventType::Open).body()).await.status, 200);
    assert_eq!(told(), 5.0, "and one that is answered is not");
}

/// The event goes to another delivery while the handler runs.
#[tokio::test]
async fn a_takeover_counts() {
    let stores = FaultyStores::default();
    let store = stores.clone();
    let (endpoint, numbers) = endpoint("takeovers", &stores, move |delivery| {
        let store = store.clone();
        async move {
            let (claim, lease) = (delivery.claim(), Duration::from_secs(60));
            // As if the lease had ended.
            assert!(store.release(claim.key(), claim.token()).await?);
            let other = store.claim(claim.key(), ClaimToken::random(), lease).await?;
            assert_eq!(other, Claim::Granted { attempt: 2 });
            Ok(())
        }
    })
    .await;
    assert_eq!(endpoint.post(&Sample::new(EventType::Open).body()).await.status, 200);
    assert_eq!(numbers.of(names::TAKEOVERS, ""), 1.0);
}

#[tokio::test]
async fn letters_that_wait_are_a_gauge() {
    let (endpoint, numbers) = endpoint("letters", &FaultyStores::default(), by_type).await;
    endpoint.post(b"no event").await;
    let inbox = endpoint.receiver.inbox();
    inbox.count_letters().await.unwrap();
    let waiting = |reason: &str| numbers.of(names::OPEN_LETTERS, &format!("reason=\"{reason}\""));
    assert_eq!((waiting("malformed"), waiting("failed"), waiting("other")), (1.0, 0.0, 0.0));
    assert_eq!(inbox.discard_all(&LetterFilter::new(), "a test").await.unwrap(), 1);
    inbox.count_letters().await.unwrap();
    assert_eq!((waiting("malformed"), numbers.of(names::DISCARDED_LETTERS, "")), (0.0, 1.0));
}

/// The stores of the other tests are in the same gauge, and forget nothing.
#[tokio::test]
async fn a_full_memory_counts_what_it_forgets_and_what_it_remembers() {
    LazyLock::force(&EXPORTER);
    let plain = |name: &str| -> f64 {
        let text = EXPORTER.render();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    };
    let store = MemoryStore::builder().max_bytes(16 * 1024 * 1024).build().unwrap();
    sendarix_webhooks_test_support::fill(&store).await;
    let remembered = store.remembered_bytes() as f64;
    assert_eq!(plain(names::FORGOTTEN), store.forgotten() as f64);
    assert!(plain(names::REMEMBERED_BYTES) >= remembered, "{remembered}");
    drop(store);
    eventually("the gauge falls", || plain(names::REMEMBERED_BYTES) < remembered).await;
}

fn monitoring(file: &str) -> String {
    std::fs::read_to_string(format!("{}/monitoring/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// What is looked at is what is counted.
#[test]
fn rules_and_dashboard_use_names_that_there_are() {
    for file in ["alerts.yml", "alerts.test.yml", "dashboard.json"] {
        let text = monitoring(file);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let mut found = 0;
        for word in words.filter(|word| word.starts_with("sendarix_") && *word != "sendarix_webhooks") {
            let name =
                ["_bucket", "_sum", "_count"].iter().fold(word, |name, part| name.strip_suffix(part).unwrap_or(name));
            assert!(NAMES.contains(&name), "{word} in {file}");
            found += 1;
        }
        assert!(found > 10, "{file}");
    }
    serde_json::from_str::<serde_json::Value>(&monitoring("dashboard.json")).unwrap();
    let used = ["alerts.yml", "dashboard.json"].map(monitoring).concat();
    for name in NAMES {
        assert!(used.contains(name), "no rule and no panel uses {name}");
    }
}
