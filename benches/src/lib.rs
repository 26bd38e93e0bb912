//! What the benches share: how candidates take turns, and the rows of the table in
//! `docs/performance.md`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::missing_panics_doc)]

pub mod load;
pub mod server;
pub mod slices;

use std::fmt;
use std::time::{Duration, Instant};

pub use sendarix_webhooks_counts::{Event, SECRET, counted, secret};

/// What candidates took that had turns in rounds: whatever else the machine does hits them alike.
#[derive(Debug, Default)]
pub struct Rounds<const CANDIDATES: usize>(Vec<[Duration; CANDIDATES]>);

impl<const CANDIDATES: usize> Rounds<CANDIDATES> {
    pub fn add(&mut self, took: [Duration; CANDIDATES]) {
        self.0.push(took);
    }

    /// In which order the candidates have their turns in the next round: in every round another one begins.
    pub fn order(&self) -> impl Iterator<Item = usize> + use<CANDIDATES> {
        let first = self.0.len();
        (first..first + CANDIDATES).map(|turn| turn % CANDIDATES)
    }

    /// Gives each candidate a turn.
    pub fn add_turns(&mut self, mut turn: impl FnMut(usize) -> Duration) {
        let mut took = [Duration::ZERO; CANDIDATES];
        self.order().for_each(|candidate| took[candidate] = turn(candidate));
        self.add(took);
    }

    /// The median.
    pub fn seconds(&self, candidate: usize) -> f64 {
        median(self.0.iter().map(|round| round[candidate].as_secs_f64()))
    }

    /// The median of the differences within a round.
    pub fn more_seconds(&self, candidate: usize, than: usize) -> f64 {
        median(self.0.iter().map(|round| round[candidate].as_secs_f64() - round[than].as_secs_f64()))
    }

    /// The median of the ratios within a round.
    pub fn ratio(&self, candidate: usize, to: usize) -> f64 {
        median(self.0.iter().map(|round| round[candidate].as_secs_f64() / round[to].as_secs_f64()))
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn timed(step: impl FnOnce()) -> Duration {
    let start = Instant::now();
    step();
    start.elapsed()
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// Prints a row of the table, which `benches/run` collects.
pub fn row(what: &str, against: &str, target: Target, figure: f64) {
    let (reached, digits) = match target {
        Target::AtMost(limit) => (figure <= limit, 2),
        Target::AtLeast(limit) => (figure >= limit, if limit > 10.0 { 1 } else { 2 }),
    };
    let reached = if reached { "yes" } else { "**no**" };
    println!("| {what} | {against} | {target} | {figure:.digits$} | {reached} |");
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
}
