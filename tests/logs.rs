//! What stands in the log, and what must not. In a separate process: a thread without a subscriber may be the first to
//! reach a line of the log, and `tracing` can then take it for one that no subscriber wants.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::missing_panics_doc)]
#![allow(unreachable_pub, unused)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::store::MemoryStore;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, HandlerError, ReceiverBuilder, SendarixEvent};
use tracing_subscriber::fmt::MakeWriter;

use sendarix_webhooks_test_support::{Endpoint, FaultyStores, Front, INTERNAL, Post, TempFile, eventually};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Collects what this test's thread logs, which is everything: its runtime has no other.
    fn capture(level: tracing::Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(log.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The one line with this in it.
    #[track_caller]
    fn line(&self, what: &str) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(what)).collect();
        assert_eq!(lines.len(), 1, "{what:?} in:\n{text}");
        lines[0].to_owned()
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[track_caller]
fn assert_contains(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} in {line}");
    }
}

#[tokio::test]
async fn receipt_and_outcome() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let endpoint = Endpoint::start(Front::ANY, |builder| builder.endpoint("staging"), |_| async { (202, "") }).await;
    let sample = Sample::new(EventType::SoftBounce).event_id("evt_7").message_id("msg_7");
    endpoint.post(&sample.timestamp(std::time::UNIX_EPOCH).body()).await;
    let receipt = log.line("received an event");
    let fields = ["event_id=\"evt_7\"", "event_type=\"soft_bounce\"", "timestamp=1970", "message_id=\"msg_7\""];
    assert_contains(&receipt, &fields);
    assert_contains(&receipt, &["INFO", "secret=\"current\"", "endpoint=\"staging\""]);
    let outcome = log.line("settled a delivery");
    assert_contains(&outcome, &["INFO", "outcome=\"processed\"", "status=202", "duration_ms=", "attempt=1"]);
    assert_contains(&outcome, &["event_id=\"evt_7\""]);
}

#[tokio::test]
async fn a_failure_is_told_with_its_error_and_without_dead_letters_at_error_level() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let endpoint =
        Endpoint::start(Front::ANY, |builder| builder, |_| async { Err::<(), _>(HandlerError::retry(INTERNAL)) }).await;
    endpoint.post(&Sample::new(EventType::Open).body()).await.assert_is(503, "not processed; deliver again");
    assert_contains(&log.line("outcome="), &["WARN", "outcome=\"failed\"", "status=503", "attempt=1", INTERNAL]);
    assert_contains(&log.line("no dead-letter store"), &["ERROR", INTERNAL]);
}

/// What cannot be recorded is tried until the lease is over, and then an operator must know.
#[tokio::test]
async fn a_completion_that_is_given_up_is_told_and_the_event_can_come_again() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let stores = FaultyStores::default();
    stores.completions_fail(true);
    let configured = stores.clone();
    let configure = |builder: ReceiverBuilder| {
        let builder = builder.lease(Duration::from_secs(1)).handler_limit(Duration::from_millis(500));
        let builder = builder.acknowledgement_deadline(Duration::from_millis(500)).store(configured);
        builder.body_timeout(Duration::from_millis(100)).store_timeout(Duration::from_millis(100))
    };
    let endpoint = Endpoint::start(Front::ANY, configure, |_| async {}).await;
    let body = Sample::new(EventType::Open).body();
    assert_eq!(endpoint.post(&body).await.status, 200);
    eventually("it is given up", || log.text().contains("not recorded as such")).await;
    stores.completions_fail(false);
    assert_eq!(endpoint.post_until_settled(&body).await.status, 200);
    assert_eq!(endpoint.handled(), 2);
}

#[tokio::test]
async fn a_handler_without_its_layer_or_middleware_is_told() {
    let (log, _guard) = Log::capture(tracing::Level::ERROR);
    let app = axum::Router::new()
        .route(sendarix_webhooks_test_support::PATH, axum::routing::post(|_: SendarixEvent| async {}));
    let request =
        axum::extract::Request::post(sendarix_webhooks_test_support::PATH).body(axum::body::Body::empty()).unwrap();
    assert_eq!(tower::ServiceExt::oneshot(app, request).await.unwrap().status(), 500);
    log.line("its route has no SendarixLayer");

    async fn optional(event: Option<SendarixEvent>) -> String {
        format!("{}", event.is_some())
    }
    let app = actix_web::App::new().route(sendarix_webhooks_test_support::PATH, actix_web::web::post().to(optional));
    let app = actix_web::test::init_service(app).await;
    let request = actix_web::test::TestRequest::post().uri(sendarix_webhooks_test_support::PATH).to_request();
    assert_eq!(actix_web::test::call_and_read_body(&app, request).await, "false");
    log.line("its resource has no SendarixMiddleware");
}

