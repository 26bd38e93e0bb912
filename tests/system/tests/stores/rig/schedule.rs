//! Which faults come when.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, sleep_until};

use super::world::{INSTANCES, LEASE_SECONDS, World};
use crate::support::Fault;

/// Which faults there were, and which are to end.
pub struct Schedule {
    random: SmallRng,
    faults: BTreeMap<&'static str, usize>,
    ends: Vec<(Instant, End)>,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Stop(usize),
    Network,
    SlowDisk,
}

impl Schedule {
    pub fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), faults: BTreeMap::new(), ends: Vec::new() }
    }

    /// One fault, and a pause.
    pub async fn step(&mut self, world: &mut World) {
        // Who is stopped goes on first, or no stop would outlast a lease.
        let running: Vec<usize> = (0..INSTANCES).filter(|number| !self.is_stopped(*number)).collect();
        let instance = *running.choose(&mut self.random).unwrap();
        match self.random.random_range(0..100) {
            0..5 if running.len() > 1 => self.stop_for_longer_than_a_lease(world, instance),
            5..10 if running.len() > 1 => {
                let seconds = self.random.random_range(0.1..3.0);
                self.stop(world, instance, seconds, "short stops");
            }
            10..20 if world.has_network() => {
                let faults = [Fault::Reset, Fault::Silence, Fault::RepliesLost];
                world.network(faults.choose(&mut self.random).unwrap().clone());
                let seconds = self.random.random_range(0.05..1.5);
                self.begins("network faults", seconds, End::Network);
            }
            20..24 if world.has_network() => {
                self.count("restarts of the store");
                // A server that starts syncs much, and would take its time.
                world.slow_disk(false);
                world.backend.kill();
                sleep(Duration::from_millis(self.random.random_range(0..800))).await;
                tokio::task::block_in_place(|| world.backend.start_again());
            }
            24..30 => {
                world.slow_disk(true);
                let seconds = self.random.random_range(0.2..2.0);
                self.begins("slow disks", seconds, End::SlowDisk);
            }
            _ => world.kill(instance),
        }
        let pause = Instant::now() + Duration::from_millis(self.random.random_range(20..300));
        self.end_until(world, pause).await;
        sleep_until(pause).await;
    }

    pub fn stop_for_longer_than_a_lease(&mut self, world: &World, instance: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
        let seconds = LEASE_SECONDS as f64 + 2.0;
        self.stop(world, instance, seconds, "stops longer than a lease");
    }

    /// Waits until all is well.
    pub async fn end_all(&mut self, world: &mut World) {
        while let Some(last) = self.ends.iter().map(|(at, _)| *at).max() {
            self.end_until(world, last).await;
        }
    }

    fn stop(&mut self, world: &World, instance: usize, seconds: f64, what: &'static str) {
        world.signal(instance, "STOP");
        self.begins(what, seconds, End::Stop(instance));
    }

    fn is_stopped(&self, instance: usize) -> bool {
        self.ends.iter().any(|(_, end)| *end == End::Stop(instance))
    }

    fn begins(&mut self, what: &'static str, seconds: f64, end: End) {
        self.count(what);
        self.ends.push((Instant::now() + Duration::from_secs_f64(seconds), end));
    }

    fn count(&mut self, what: &'static str) {
        *self.faults.entry(what).or_default() += 1;
    }

    async fn end_until(&mut self, world: &mut World, until: Instant) {
        while let Some(next) = self.ends.iter().map(|(at, _)| *at).filter(|at| *at <= until).min() {
            sleep_until(next).await;
            for (_, end) in self.ends.extract_if(.., |(at, _)| *at <= next) {
                match end {
                    End::Stop(instance) => world.signal(instance, "CONT"),
                    End::Network => world.network(Fault::None),
                    End::SlowDisk => world.slow_disk(false),
                }
            }
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(|(fault, count)| format!("{count} {fault}")).collect();
        f.write_str(&faults.join(", "))
    }
}
