//! Files of lines as a warehouse loads them: `DuckDB` reads what `JsonLines` has written, hostile events among it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use sendarix_webhooks::destination::{Destination, JsonLines, JsonLinesBuilder};
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, Inbox, Outcome, SendarixEvent};
use sendarix_webhooks_system_tests::TempDir;
use serde_json::Value;

/// What guides show, with the columns of `JsonLinesBuilder::flat`.
const LOAD: &str = r#"
import duckdb, json, sys
text, number, truth = 'VARCHAR', 'BIGINT', 'BOOLEAN'
columns = dict(event_id=text, event_type=text, timestamp='TIMESTAMPTZ', message_id=text, recipient=text, is_permanent=truth,
    suppression=text, smtp_code=number, smtp_message=text, bounce_type=text, bounce_category=text, was_automatic=truth,
    smtp_response=text, server=text, delivery_latency_ms=number, complaint_type=text, feedback_type=text, ip=text,
    user_agent=text, os=text, client=text, link_id=text, url=text, data=text)
rows = duckdb.read_json(sys.argv[1], format='newline_delimited', columns=columns)
names = [name for name in columns if name != 'timestamp']
rows = rows.project(', '.join(names) + ", epoch_us(timestamp) AS at").order('event_id').fetchall()
print(json.dumps([dict(zip(names + ['at'], row)) for row in rows]))
"#;

fn load(files: &Path) -> Vec<Value> {
    let loaded = Command::new("python3").args(["-c", LOAD]).arg(files).output().unwrap();
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    serde_json::from_slice(&loaded.stdout).unwrap()
}

async fn write(lines: JsonLinesBuilder, events: &[SendarixEvent]) {
    let lines = Arc::new(lines.open().unwrap());
    let inbox = Inbox::builder("default").dangerously_without_dead_letters().build().unwrap();
    for event in events {
        let lines = Arc::clone(&lines);
        assert_eq!(
            inbox.process(event.clone(), move |delivery| lines.take(delivery)).await.unwrap(),
            Outcome::Processed
        );
    }
}

/// One of each type, and what breaks lines, texts and numbers.
fn events() -> Vec<SendarixEvent> {
    let mut samples: Vec<_> = EventType::ALL.iter().map(|event_type| Sample::new(*event_type)).collect();
    let breaks = "a\u{85}b\u{2028}c\u{2029}d\ne\rf\u{b}g\u{c}h";
    let bounce = |data: &str| Sample::new(EventType::Bounce).data(data);
    samples.extend([
        Sample::new(EventType::Open).recipient(breaks).message_id("'; DROP TABLE events; --\"\\"),
        bounce(&format!(r#"{{"smtp_message":"{}","smtp_code":"550"}}"#, "x".repeat(100_000))),
        bounce(r#"{"smtp_code":1e400,"bounce_type":["hard"],"bounce_category":"NaN"}"#),
        bounce(r#"{"smtp_message":"a\u0000b\u2028","event_id":"another","data":{"event_id":"a third"}}"#),
        Sample::new(EventType::Click).data(r#"{"url":"=cmd|' /C calc'!A0","ip":"\ud83d\ude00"}"#),
        Sample::new(EventType::Delivered).data(r#"{"delivery_latency_ms":9223372036854775807}"#),
        Sample::new(EventType::Delivered).data(r#"{"delivery_latency_ms":9223372036854775808}"#),
        Sample::new(EventType::Delivered).data("a text"),
    ]);
    let mut bodies: Vec<Vec<u8>> = samples.iter().map(Sample::body).collect();
    // Half a surrogate pair, and white space between the parts.
    bodies.push(
        br#"{"event_id":"evt_half","event_type":"bounce","timestamp":"0001-01-01T00:00:00Z","message_id":"m","recipient":"r",
            "data":{"smtp_message":"\ud83d",
            "\ud83d":1,"smtp_code":550}}"#
            .to_vec(),
    );
    // A year that not every warehouse knows.
    bodies.push(
        br#"{"event_id":"evt_year_0","event_type":"open","timestamp":"0000-12-31T23:59:59Z","message_id":"m","recipient":"r"}"#
            .to_vec(),
    );
    bodies.into_iter().map(|body| SendarixEvent::decode(body).unwrap()).collect()
}

fn check(mut events: Vec<SendarixEvent>, rows: &[Value]) {
    events.sort_by(|a, b| a.event_id.cmp(&b.event_id));
    assert_eq!(rows.len(), events.len());
    for (event, row) in events.iter().zip(rows) {
        assert_eq!(row["event_id"], event.event_id);
        assert_eq!(row["event_type"], event.type_name());
        assert_eq!(row["message_id"], event.message_id);
        assert_eq!(row["recipient"], event.recipient);
        assert_eq!(row["is_permanent"], event.is_permanent());
        assert_eq!(row["suppression"].as_str(), event.suppression().map(|suppression| suppression.as_str()));
        assert_eq!(row["data"].as_str(), event.data());
        let at = row["at"].as_i64().map(|micros| micros.div_euclid(1_000_000));
        let is_known = event.event_id != "evt_year_0";
        assert_eq!(at, is_known.then_some(event.timestamp.unix_seconds()), "{}", event.event_id);
    }
    let half = rows.iter().find(|row| row["event_id"] == "evt_half").unwrap();
    assert_eq!((half["smtp_code"].as_i64(), half["smtp_message"].as_str()), (Some(550), None));
    let latency = rows.iter().filter_map(|row| row["delivery_latency_ms"].as_i64()).max();
    assert_eq!(latency, Some(i64::MAX));
}

#[tokio::test]
async fn a_warehouse_loads_flat_rows() {
    let (dir, events) = (TempDir::new(), events());
    write(JsonLines::builder(dir.path().join("events.jsonl")).flat(), &events).await;
    let text = std::fs::read_to_string(dir.path().join("events.jsonl")).unwrap();
    let breaks = |c: char| "\r\u{b}\u{c}\u{85}\u{2028}\u{2029}".contains(c);
    assert!(!text.contains(breaks), "no line has a break inside");
    check(events, &load(&dir.path().join("events.jsonl")));
}

#[tokio::test]
async fn a_warehouse_loads_compressed_files_and_each_event_once() {
    let (dir, events) = (TempDir::new(), events());
    let lines = JsonLines::builder(dir.path().join("events.jsonl")).flat().compressed();
    // An earlier process was stopped between two steps, and left a part.
    let left = dir.path().join("events.2026-01-01T00-00-00Z.jsonl");
    write(JsonLines::builder(&left).flat(), &events[..3]).await;
    std::fs::write(dir.path().join("events.2026-01-01T00-00-00Z.jsonl.gz.part"), b"half of it").unwrap();
    write(lines.max_bytes(1), &events[3..]).await;

    let names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    // Every file but the last, which still grows.
    let compressed = names.iter().filter(|name| name.ends_with(".jsonl.gz")).count();
    assert_eq!((compressed, names.len()), (events.len() - 3, events.len() - 2), "{names:?}");
    check(events, &load(&dir.path().join("*.jsonl*")));
}