#[tokio::test]
async fn every_refusal_is_told_under_a_target_of_its_own() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let endpoint =
        Endpoint::start(Front::ANY, |builder| builder.endpoint("staging").body_limit(300), |_| async {}).await;
    let post = Post::signed(&Sample::new(EventType::Open).simplified_body());
    let signature = post.headers.iter().find(|(name, _)| name == "x-sendarix-signature").unwrap().1.clone();
    let prefixed = [b"sha256=", signature.as_slice()].concat();
    for (post, parts) in [
        (post.clone().method("BREW"), ["reason=\"method_not_allowed\"", "BREW"]),
        (post.clone().without("x-sendarix-signature"), ["reason=\"signature_missing\"", "status=401"]),
        (
            post.clone().replacing("x-sendarix-signature", prefixed),
            ["reason=\"signature_malformed\"", "`sha256=` prefix"],
        ),
        (
            post.clone().replacing("x-sendarix-signature", "0".repeat(64)),
            ["reason=\"signature_mismatch\"", "another secret signed the body of"],
        ),
        (
            post.clone().replacing("x-sendarix-timestamp", "1710000000"),
            ["reason=\"timestamp_too_old\"", "detail=\"1710000000\""],
        ),
        (Post::signed(&[b' '; 301]), ["reason=\"body_too_large\"", "301"]),
    ] {
        endpoint.send(&post).await;
        let line = log.line(parts[0]);
        assert_contains(&line, &["WARN sendarix_webhooks::audit:", "endpoint=\"staging\"", parts[1]]);
    }
}

#[tokio::test]
async fn no_recipient_body_or_secret_above_debug_and_no_forged_line() {
    for stores in [None, Some(FaultyStores::default())] {
        assert_nothing_leaks(stores).await;
    }
}

async fn assert_nothing_leaks(stores: Option<FaultyStores>) {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let configured = stores.clone();
    let handler = |delivery: sendarix_webhooks::Delivery| async move {
        match delivery.event().kind.event_type() {
            Some(EventType::Bounce) => Err(HandlerError::retry("failed")),
            Some(EventType::Complaint) => Err(HandlerError::permanent("failed for good")),
            Some(EventType::Click) => panic!("broken"),
            _ => Ok(()),
        }
    };
    let configure = |builder: ReceiverBuilder| match configured {
        Some(stores) => builder.dead_letters(stores.clone()).store(stores),
        None => builder,
    };
    let endpoint = Endpoint::start(Front::ANY, configure, handler).await;
    let recipient = "4915112345678";
    let mut bodies: Vec<Vec<u8>> =
        EventType::ALL.iter().map(|event_type| Sample::new(*event_type).recipient(recipient).body()).collect();
    bodies.push(Sample::of_unknown_type(format!("new\n{}", "x".repeat(5000))).recipient(recipient).body());
    let open = String::from_utf8(Sample::new(EventType::Open).recipient("R").body()).unwrap();
    // Errors of a JSON reader like to quote what they found.
    bodies.push(open.replace("\"R\"", recipient).into());
    bodies.push(open.replace("\"message_id\":\"", &format!("\"message_id\":{recipient},\"x\":\"")).into());
    bodies.push(open.replace("\"timestamp\":\"", &format!("\"timestamp\":\"{recipient}")).into());
    bodies.push(Sample::new(EventType::Open).event_id("evt\n2026-01-01 INFO forged \u{1b}[31m").body());
    for body in &bodies {
        endpoint.post(body).await;
    }
    if let Some(stores) = stores {
        stores.letters_fail(true);
        stores.claims_fail(true);
        for body in &bodies {
            endpoint.post(body).await;
        }
    }
    let text = log.text();
    assert!(text.contains("outcome=\"malformed\""));
    for secret in [recipient, "a secret for tests", "198.51.100.7", "smtp_", "user_agent", "\u{1b}"] {
        assert!(!text.contains(secret), "{secret:?} in:\n{text}");
    }
    assert!(!text.lines().any(|line| line.starts_with("2026-01-01 INFO forged")));
    assert!(text.lines().all(|line| line.len() < 1500), "{text}");
}

/// What an operator needs to know of a body that is no event: which part of the envelope is wrong, and nothing of the rest.
#[tokio::test]
async fn a_malformed_event_is_told_with_the_member_that_is_wrong() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let endpoint = Endpoint::succeeding(Front::ANY).await;
    let open = String::from_utf8(Sample::new(EventType::Open).recipient("4915112345678").body()).unwrap();
    for (body, what) in [
        (open.replace("\"message_id\"", "\"id\""), "not an event: `message_id` is missing"),
        (open.replace("\"timestamp\":\"", "\"timestamp\":\"4915112345678 "), "not an event: `timestamp` is not a time"),
        (open.replacen('{', "{\"recipient\":\"4915112345678\",", 1), "not an event: `recipient` is there twice"),
    ] {
        endpoint.post(body.as_bytes()).await;
        assert_contains(&log.line(what), &["WARN", "outcome=\"malformed\""]);
    }
    assert!(!log.text().contains("4915112345678"), "{}", log.text());
}

