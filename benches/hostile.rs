//! Real events under attack: their latency, and the bound of the memory.
//!
//! ```sh
//! ulimit -n 20000
//! cargo bench --package sendarix-webhooks-benches --bench hostile
//! ```
//!
//! The server is a separate process, `examples/production`. Real events come at 100 a second on
//! connections that stay open, in rounds: one in peace, one under attack, one in peace, and so on. Attackers and senders share
//! the machine with the server. Fails if the p99 under any attack is more than twice that in peace, in the median of the
//! rounds, or if the peak of the server's memory grows by more than its bound.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    missing_docs
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use clap::Parser;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{EventType, SigningSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

#[derive(Parser)]
struct Options {
    /// Rounds in peace and under attack, for each attack
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// As cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

/// The receiver's, unless it is told otherwise.
const BODY_LIMIT: usize = 256 * 1024;

/// That of `examples/production`.
const MAX_BUFFER: usize = 16 * 1024;

const PATH: &str = "/webhooks/sendarix";
const SECRET: &str = "whsec_0123456789abcdef";

const REAL_PER_SECOND: u64 = 100;
const ROUND: Duration = Duration::from_secs(4);
const MOST: f64 = 2.0;

/// What an attacker does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Attack {
    /// 10,000 connections that send nothing.
    Idle,
    /// 1,000 connections that send a head byte by byte.
    SlowHeads,
    /// 1,000 connections that send a body byte by byte, after a head that could be true.
    SlowBodies,
    /// 1,000 bodies of the greatest length that is read, up to their last byte.
    HeldBodies,
    /// 1,000 requests a second with a forged signature, ten to each that is real.
    Forged,
}

const ATTACKS: [Attack; 5] = [Attack::Idle, Attack::SlowHeads, Attack::SlowBodies, Attack::HeldBodies, Attack::Forged];

fn secret() -> SigningSecret {
    SigningSecret::new(SECRET).unwrap()
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(attack(options.rounds))
}

async fn attack(rounds: usize) -> ExitCode {
    println!("latency of real events, in ms, and what the server's memory grew by, in MiB; {rounds} rounds");
    println!("| attack | p50 in peace | p50 | p99 in peace | p99 | p99 ratio | memory | its bound |");
    println!("|---|---|---|---|---|---|---|---|");
    Server::build();
    let mut holds = true;
    for attack in ATTACKS {
        // A new one each time: the allocator keeps what it has once been given.
        let server = Server::start();
        real_events(&server.address).await;
        let mut measured = Vec::new();
        let before = server.peak_memory();
        for _ in 0..rounds {
            let peace = real_events(&server.address).await;
            let attackers = begin(attack, &server.address).await;
            let war = real_events(&server.address).await;
            drop(attackers);
            // Until the server has noticed.
            sleep(Duration::from_secs(1)).await;
            measured.push((peace, war));
        }
        let median = |of: &dyn Fn(&(Latency, Latency)) -> f64| {
            let mut all: Vec<f64> = measured.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap()
        };
        let ratio = median(&|(peace, war)| war.p99 / peace.p99);
        let (memory, bound) = (server.peak_memory() - before, attack.bound_mib());
        holds &= ratio <= MOST && memory <= bound;
        println!(
            "| {attack:?} | {:.2} | {:.2} | {:.2} | {:.2} | {ratio:.2} | {memory:.0} | {bound:.0} |",
            median(&|(peace, _)| peace.p50),
            median(&|(_, war)| war.p50),
            median(&|(peace, _)| peace.p99),
            median(&|(_, war)| war.p99),
        );
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Attack {
    fn connections(self) -> usize {
        match self {
            Self::Idle => 10_000,
            Self::SlowHeads | Self::SlowBodies | Self::HeldBodies => 1000,
            Self::Forged => 32,
        }
    }

    /// What its connections may take at most: each its buffer, 16 KiB for the rest, and its body, which grows by copying and
    /// so leaves as much again with the allocator.
    fn bound_mib(self) -> f64 {
        let body = if matches!(self, Self::Idle | Self::SlowHeads) { 0 } else { 2 * BODY_LIMIT };
        (self.connections() * (MAX_BUFFER + 16 * 1024 + body)) as f64 / (1024.0 * 1024.0)
    }
}

/// The server's process, killed when it is dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let program = std::env::current_exe().unwrap();
        let program = program.parent().unwrap().parent().unwrap().join("production-example");
        let mut command = Command::new(program);
        command.env("SENDARIX_WEBHOOK_SECRET", SECRET).env("LISTEN", "127.0.0.1:0").current_dir(std::env::temp_dir());
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url =
            lines.find_map(|line| line.split_once("listening on http://").map(|(_, url)| url.to_owned())).unwrap();
        // It prints a line for each event.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address: url.trim_end_matches(PATH).to_owned() }
    }

    /// As it is now, with the profile of this bench.
    fn build() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--release", "--package", "production-example"]);
        assert!(build.status().unwrap().success(), "examples/production can be built");
    }

    /// The most that has been in memory, in MiB.
    fn peak_memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Latency {
    p50: f64,
    p99: f64,
}

/// Sends real events for one round, each at its time, and measures from that time on.
async fn real_events(address: &str) -> Latency {
    let client = reqwest::Client::new();
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(REAL_PER_SECOND).unwrap());
    let mut answers = JoinSet::new();
    let events = ROUND.as_secs() * REAL_PER_SECOND;
    for number in 0..events {
        let due = ticks.tick().await;
        let body = Sample::new(EventType::Bounce).body();
        let mut post = client.post(format!("http://{address}{PATH}"));
        for (name, value) in signed_headers(&secret(), &body, SystemTime::now()) {
            post = post.header(name, value);
        }
        answers.spawn(async move {
            let response = post.body(body).send().await.unwrap();
            assert_eq!(response.status(), 200);
            // The first ones open connections.
            (number > events / 10).then(|| due.elapsed().as_secs_f64() * 1000.0)
        });
    }
    let mut times: Vec<f64> = answers.join_all().await.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
        let rank = (times.len() as f64 * share) as usize;
        times.get(rank).copied().unwrap()
    };
    Latency { p50: at(0.5), p99: at(0.99) }
}

