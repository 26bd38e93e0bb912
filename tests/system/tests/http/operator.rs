//! Dead letters by HTTP, for people behind a login.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use axum::Router;
use axum::response::IntoResponse;
use reqwest::{Client, RequestBuilder};
use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters, FileDeadLetters};
use sendarix_webhooks::store::EventKey;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{Delivery, EventType, HandlerError, Inbox, operator};
use sendarix_webhooks_system_tests::{TempDir, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;

struct Desk {
    url: String,
    client: Client,
    letters: Arc<FileDeadLetters>,
    is_mended: Arc<AtomicBool>,
    handled: Arc<AtomicUsize>,
    _dir: TempDir,
}

impl Desk {
    async fn open() -> Self {
        let dir = TempDir::new();
        let letters = Arc::new(FileDeadLetters::open(dir.path().join("letters.jsonl")).unwrap());
        let inbox = Inbox::builder("default").dead_letters(Arc::clone(&letters)).build().unwrap();
        let (is_mended, handled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let on_event = {
            let (is_mended, handled) = (Arc::clone(&is_mended), Arc::clone(&handled));
            move |_: Delivery| {
                handled.fetch_add(1, Ordering::SeqCst);
                let is_mended = is_mended.load(Ordering::SeqCst);
                async move { if is_mended { Ok(()) } else { Err(HandlerError::retry("not now")) } }
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/admin/letters", listener.local_addr().unwrap());
        let app = Router::new().nest("/admin/letters", operator::letters(inbox, on_event));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, client: Client::new(), letters, is_mended, handled, _dir: dir }
    }

    async fn keep(&self, id: &str, event_type: EventType, error: &str) {
        let body = Sample::new(event_type).event_id(id).body();
        let key = EventKey::new("default", id);
        let mut letter = DeadLetter::new(key, body, DeadLetterReason::Failed, SystemTime::now().into());
        letter.error = error.to_owned();
        self.letters.record(&letter).await.unwrap();
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.client.get(format!("{}{path}", self.url))).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.json(path, body)).await
    }

    fn json(&self, path: &str, body: &Value) -> RequestBuilder {
        let request = self.client.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        request.body(body.to_string())
    }
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn ids(page: &Value) -> Vec<&str> {
    page["letters"].as_array().unwrap().iter().map(|letter| letter["event_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_counted_and_shown() {
    let desk = Desk::open().await;
    assert_eq!(desk.get("").await, (200, json!({ "letters": [], "next": null })));
    for (id, event_type) in [("a/b?c=%&d", EventType::Bounce), ("evt_2", EventType::Open), ("evt_3", EventType::Open)] {
        desk.keep(id, event_type, "timed out\n<script>").await;
    }
    let (status, page) = desk.get("?limit=2").await;
    assert_eq!((status, ids(&page)), (200, vec!["a/b?c=%&d", "evt_2"]));
    assert_eq!(page["letters"][0]["event_type"], "bounce");
    assert_eq!(page["letters"][0]["error"], "timed out\n<script>");
    assert_eq!((page["letters"][0]["is_retrying"].clone(), page["next"].clone()), (json!(true), json!("evt_2")));
    assert_eq!(ids(&desk.get("?after=evt_2").await.1), ["evt_3"]);
    assert_eq!(ids(&desk.get("?event_type=open&error=timed").await.1), ["evt_2", "evt_3"]);
    assert_eq!(ids(&desk.get("?reason=expired").await.1), [""; 0]);
    assert_eq!(desk.get("/count").await, (200, json!({ "failed": 3 })));
    let (status, letter) = desk.get("/letter?event_id=a%2Fb%3Fc%3D%25%26d").await;
    assert_eq!((status, &letter["event_id"]), (200, &json!("a/b?c=%&d")));
    assert!(letter["body"].as_str().unwrap().contains("\"bounce\""), "{letter}");
    assert_eq!(desk.get("/letter?event_id=evt_4").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_redriven_and_discarded() {
    let desk = Desk::open().await;
    for id in ["evt_1", "evt_2", "evt_3", "evt_4"] {
        desk.keep(id, if id == "evt_3" { EventType::Open } else { EventType::Bounce }, "timed out").await;
    }
    let one = json!({ "event_id": "evt_1" });
    assert_eq!(desk.post("/redrive", &one).await, (200, json!({ "event_id": "evt_1", "outcome": "failed" })));
    desk.is_mended.store(true, Ordering::SeqCst);
    assert_eq!(desk.post("/redrive", &one).await, (200, json!({ "event_id": "evt_1", "outcome": "processed" })));
    assert_eq!(desk.post("/redrive", &one).await.0, 404);
    let listed = desk.get("?after=evt_1&limit=1").await.1["letters"][0]["last_at"].clone();
    let earlier = json!({ "event_id": "evt_2", "last_at": "2026-01-01T00:00:00Z", "because": "a test message" });
    assert_eq!(desk.post("/discard", &earlier).await.0, 409, "it has failed again since");
    let discard = json!({ "event_id": "evt_2", "last_at": listed, "because": "a test message" });
    assert_eq!(desk.post("/discard", &discard).await, (200, json!({ "discarded": 1 })));
    assert_eq!(desk.post("/discard", &discard).await.0, 404);
    let opens = desk.json("/redrive-all", &json!({ "event_type": "open", "per_second": 100 })).send().await.unwrap();
    assert_eq!(opens.headers()["content-type"], "application/x-ndjson");
    assert_eq!(opens.text().await.unwrap(), "{\"event_id\":\"evt_3\",\"outcome\":\"processed\"}\n");
    assert_eq!(ids(&desk.get("").await.1), ["evt_4"]);
    let later = json!({ "because": "all of today's", "failed_since": "2999-01-01T00:00:00Z" });
    assert_eq!(desk.post("/discard-all", &later).await, (200, json!({ "discarded": 0 })));
    let earlier =
        json!({ "because": "all of today's", "failed_before": "2999-01-01T00:00:00Z", "event_type": "bounce" });
    assert_eq!(desk.post("/discard-all", &earlier).await, (200, json!({ "discarded": 1 })));
    assert_eq!(ids(&desk.get("").await.1), [""; 0]);
}

/// As the layer takes it: an answer that is no success.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_no_success_keeps_the_letter() {
    let dir = TempDir::new();
    let letters = Arc::new(FileDeadLetters::open(dir.path().join("letters.jsonl")).unwrap());
    let inbox = Inbox::builder("default").dead_letters(Arc::clone(&letters)).build().unwrap();
    let handler = |_: Delivery| async { Ok(axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response()) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/redrive", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, operator::letters(inbox, handler)).await });
    let body = Sample::new(EventType::Open).event_id("evt_1").body();
    let key = EventKey::new("default", "evt_1");
    let letter = DeadLetter::new(key.clone(), body, DeadLetterReason::FailedPermanently, SystemTime::now().into());
    letters.record(&letter).await.unwrap();
    let request = Client::new().post(url).header("content-type", "application/json").body(r#"{"event_id":"evt_1"}"#);
    assert_eq!(answer(request).await, (200, json!({ "event_id": "evt_1", "outcome": "failed" })));
    assert!(letters.get(&key).await.unwrap().is_some());
}

/// Too old to be told from one that was handled since.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_left_alone_says_why() {
    let desk = Desk::open().await;
    let body = Sample::new(EventType::Open).event_id("evt_1").body();
    let long_ago = sendarix_webhooks::Timestamp::from_unix_seconds(1_776_600_000).unwrap();
    let letter = DeadLetter::new(EventKey::new("default", "evt_1"), body, DeadLetterReason::Failed, long_ago);
    desk.letters.record(&letter).await.unwrap();
    let (status, answer) = desk.post("/redrive", &json!({ "event_id": "evt_1" })).await;
    assert_eq!(status, 409);
    assert!(answer["error"].as_str().unwrap().contains("redrive_beyond_retention"), "{answer}");
    let (status, line) = desk.post("/redrive-all", &json!({})).await;
    assert!(status == 200 && line["error"].as_str().unwrap().contains("remembers an event"), "{line}");
    assert_eq!(desk.handled.load(Ordering::SeqCst), 0);
}

/// Each would otherwise redrive every letter, or be sent by a form on another site.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_misspelled_or_comes_from_a_form_changes_nothing() {
    let desk = Desk::open().await;
    desk.keep("evt_1", EventType::Open, "timed out").await;
    for body in [
        json!({ "reasons": "expired" }),
        json!({ "per_second": 0 }),
        json!({ "at_most": -1 }),
        json!({ "event_type": ["bounce"] }),
        json!([]),
    ] {
        let status = desk.post("/redrive-all", &body).await.0;
        assert!(status == 422 || status == 400, "{body}: {status}");
    }
    assert_eq!(desk.get("?resaon=expired").await.0, 400);
    for path in ["/redrive", "/redrive-all", "/discard", "/discard-all"] {
        for content_type in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"] {
            let request = desk.client.post(format!("{}{path}", desk.url)).header("content-type", content_type);
            let request = request.body(r#"{"event_id":"evt_1","because":""}"#);
            assert_eq!(answer(request).await.0, 415, "{path}: {content_type}");
        }
        assert_eq!(desk.get(path).await.0, 405, "{path}");
    }
    assert_eq!((desk.handled.load(Ordering::SeqCst), ids(&desk.get("").await.1)), (0, vec!["evt_1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn redriving_ends_when_the_client_goes_away() {
    let desk = Desk::open().await;
    for number in 0..200 {
        desk.keep(&format!("evt_{number:03}"), EventType::Open, "timed out").await;
    }
    let mut response = desk.json("/redrive-all", &json!({ "per_second": 20 })).send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    drop(response);
    let settled = || async {
        let before = desk.handled.load(Ordering::SeqCst);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        desk.handled.load(Ordering::SeqCst) == before
    };
    eventually("nothing is redriven any more", settled).await;
    assert!(desk.handled.load(Ordering::SeqCst) < 200);
}
