//! The fault rig: three processes of a server over one store, a simulated Sendarix, and a schedule of faults that follows
//! from a seed.
//!
//! ```sh
//! FAULT_KILLS=220 FAULT_SEED=7 cargo test --package sendarix-webhooks-system-tests --test stores rig -- --nocapture --test-threads 2
//! ```
//!
//! It prints a line for each run. *Lost* are events that were acknowledged, and neither handled nor kept. *Stuck* are those
//! that the sender gave up, and that are not acknowledged either once all is well again. *Doubled* are effects beyond the
//! first of each event; *between* are effects that their process did not see recorded: it was killed between the two, or
//! its lease was over. Only there can a double effect come from.

mod schedule;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sendarix_webhooks::testing::Simulation;

use self::schedule::Schedule;
use self::world::World;
use crate::support::{Kind, secret};

/// The third retry of an event comes 7 s after its first attempt, and so after the lease of 6 s.
const COMPRESSION: f64 = 300.0;
const EVENTS_PER_SECOND: f64 = 100.0;

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    run(Kind::Sqlite, "instance", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis() {
    run(Kind::Redis, "instance", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    run(Kind::Postgres, "instance", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_with_transactions() {
    run(Kind::Sqlite, "transactional", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_with_transactions() {
    run(Kind::Postgres, "transactional", 4).await;
}

async fn run(kind: Kind, program: &'static str, number: u64) {
    let setting = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse::<u32>().unwrap());
    let (seed, kills) = (u64::from(setting("FAULT_SEED", 1)) + number, setting("FAULT_KILLS", 15));
    let mut world = World::start(kind, program).await;
    let over = Arc::new(AtomicBool::new(false));
    let (sending, ended) = (Arc::clone(&world.traffic), Arc::clone(&over));
    let events = std::iter::from_fn(move || (!ended.load(Ordering::Relaxed)).then(|| sending.next_body()));
    let traffic = Arc::clone(&world.traffic);
    let simulation = Simulation::new(secret()).seed(seed).compress(COMPRESSION).jitter(0.2).duplicate(0.05);
    let simulation = simulation.pace(EVENTS_PER_SECOND, 1).connections(64);
    let ledger = tokio::spawn(simulation.run(events, move |request| Arc::clone(&traffic).send(request)));

    let mut schedule = Schedule::new(seed);
    // Every run has one of these.
    schedule.stop_for_longer_than_a_lease(&world, 0);
    while world.kills < kills {
        schedule.step(&mut world).await;
    }
    schedule.end_all(&mut world).await;
    over.store(true, Ordering::Relaxed);
    let ledger = ledger.await.unwrap();

    let report = world.report(&ledger).await;
    eprintln!("{kind:?}, {program}, seed {seed}: {kills} kills, {schedule}\n    {report}");
    assert_eq!((report.lost, report.stuck, report.unexplained), (0, 0, 0));
    if program == "transactional" {
        assert_eq!((report.doubled, report.stale, report.mail_state_wrong), (0, 0, 0));
    } else {
        assert!(report.letters > 0, "something is kept");
    }
    assert!(report.acknowledged > report.events / 2, "the run shows something");
}