/// Begins an attack, which goes on until it is dropped, and returns once all of it is there.
async fn begin(attack: Attack, address: &str) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    let ready = Arc::new(AtomicUsize::new(0));
    for number in 0..attack.connections() {
        let (address, ready) = (address.to_owned(), Arc::clone(&ready));
        attackers.spawn(async move {
            if attack == Attack::HeldBodies {
                // Spread over the time until they are cut off.
                sleep(Duration::from_millis(number as u64 * 5)).await;
            }
            let mut is_first = true;
            // What is cut off begins anew.
            loop {
                let Ok(stream) = TcpStream::connect(&address).await else {
                    sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let began = || {
                    if std::mem::take(&mut is_first) {
                        ready.fetch_add(1, Ordering::Relaxed);
                    }
                };
                let _ = one_connection(attack, stream, number, began).await;
            }
        });
    }
    let all = async {
        while ready.load(Ordering::Relaxed) < attack.connections() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), all)
        .await
        .expect("every attacker has a connection; `ulimit -n` must be above 11000");
    attackers
}

async fn one_connection(
    attack: Attack,
    mut stream: TcpStream,
    number: usize,
    began: impl FnOnce(),
) -> std::io::Result<()> {
    let mut nothing = [0; 1024];
    match attack {
        Attack::Idle => {
            began();
            let _ = stream.read(&mut nothing).await?;
        }
        Attack::SlowHeads => {
            began();
            for byte in b"POST /webhooks/sendarix HTTP/1.1\r\nhost: a\r\nx-sendarix-signature: "
                .iter()
                .chain(std::iter::repeat(&b'0'))
            {
                stream.write_all(&[*byte]).await?;
                sleep(Duration::from_secs(1)).await;
            }
        }
        Attack::SlowBodies => {
            stream.write_all(head(BODY_LIMIT).as_bytes()).await?;
            began();
            loop {
                stream.write_all(b" ").await?;
                sleep(Duration::from_secs(1)).await;
            }
        }
        Attack::HeldBodies => {
            stream.write_all(head(BODY_LIMIT).as_bytes()).await?;
            stream.write_all(&vec![b' '; BODY_LIMIT - 1]).await?;
            began();
            let _ = stream.read(&mut nothing).await?;
        }
        Attack::Forged => {
            began();
            let connections = Attack::Forged.connections();
            let mut ticks = interval(Duration::from_secs(1) * u32::try_from(connections).unwrap() / 1000);
            sleep(Duration::from_millis(number as u64)).await;
            let body = Sample::new(EventType::Bounce).body();
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(3600) {
                ticks.tick().await;
                stream.write_all(head(body.len()).as_bytes()).await?;
                stream.write_all(&body).await?;
                if stream.read(&mut nothing).await? == 0 {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Of now, and not signed.
fn head(length: usize) -> String {
    let [(_, _), (name, now)] = signed_headers(&secret(), b"", SystemTime::now());
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n{name}: {now}\r\nx-sendarix-signature: {}\r\n\r\n",
        "0".repeat(64)
    )
}
