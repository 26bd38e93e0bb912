//! The examples as processes: what a new user runs first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeSet, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use sendarix_webhooks::mail::Mail;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{EventType, SigningSecret, SqliteStore};
use sendarix_webhooks_system_tests::{Instance, PATIENCE, SECRET, TempDir, eventually, program};
use sendarix_webhooks_test_support::{Connection, Post};
use tokio::task::JoinSet;

/// The servers that need nothing beside themselves.
const SERVERS: [&str; 4] = ["axum-example", "actix-example", "hyper-example", "production-example"];

fn start(name: &str, place: &TempDir) -> Instance {
    let mut command = Command::new(program(name));
    command.env("LISTEN", "127.0.0.1:0").current_dir(place.path());
    Instance::of_command(name, &mut command, &[])
}

/// The command that it prints, as it is printed.
fn first_event(server: &Instance) -> Output {
    let command = server.stdout().into_iter().find(|line| line.trim_start().starts_with("curl ")).unwrap();
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn address(server: &Instance) -> SocketAddr {
    server.url().split('/').nth(2).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_minute() {
    for (name, status, line) in [
        ("axum-example", "200", "delivered: msg_"),
        ("actix-example", "204", "delivered: msg_"),
        ("hyper-example", "200", "delivered: msg_"),
        ("shared-store-example", "200", "delivered: msg_"),
        ("transaction-example", "200", "user@example.com has 1"),
        ("job-queue-example", "200", "worked on delivered for user@example.com"),
    ] {
        let place = TempDir::new();
        let server = start(name, &place);
        eventually("it prints the command", || async { server.stdout().iter().any(|line| line.contains("curl ")) })
            .await;
        let answer = String::from_utf8(first_event(&server).stdout).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
        let copy = String::from_utf8(first_event(&server).stdout).unwrap();
        assert!(copy.starts_with("HTTP/1.1 200 "), "{name}: {copy}");
        let handled = || async { server.stdout().iter().any(|printed| printed.starts_with(line)) };
        eventually("it has handled the event", handled).await;
        let lines = server.terminate();
        assert_eq!(lines.iter().filter(|printed| printed.starts_with(line)).count(), 1, "{name}: {lines:?}");
    }
}

fn body(event_type: EventType, message: &str, recipient: &str) -> Vec<u8> {
    Sample::new(event_type).message_id(message).recipient(recipient).body()
}

async fn get(server: &Instance, path: &str) -> String {
    reqwest::get(format!("http://{}{path}", address(server))).await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_bounces_is_paused_and_a_chat_is_told() {
    let (told, mut texts) = tokio::sync::mpsc::unbounded_channel();
    let chat = axum::Router::new().route(
        "/hooks/secret",
        axum::routing::post(move |text: String| {
            told.send(text).unwrap();
            std::future::ready(())
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let chat_url = format!("http://{}/hooks/secret", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, chat).await });
    let place = TempDir::new();
    let mut command = Command::new(program("campaign-alerts-example"));
    command.env("LISTEN", "127.0.0.1:0").env("CHAT_WEBHOOK_URL", chat_url).current_dir(place.path());
    let server = Instance::of_command("campaign-alerts-example", &mut command, &[]);
    for number in 0..20 {
        let campaign = if number % 2 == 0 { "autumn" } else { "spring" };
        server.send_body(&body(EventType::Delivered, &format!("{campaign}.{number}"), "a@example.com")).await;
    }
    for number in 20..30 {
        server.send_body(&body(EventType::Bounce, &format!("spring.{number}"), "b@example.com")).await;
    }
    let text = tokio::time::timeout(PATIENCE, texts.recv()).await.unwrap().unwrap();
    let expected =
        r#"{"text":"spring: 50.00 % of the messages bounced within 3600s; the limit is 5 %. The campaign is paused."}"#;
    assert_eq!(text, expected);
    assert_eq!(
        (&*get(&server, "/campaigns/spring").await, &*get(&server, "/campaigns/autumn").await),
        ("paused", "running")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_is_scored_by_what_it_opened_and_clicked() {
    let place = TempDir::new();
    let server = start("lead-scores-example", &place);
    for (event_type, message) in [
        (EventType::Open, "msg_1"),
        (EventType::Open, "msg_1"),
        (EventType::Click, "msg_1"),
        (EventType::Open, "msg_2"),
    ] {
        server.send_body(&body(event_type, message, "Ann@Example.com")).await;
    }
    assert_eq!(get(&server, "/leads/ann@example.com").await, "5\n");
    server.terminate();
    let server = start("lead-scores-example", &place);
    assert_eq!(get(&server, "/leads/ann@example.com").await, "5\n", "also after a restart");
    server.send_body(&body(EventType::Complaint, "msg_2", "ann@example.com")).await;
    assert_eq!(get(&server, "/leads/ann@example.com").await, "0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_event_touches_no_real_data() {
    let place = TempDir::new();
    let mut command = Command::new(program("staging-example"));
    command.env("LISTEN", "127.0.0.1:0").env("SENDARIX_STAGING_SECRET", "sandbox").current_dir(place.path());
    let server = Instance::of_command("staging-example", &mut command, &[]);
    let send = async |path: &str, secret: &str, recipient: &str| {
        let body = body(EventType::Bounce, "msg_1", recipient);
        let mut request = reqwest::Client::new().post(format!("http://{}{path}", address(&server)));
        for (name, value) in signed_headers(&SigningSecret::new(secret).unwrap(), &body, SystemTime::now()) {
            request = request.header(name, value);
        }
        request.body(body).send().await.unwrap().status().as_u16()
    };
    let (production, staging) = ("/webhooks/sendarix", "/webhooks/sendarix-staging");
    assert_eq!(send(production, "sandbox", "a@example.com").await, 401);
    assert_eq!(send(staging, SECRET, "a@example.com").await, 401);
    assert_eq!(send(staging, "sandbox", "test@example.com").await, 200);
    assert_eq!(send(production, SECRET, "real@example.com").await, 200);
    // The same events to both: each handles them, since they share nothing.
    let mut simulate = Command::new(program("sendarix"));
    simulate.env("SENDARIX_WEBHOOK_SECRET", SECRET).env("SENDARIX_STAGING_SECRET", "sandbox");
    let [url, other] = [production, staging].map(|path| format!("http://{}{path}", address(&server)));
    let also = format!("{other}=SENDARIX_STAGING_SECRET");
    simulate.args(["simulate", "--messages", "5", "--seed", "7", "--url", &url, "--also", &also]);
    let output = tokio::task::block_in_place(|| simulate.output()).unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = server.terminate();
    let of = |name: &str| {
        lines.iter().filter_map(|line| line.strip_prefix(name)).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let simulated = |name: &str| of(name).into_iter().filter(|line| !line.contains("msg_1 ")).collect::<Vec<_>>();
    assert!(simulated("production: ").len() >= 15 && simulated("production: ") == simulated("staging: "), "{lines:?}");
    assert!(lines.iter().any(|line| line == "staging: bounce msg_1 to test@example.com"), "{lines:?}");
    for (name, suppressed, other) in
        [("production", "real@example.com", "test@example.com"), ("staging", "test@example.com", "real@example.com")]
    {
        let mail = Mail::new(SqliteStore::open(place.path().join(format!("{name}.sqlite"))).unwrap());
        assert!(mail.is_suppressed(suppressed).await.unwrap(), "{name}");
        assert!(!mail.is_suppressed(other).await.unwrap(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_terminated_under_load_loses_nothing_that_it_acknowledged() {
    for name in SERVERS {
        let place = TempDir::new();
        let server = start(name, &place);
        let addr = address(&server);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut senders = JoinSet::new();
        for _ in 0..8 {
            let acknowledged = Arc::clone(&acknowledged);
            senders.spawn(async move {
                let (mut connection, mut ids) = (Connection::open(addr).await, Vec::new());
                for number in 0.. {
                    let id = format!("msg_{}_{number}", connection.0.local_addr().unwrap().port());
                    let sample = Sample::new(EventType::Open).message_id(&id);
                    let post = Post::signed_by(&SigningSecret::new(SECRET).unwrap(), &sample.body());
                    let written = connection.try_write(&post.bytes()).await;
                    match if written { connection.try_read().await } else { None } {
                        Some(reply) if matches!(reply.status, 200 | 204) => ids.push(id),
                        _ => break,
                    }
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                ids
            });
        }
        eventually("it is busy", || async { acknowledged.load(Ordering::SeqCst) > 500 }).await;
        let lines = server.terminate();
        let handled: Vec<&str> =
            lines.iter().filter_map(|line| line.strip_prefix("open: ")?.split(' ').next()).collect();
        let ids: HashSet<&str> = handled.iter().copied().collect();
        assert_eq!(ids.len(), handled.len(), "{name}: each once");
        for id in senders.join_all().await.into_iter().flatten() {
            assert!(ids.contains(id.as_str()), "{name}: {id} is lost");
        }
    }
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for name in SERVERS {
        let place = TempDir::new();
        let run = |secret: &str, listen: &str| {
            let mut command = Command::new(program(name));
            command.env("SENDARIX_WEBHOOK_SECRET", secret).env("LISTEN", listen).current_dir(place.path());
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{name}");
            String::from_utf8(output.stderr).unwrap()
        };
        assert!(run("", "127.0.0.1:0").contains("SENDARIX_WEBHOOK_SECRET is not set"), "{name}");
        assert!(run("secret\n", "127.0.0.1:0").contains("white space, a line break"), "{name}");
        assert!(run("a secret", &taken).contains("in use"), "{name}");
        let letters = place.path().join(format!("{name}.dead-letters.jsonl"));
        let _ = std::fs::remove_file(&letters);
        std::fs::create_dir(letters).unwrap();
        assert!(run("a secret", "127.0.0.1:0").contains("dead-letters.jsonl"), "{name}");
    }
}

/// However little of a head they send.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_for_production_lets_no_client_hold_a_connection_for_ever() {
    let place = TempDir::new();
    let server = start("production-example", &place);
    let connect = || {
        let stream = TcpStream::connect(address(&server)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    // A client that is refused does not stay.
    let mut refused = connect();
    refused.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("connection: close"), "{answer}");
    let held = ["", "P", "PRI * HTTP/2.0\r\n", "POST / HTTP/1.1\r\nhost: a\r\n"].map(|part| {
        let mut stream = connect();
        stream.write_all(part.as_bytes()).unwrap();
        (part, stream)
    });
    for (part, mut stream) in held {
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let was_reset = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(ended.is_ok() || ended.is_err_and(was_reset), "{part:?}");
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{part:?}");
    }
}
