//! How many instructions an event takes, under callgrind: what must not regress, on a machine of whatever speed. Fails if it
//! is more than a twentieth above what is written here.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench instructions
//! ```
//!
//! Each figure is the difference between a run of many events and one of few, so that what happens once is left out. What
//! valgrind runs on has no instructions for SHA-256, so the signature, which costs some 20,000 there, is left out as well.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::process::{Command, ExitCode};

use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore};
use sendarix_webhooks::{Outcome, Receiver, SendarixEvent};
use sendarix_webhooks_benches::{Event, secret};

/// What is counted, and what it was when somebody last looked.
const STAGES: [(&str, i64); 4] = [("decode", 7_900), ("store", 3_100), ("accept", 14_900), ("forged", 1_470)];
const FEW: usize = 1_000;
const MANY: usize = 3_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // Within callgrind, this is called with a stage and a number.
    if let [_, stage, count] = args.as_slice() {
        run(stage, count.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let an_event = |stage: &str| (callgrind(stage, MANY) - callgrind(stage, FEW)) / i64::try_from(MANY - FEW).unwrap();
    let signature = an_event("signature");
    let mut worse = false;
    for (stage, last) in STAGES {
        let verified = matches!(stage, "accept" | "forged");
        let instructions = an_event(stage) - if verified { signature } else { 0 };
        worse |= instructions > last + last / 20;
        println!("{stage:<8}{instructions:>8} instructions, {last} when last looked at");
    }
    ExitCode::from(u8::from(worse))
}

/// Runs a stage for so many events; what it needs is there beforehand, and is the same for each number of them.
fn run(stage: &str, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let receiver = Receiver::builder(secret()).build().unwrap();
    let events: Vec<Event> = (0..MANY).map(Event::bounce).collect();
    let forged: Vec<Event> = (0..MANY).map(|id| Event::bounce(id).forged()).collect();
    let store = MemoryStore::new();
    let keys: Vec<EventKey> = (0..MANY).map(|id| EventKey::new("default", format!("evt_{id:012}"))).collect();
    let secret = secret();
    for ((event, forged), key) in events.iter().zip(&forged).zip(&keys).take(count) {
        match stage {
            "signature" => {
                black_box(secret.sign(&event.body));
            }
            "decode" => drop(SendarixEvent::decode(event.body.clone()).unwrap()),
            "store" => runtime.block_on(async {
                let (token, minute) = (ClaimToken::random(), std::time::Duration::from_secs(60));
                assert_eq!(store.claim(key, token, minute).await.unwrap(), Claim::Granted { attempt: 1 });
                assert!(store.complete(key, token, minute).await.unwrap());
            }),
            "accept" => {
                assert_eq!(runtime.block_on(event.deliver(&receiver).unwrap()).outcome(), Outcome::Processed);
            }
            "forged" => drop(forged.deliver(&receiver).unwrap_err()),
            _ => unreachable!("{stage}"),
        }
    }
}

fn callgrind(stage: &str, count: usize) -> i64 {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args([stage, &count.to_string()])
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{report}");
    let collected = report.lines().find_map(|line| line.split_once("Collected : ")).expect("a count");
    collected.1.trim().parse().unwrap()
}