/// What reads JSON likes to quote what it has found.
#[tokio::test]
async fn a_letter_that_cannot_be_read_is_not_quoted() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let file = TempFile::new("quoted");
    let line = r#"{"letter":{"endpoint":"default","event_id":"evt_1","reason":"failed","error":"","attempts":"ann@example.com"}}"#;
    std::fs::write(file.path(), format!("{line}\n")).unwrap();
    drop(FileDeadLetters::open(file.path()).unwrap());
    assert_contains(&log.line("a line of the dead-letter file cannot be read"), &["ERROR", "line 1 column"]);
    assert!(!log.text().contains("ann@example.com"), "{}", log.text());
}

#[tokio::test]
async fn a_duration_has_no_more_digits_than_it_means() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let endpoint = Endpoint::succeeding(Front::ANY).await;
    for number in 0..20 {
        endpoint.post(&Sample::new(EventType::Open).event_id(format!("evt_{number}")).body()).await;
    }
    let text = log.text();
    let durations = text.lines().filter_map(|line| line.split_once("duration_ms=")?.1.split(' ').next());
    for duration in durations {
        let digits = duration.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        assert!(digits <= 3, "{duration}");
    }
}

/// An attacker must not fill the disk with the log of the attack.
#[tokio::test]
async fn a_flood_of_forged_requests_is_told_in_few_lines_and_hides_no_other() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let endpoint = Endpoint::succeeding(Front::ANY).await;
    let forged = Post::signed(b"{}").replacing("x-sendarix-signature", "0".repeat(64));
    let (mut connection, start) = (endpoint.connect().await, std::time::Instant::now());
    for _ in 0..500 {
        assert_eq!(connection.send(&forged).await.status, 401);
    }
    // The lines of a second may come in one that has just begun and in the next.
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 2;
    let lines = log.text().lines().filter(|line| line.contains("refused a request")).count();
    assert!((5..=5 * seconds).contains(&lines), "{lines} lines in {seconds} s");
    endpoint.send(&forged.clone().without("x-sendarix-timestamp")).await;
    log.line("reason=\"timestamp_missing\"");
    tokio::time::sleep(Duration::from_secs(1)).await;
    connection.send(&forged).await;
    let text = log.text();
    let suppressed: usize = text
        .lines()
        .filter_map(|line| line.split_once("suppressed=")?.1.split(' ').next()?.parse::<usize>().ok())
        .sum();
    let lines = text.lines().filter(|line| line.contains("reason=\"signature_mismatch\"")).count();
    assert_eq!(lines + suppressed, 501, "each is told or counted");
}

#[tokio::test]
async fn a_request_that_ends_before_it_was_verified_is_told() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let endpoint = Endpoint::succeeding(Front::ANY).await;
    let post = Post::signed(&Sample::new(EventType::Open).body());
    let head = Post { body: Vec::new(), ..post };
    let exchange = endpoint.connect().await.begin_open(&head).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    exchange.leave(sendarix_webhooks_test_support::Departure::Reset).await;
    eventually("it is told", || {
        let text = log.text();
        text.contains("ended before its body was verified") || text.contains("reason=\"body_incomplete\"")
    })
    .await;
}

#[tokio::test]
async fn what_nobody_took_and_what_could_not_be_read_is_told() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let receiver = sendarix_webhooks::Receiver::builder(sendarix_webhooks_test_support::secret())
        .dangerously_without_dead_letters()
        .build()
        .unwrap();
    let app = axum::Router::new().fallback(|| async { "the index page" });
    let app = app.layer(sendarix_webhooks::SendarixLayer::new(receiver));
    let body = Sample::new(EventType::Bounce).data("\"a text\"").body();
    let request = sendarix_webhooks::testing::signed_request::<axum::body::Body>(
        &sendarix_webhooks_test_support::secret(),
        "/",
        body,
    );
    assert_eq!(tower::ServiceExt::oneshot(app, request).await.unwrap().status(), 500);
    assert_contains(&log.line("outcome="), &["ERROR", "outcome=\"not_taken\"", "status=500", "`_: Delivery`"]);
    assert_contains(&log.line("is no JSON object"), &["WARN"]);
}

#[tokio::test]
async fn a_memory_that_is_full_is_told_once_a_minute_with_what_to_do() {
    let (log, _guard) = Log::capture(tracing::Level::INFO);
    let store = MemoryStore::builder().max_bytes(16 * 1024 * 1024).build().unwrap();
    sendarix_webhooks_test_support::fill(&store).await;
    assert!(store.remembered_bytes() <= 16 * 1024 * 1024);
    let line = log.line("the dedup memory is full");
    assert_contains(
        &line,
        &["WARN", "forgotten=", "`MemoryStore::builder().max_bytes`", "`retention`", "a shared store"],
    );
    assert_eq!(log.text().lines().count(), 1, "{}", log.text());
}
