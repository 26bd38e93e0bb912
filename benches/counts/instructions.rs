//! How many instructions an event takes, under callgrind: what must not regress, on a machine of whatever speed. Fails if it
//! is more than a twentieth above what is written here.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-counts --bench instructions
//! ```
//!
//! Each figure is the difference between a run of many events and one of few, so that what happens once is left out. The
//! processor that valgrind imitates has no instructions for SHA-256, so the signature, some 20,000 there, is left out as well.
//! Code that the compiler has put into a function is counted as that function's.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::collections::HashMap;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, MemoryStore};
use sendarix_webhooks::{Outcome, Receiver, SendarixEvent};
use sendarix_webhooks_counts::{Event, secret};

/// What is counted, and what it was at the last look.
const STAGES: [(&str, i64); 4] = [("decode", 9_160), ("store", 2_140), ("accept", 15_380), ("forged", 1_640)];
const FEW: usize = 1_000;
const MANY: usize = 3_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // Within callgrind, this is called with a stage and a number.
    if let [_, stage, count] = args.as_slice() {
        run(stage, count.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let signature = an_event("signature");
    let mut worse = false;
    let mut accept = Profile::new();
    for (stage, last) in STAGES {
        let mut profile = an_event(stage);
        if matches!(stage, "accept" | "forged") {
            signature.iter().for_each(|(owner, count)| *profile.entry(owner.clone()).or_default() -= count);
        }
        let instructions: i64 = profile.values().sum();
        worse |= instructions > last + last / 20;
        println!("{stage:<8}{instructions:>8} instructions, {last} when last looked at");
        if stage == "accept" {
            accept = profile;
        }
    }
    println!("of an accepted event");
    let mut owners: Vec<(String, i64)> = accept.into_iter().filter(|(_, count)| *count >= 100).collect();
    owners.sort_unstable_by_key(|(_, count)| -count);
    for (owner, count) in owners {
        println!("{count:>8} in {owner}");
    }
    ExitCode::from(u8::from(worse))
}

/// What one event more costs.
fn an_event(stage: &str) -> Profile {
    let few = callgrind(stage, FEW);
    let more = |owner: &str, count: i64| (count - few.get(owner).unwrap_or(&0)) / i64::try_from(MANY - FEW).unwrap();
    callgrind(stage, MANY).into_iter().map(|(owner, count)| (owner.clone(), more(&owner, count))).collect()
}

/// Runs a stage for this many events; what it needs is there beforehand, and is the same for each number of them.
fn run(stage: &str, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let receiver = Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap();
    let events: Vec<Event> = (0..MANY).map(Event::bounce).collect();
    let forged: Vec<Event> = (0..MANY).map(|id| Event::bounce(id).forged()).collect();
    let store = MemoryStore::new();
    let ids: Vec<String> = (0..MANY).map(|id| format!("evt_{id:012}")).collect();
    let secret = secret();
    for ((event, forged), id) in events.iter().zip(&forged).zip(&ids).take(count) {
        match stage {
            "signature" => {
                black_box(secret.sign(&event.body));
            }
            "decode" => drop(SendarixEvent::decode(event.body.clone()).unwrap()),
            "store" => runtime.block_on(async {
                let key = EventKey::new("default", id);
                let (token, minute) = (ClaimToken::random(), std::time::Duration::from_secs(60));
                assert_eq!(store.claim(&key, token, minute).await.unwrap(), Claim::Granted { attempt: 1 });
                assert!(store.complete(&key, token, minute).await.unwrap());
            }),
            "accept" => {
                assert_eq!(runtime.block_on(event.deliver(&receiver).unwrap()).outcome(), Outcome::Processed);
            }
            "forged" => drop(forged.deliver(&receiver).unwrap_err()),
            _ => unreachable!("{stage}"),
        }
    }
}

/// The instructions of each owner of source files.
type Profile = HashMap<String, i64>;

/// Runs a stage for this many events under callgrind.
fn callgrind(stage: &str, count: usize) -> Profile {
    let output = std::env::temp_dir().join(format!("sendarix-callgrind-{}", std::process::id()));
    let run = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(std::env::current_exe().unwrap())
        .args([stage, &count.to_string()])
        .output()
        .expect("valgrind is installed");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let profile = read(&std::fs::read_to_string(&output).unwrap());
    std::fs::remove_file(output).unwrap();
    profile
}

/// Reads callgrind's format: a line that names a function's file, by its number alone after the first time, and below it
/// lines with what each of its parts cost. The line after `calls=` has what a call cost, which is counted where it went.
fn read(output: &str) -> Profile {
    let (mut profile, mut files, mut file) = (Profile::new(), HashMap::new(), "");
    let mut lines = output.lines().skip_while(|line| !line.starts_with("fl="));
    while let Some(line) = lines.next() {
        if let Some((key @ ("fl" | "fi" | "fe" | "cfi" | "cfl"), named)) = line.split_once('=') {
            let (number, name) = named.split_once(' ').unwrap_or((named, ""));
            let name = *files.entry(number).or_insert(name);
            // The others are of code that the compiler has put into the function, and of functions that it calls.
            if key == "fl" {
                file = name;
            }
        } else if line.starts_with("calls=") {
            lines.next();
        } else if let Some((_, cost)) = line.split_once(' ').filter(|_| !line.contains('=') && !line.contains(':')) {
            *profile.entry(owner(file).to_owned()).or_default() += cost.parse::<i64>().unwrap();
        }
    }
    profile
}

/// Whose source file it is.
fn owner(file: &str) -> &str {
    if let Some((_, path)) = file.split_once("/registry/src/") {
        let package = path.split('/').nth(1).unwrap_or(path);
        return package.rsplit_once('-').map_or(package, |(name, _version)| name);
    }
    let owners = [
        ("malloc/", "malloc and free"),
        ("memmove-", "memcpy"),
        ("/core/src/hash/", "SipHash of std"),
        ("hashbrown", "hashbrown"),
        ("/library/", "the rest of std"),
        ("benches/", "the bench"),
        ("src/", "sendarix-webhooks"),
    ];
    owners.into_iter().find(|(part, _)| file.contains(part)).map_or("the rest", |(_, owner)| owner)
}
