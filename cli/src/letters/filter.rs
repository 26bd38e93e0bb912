//! Which dead letters a command is about: one, or all that a filter takes.

use std::time::{Duration, SystemTime};

use clap::Args;
use sendarix_webhooks::dead_letter::{DeadLetterReason, LetterFilter};

/// One letter, or all that a filter takes.
#[derive(Args)]
pub(super) struct OneOrAll {
    /// The event's id, as listed
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(super) event_id: Option<String>,

    /// Every letter, or every one that the filter takes
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    pub(super) filter: Filter,
}

impl OneOrAll {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.all || self.filter.takes_all(), "name a letter by its id, or filter several with --all");
        Ok(())
    }
}

/// Without any of these, all letters.
#[derive(Args)]
pub(super) struct Filter {
    /// Letters with this reason, such as `failed`; given twice, with either
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<DeadLetterReason>,

    /// Letters of this event type, such as `bounce`; given twice, of either
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Vec<String>,

    /// Letters whose error has this text in it
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,

    /// Letters that failed last longer ago than this, such as `30d` or `12h`
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,

    /// Letters that failed last within this time
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    newer_than: Option<Duration>,
}

impl Filter {
    pub(super) fn takes_all(&self) -> bool {
        self.build() == LetterFilter::new()
    }

    pub(super) fn build(&self) -> LetterFilter {
        let mut filter = LetterFilter::new();
        for reason in &self.reason {
            filter = filter.reason(reason.clone());
        }
        for event_type in &self.event_type {
            filter = filter.event_type(event_type);
        }
        if let Some(text) = &self.error {
            filter = filter.error_contains(text);
        }
        if let Some(age) = self.older_than {
            filter = filter.failed_before(ago(age));
        }
        if let Some(age) = self.newer_than {
            filter = filter.failed_since(ago(age));
        }
        filter
    }
}

/// A misspelled reason would match no letter, without a word.
fn reason(name: &str) -> Result<DeadLetterReason, String> {
    let known = DeadLetterReason::ALL.iter().find(|reason| reason.as_str() == name).cloned();
    known.ok_or_else(|| {
        let names: Vec<&str> = DeadLetterReason::ALL.iter().map(DeadLetterReason::as_str).collect();
        format!("there is no such reason; it is one of {}", names.join(", "))
    })
}

/// A time before 1970 is before every letter.
pub(super) fn ago(age: Duration) -> SystemTime {
    SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH)
}
