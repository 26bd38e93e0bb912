//! What 100,000 dead letters cost a running endpoint: the p99 of its answers while they are listed, filtered and redriven, against
//! the same endpoint at rest, and the memory that the process takes meanwhile. Rest and work take turns, since the disk has slow
//! minutes by itself: a database's checkpoint, say.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench letters
//! ```
//!
//! It starts its servers. Sender, endpoint, redriving and store share this machine. Each endpoint is a process that has not
//! written the letters itself, so that it has no memory to use again.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::routing::post;
use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters, FileDeadLetters, LetterFilter};
use sendarix_webhooks::store::{DedupStore, EventKey, MemoryStore};
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{Delivery, EventType, HandlerError, Inbox, Receiver, SendarixEvent, SendarixLayer};
use sendarix_webhooks_benches::Target::AtMost;
use sendarix_webhooks_benches::{Event, Rounds, row, secret, server};
use sendarix_webhooks_system_tests::store::Store;
use sendarix_webhooks_system_tests::{Backend, Kind, TempDir};
use tokio::task::{JoinSet, block_in_place};

const LETTERS: usize = 100_000;
const WRITERS: usize = 64;
/// Each sends an event every 20 ms: 200 a second, the rate of Sendarix's campaigns of 12,000 a minute.
const SENDERS: usize = 4;
const PERIOD: Duration = Duration::from_millis(20);
const AT_REST: Duration = Duration::from_secs(5);
/// The first lists, filters and counts all letters, and each of the others redrives its share.
const ROUNDS: usize = 11;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["--record", place] => runtime.block_on(record(place)),
        ["--measure", name, place] => runtime.block_on(async { measure(name, place).await }),
        _ => runtime.block_on(async {
            for kind in Kind::ALL {
                let backend = Backend::start(kind);
                in_processes(&format!("`{kind:?}Store`"), &backend.url());
            }
            let dir = TempDir::new();
            in_processes("`FileDeadLetters`", &format!("file:{}", dir.path().join("letters").display()));
        }),
    }
}

fn in_processes(name: &str, place: &str) {
    let run = |arguments: &[&str]| {
        let status = Command::new(std::env::current_exe().unwrap()).args(arguments).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    };
    run(&["--record", place]);
    run(&["--measure", name, place]);
}

/// The events and the letters of a place: a store's URL, or `file:PATH` for letters beside a memory.
fn open(place: &str) -> (Arc<dyn DedupStore>, Arc<dyn DeadLetters>) {
    if let Some(path) = place.strip_prefix("file:") {
        return (Arc::new(MemoryStore::new()), Arc::new(FileDeadLetters::open(path).unwrap()));
    }
    let events = place.parse::<Store>().unwrap().events();
    let letters = events.dead_letters().unwrap();
    (events, letters)
}

async fn measure(name: &str, place: &str) {
    let (store, letters) = open(place);
    let receiver = Receiver::builder(secret()).store(store).dead_letters(letters).build().unwrap();
    let route = post(|_: SendarixEvent| async {}).layer(SendarixLayer::new(receiver.clone()));
    let addr = server::serve(route).await;
    let inbox = receiver.inbox().clone();

    let before = peak_memory();
    let (mut rounds, mut redriven, mut took) = (Rounds::default(), 0, Duration::ZERO);
    for round in 0..ROUNDS {
        let rest = Senders::start(addr);
        tokio::time::sleep(AT_REST).await;
        let rest = rest.stop();
        let (senders, began) = (Senders::start(addr), Instant::now());
        match round {
            0 => look_through(&inbox).await,
            _ => redriven += redrive(&inbox, LETTERS / (ROUNDS - 1)).await,
        }
        took += began.elapsed();
        rounds.add([rest, senders.stop()]);
    }
    assert_eq!(redriven, LETTERS);
    let grown = (peak_memory() - before) as f64 / 1024.0;
    let [rest, busy] = [0, 1].map(|turn| rounds.seconds(turn) * 1000.0);
    println!("  {name}: p99 {rest:.1} ms at rest, {busy:.1} ms meanwhile; listed, counted and redriven in {took:.0?}");
    row(&format!("{name}, p99 while {LETTERS} letters are redriven"), "at rest", AtMost(2.0), rounds.ratio(1, 0));
    row("the same, growth of the process's peak memory, MiB", "at rest", AtMost(16.0), grown);
}

async fn record(place: &str) {
    let (_, letters) = open(place);
    let next = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (letters, next) = (Arc::clone(&letters), Arc::clone(&next));
        writers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= LETTERS {
                    return;
                }
                let id = format!("letter_{number:06}");
                let body = Sample::new(EventType::Bounce).event_id(id.as_str()).body();
                let now = std::time::SystemTime::now().into();
                let letter = DeadLetter::new(EventKey::new("default", &id), body, DeadLetterReason::Failed, now);
                letters.record(&letter).await.unwrap();
            }
        });
    }
    writers.join_all().await;
}

/// What an operator does first: list, filter, count.
async fn look_through(inbox: &Inbox) {
    let mut after: Option<String> = None;
    let mut listed = 0;
    loop {
        let page = inbox.list_letters(after.as_deref(), 100).await.unwrap();
        let Some(Ok(last)) = page.last() else { break };
        after = Some(last.key.event_id().to_owned());
        listed += page.iter().flatten().filter(|letter| filter().matches(letter)).count();
    }
    assert_eq!(listed, LETTERS);
    assert_eq!(inbox.count_letters().await.unwrap().values().sum::<u64>(), LETTERS as u64);
}

/// Redrives this many, and returns how many were redriven.
async fn redrive(inbox: &Inbox, letters: usize) -> usize {
    let handler = |_: Delivery| async { Ok::<(), HandlerError>(()) };
    let mut redrives = inbox.redrive_all(handler).unwrap().only(filter()).at_most(letters as u64);
    let mut redriven = 0;
    while let Some(letter) = redrives.next().await.unwrap() {
        letter.result.unwrap();
        redriven += 1;
    }
    redriven
}

fn filter() -> LetterFilter {
    LetterFilter::new().event_type("bounce")
}

/// Connections that send events at a steady pace, and time the answers.
struct Senders {
    threads: Vec<thread::JoinHandle<Vec<Duration>>>,
    stop: Arc<AtomicBool>,
}

impl Senders {
    fn start(addr: SocketAddr) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let stop = Arc::new(AtomicBool::new(false));
        let send = |stop: Arc<AtomicBool>| {
            move || {
                let mut stream = TcpStream::connect(addr).unwrap();
                stream.set_nodelay(true).unwrap();
                let (mut times, mut due) = (Vec::new(), Instant::now());
                while !stop.load(Ordering::Relaxed) {
                    let request = Event::bounce(NEXT.fetch_add(1, Ordering::Relaxed)).request();
                    // From when it was due: a slow answer delays those behind it.
                    due += PERIOD;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    stream.write_all(&request).unwrap();
                    let mut answer = [0; 1024];
                    let read = stream.read(&mut answer).unwrap();
                    assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
                    times.push(due.elapsed());
                }
                times
            }
        };
        let threads = (0..SENDERS).map(|_| thread::spawn(send(Arc::clone(&stop)))).collect();
        Self { threads, stop }
    }

    /// Returns the p99.
    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let join = |thread: thread::JoinHandle<Vec<Duration>>| block_in_place(|| thread.join().unwrap());
        let mut times: Vec<Duration> = self.threads.into_iter().flat_map(join).collect();
        times.sort_unstable();
        times[times.len() * 99 / 100]
    }
}

/// The most memory that this process has had in RAM, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}
