//! The examples as processes: what a newcomer runs first.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sendarix_webhooks::EventType;
use sendarix_webhooks::testing::Sample;
use tokio::task::JoinSet;

use crate::dead_letter_file::TempFile;
use crate::support::{Connection, PATIENCE, Post, eventually};

/// Cargo builds the examples beside the tests.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built; `cargo test` without a filter of targets builds it", path.display());
    path
}

const SERVERS: [&str; 4] = ["axum_server", "actix_server", "hyper_server", "production_server"];

/// A running server, killed when it is dropped.
pub struct Server {
    process: Child,
    pub url: String,
    secret: String,
    stderr: mpsc::Receiver<String>,
}

impl Server {
    pub fn start(name: &str, dead_letters: &Path, secret: Option<&str>) -> Self {
        let mut command = Command::new(example(name));
        command.args(["--listen", "127.0.0.1:0", "--dead-letters"]).arg(dead_letters);
        command.env_remove("SENDARIX_WEBHOOK_SECRET").env_remove("SENDARIX_WEBHOOK_SECRET_PREVIOUS");
        command.envs(secret.map(|secret| ("SENDARIX_WEBHOOK_SECRET", secret)));
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, stderr) = mpsc::channel();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut server = Self { process, url: String::new(), secret: String::new(), stderr };
        server.url = server.stderr_line("listening on ").split_once("listening on ").unwrap().1.to_owned();
        // The command that it prints is the one that is run.
        let command = server.stderr_line("cargo run --example trigger -- all --url ");
        assert!(command.ends_with(&server.url), "{command}");
        let printed =
            command.trim().strip_prefix("SENDARIX_WEBHOOK_SECRET=").map(|rest| rest.split(' ').next().unwrap());
        server.secret = secret.or(printed).unwrap().to_owned();
        server
    }

    fn stderr_line(&self, part: &str) -> String {
        loop {
            let line = self.stderr.recv_timeout(Duration::from_secs(60)).expect("a line on standard error");
            if line.contains(part) {
                return line;
            }
        }
    }

    fn trigger(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(example("trigger"));
        command.args(["--url", &self.url]).args(arguments).env("SENDARIX_WEBHOOK_SECRET", &self.secret);
        command.output().unwrap()
    }

    fn signal(&self) -> bool {
        let id = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &id]).stderr(Stdio::null()).status().unwrap().success()
    }

    /// Ends it with SIGTERM, and returns what it wrote to standard output.
    pub fn terminate(mut self) -> String {
        assert!(self.signal());
        let mut stdout = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
        stdout
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_two_minute_start() {
    for name in SERVERS {
        // actix-web answers 204 for a handler that returns nothing.
        let success = if name == "actix_server" { "204 " } else { "200 " };
        let file = TempFile::new("two-minutes");
        let server = Server::start(name, file.path(), None);
        let all = server.trigger(&["all"]);
        assert!(all.status.success(), "{name}: {all:?}");
        assert_eq!(stdout(&all).lines().filter(|line| line.starts_with(success)).count(), 9, "{name}: {all:?}");
        let ids: Vec<String> = stdout(&all).lines().map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect();
        let handled = server.terminate();
        let lines: Vec<Vec<&str>> = handled.lines().map(|line| line.split(' ').collect()).collect();
        assert_eq!(lines.len(), 9, "{name}: {handled}");
        for (line, id) in lines.iter().zip(ids) {
            assert!(matches!(line[..], ["handled", _, event_id, _, "user@example.com"] if event_id == id), "{line:?}");
        }
    }
}

#[test]
fn a_server_that_has_just_started_ends_well() {
    for name in SERVERS {
        let file = TempFile::new("at-once");
        for _ in 0..20 {
            assert_eq!(Server::start(name, file.path(), None).terminate(), "");
        }
    }
}

#[test]
fn a_server_that_is_told_twice_ends_at_once() {
    for name in SERVERS {
        let file = TempFile::new("twice");
        let mut server = Server::start(name, file.path(), Some("a secret for tests"));
        // A body that does not come would hold up the drain until its time limit.
        let head = Post { body: Vec::new(), ..Post::signed(&Sample::new(EventType::Open).body()) };
        let mut stalled = std::net::TcpStream::connect(server.url.split('/').nth(2).unwrap()).unwrap();
        stalled.set_read_timeout(Some(PATIENCE)).unwrap();
        stalled.write_all(&head.with("expect", "100-continue").bytes()).unwrap();
        let mut asked = [0; 25];
        stalled.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n", "{name}");
        while server.process.try_wait().unwrap().is_none() {
            server.signal();
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(server.process.wait().unwrap().code(), Some(1), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_terminated_under_load_loses_nothing_that_it_acknowledged() {
    for name in SERVERS {
        let file = TempFile::new("under-load");
        let server = Server::start(name, file.path(), Some("a secret for tests"));
        let addr: SocketAddr = server.url.split('/').nth(2).unwrap().parse().unwrap();
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut senders = JoinSet::new();
        for _ in 0..8 {
            let acknowledged = Arc::clone(&acknowledged);
            senders.spawn(async move {
                let (mut connection, mut ids) = (Connection::open(addr).await, Vec::new());
                for number in 0.. {
                    let id = format!("evt_{}_{number}", connection.0.local_addr().unwrap().port());
                    let post = Post::signed(&Sample::new(EventType::Open).event_id(&id).body());
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
        eventually("it is busy", || acknowledged.load(Ordering::SeqCst) > 500).await;
        let handled = tokio::task::spawn_blocking(|| server.terminate()).await.unwrap();
        let lines: Vec<&str> = handled.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
        let ids: HashSet<&str> = lines.iter().copied().collect();
        assert_eq!(ids.len(), lines.len(), "{name}: each once");
        for id in senders.join_all().await.into_iter().flatten() {
            assert!(ids.contains(id.as_str()), "{name}: {id} is lost");
        }
    }
}

#[test]
fn trigger_can_do_everything_that_a_receiver_must_stand() {
    let file = TempFile::new("trigger");
    let server = Server::start("axum_server", file.path(), Some("a secret of our own"));
    let first = |arguments: &[&str]| stdout(&server.trigger(arguments)).lines().next().unwrap().to_owned();
    assert!(first(&["bounce", "--event-id", "evt_mine"]).starts_with("200 bounce evt_mine "));
    assert!(first(&["bounce", "--event-id", "evt_mine"]).ends_with("already processed"));
    assert!(first(&["open", "--tamper"]).starts_with("401 "));
    assert!(first(&["open", "--stale"]).contains("the timestamp is too old"));

    let body = TempFile::new("body");
    std::fs::write(body.path(), b"not an event\n").unwrap();
    let kept = first(&["--body", body.path().to_str().unwrap()]);
    assert!(kept.starts_with("200 13 bytes ") && kept.ends_with("acknowledged without processing"), "{kept}");
    assert!(std::fs::read_to_string(file.path()).unwrap().contains("not an event"));

    let many = server.trigger(&["all", "--count", "20", "--duplicates", "3", "--concurrency", "8"]);
    let summary = stdout(&many);
    assert!(summary.contains("180 × 200 \n") && summary.contains("720 requests in "), "{summary}");
    assert!(summary.contains("latency in ms: p50 "), "{summary}");

    let nowhere = server.trigger(&["open", "--url", "http://127.0.0.1:1/"]);
    assert_eq!((nowhere.status.code(), stdout(&nowhere).starts_with("no answer open evt_")), (Some(1), true));
    let unknown = server.trigger(&["teleported"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("or all"), "{unknown:?}");

    let handled = server.terminate();
    assert_eq!(handled.lines().count(), 1 + 180, "{handled}");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    SERVERS.into_iter().for_each(assert_says_why);
}

fn assert_says_why(name: &str) {
    let run = |environment: Option<&str>, arguments: &[&str]| {
        let mut command = Command::new(example(name));
        command.env_remove("SENDARIX_WEBHOOK_SECRET").args(["--listen", "127.0.0.1:0"]).args(arguments);
        let output = command.envs(environment.map(|secret| ("SENDARIX_WEBHOOK_SECRET", secret))).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(Some(""), &[]).contains("SENDARIX_WEBHOOK_SECRET is not set"));
    assert!(run(Some("secret\n"), &[]).contains("white space, a line break"));
    assert!(run(None, &["--dead-letters", "/nonexistent/letters"]).contains("/nonexistent/letters"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(run(None, &["--listen", &address]).contains(&address));
}

/// However little of a head they send.
#[test]
fn the_server_for_production_lets_nobody_hold_a_connection_for_ever() {
    let file = TempFile::new("held");
    let server = Server::start("production_server", file.path(), None);
    // A client that is refused does not stay.
    let mut refused = std::net::TcpStream::connect(server.url.split('/').nth(2).unwrap()).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    refused.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("connection: close"), "{answer}");
    let held = ["", "P", "PRI * HTTP/2.0\r\n", "POST / HTTP/1.1\r\nhost: a\r\n"].map(|part| {
        let mut stream = std::net::TcpStream::connect(server.url.split('/').nth(2).unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(part.as_bytes()).unwrap();
        (part, stream)
    });
    for (part, mut stream) in held {
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(
            ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
            "{part:?}"
        );
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{part:?}");
    }
}
