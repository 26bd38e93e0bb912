//! Which dead letters a command is about.

use std::time::{Duration, SystemTime};

use clap::Args;
use sendarix_webhooks::dead_letter::{DeadLetterReason, LetterFilter};

/// Without any of these, all letters are.
#[derive(Args, Clone)]
pub(super) struct Choice {
    /// Letters with this reason, such as `failed`; given twice, with either
    #[arg(long, value_name = "REASON")]
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

impl Choice {
    pub(super) fn is_all(&self) -> bool {
        let Self { reason, event_type, error, older_than, newer_than } = self;
        reason.is_empty() && event_type.is_empty() && error.is_none() && older_than.is_none() && newer_than.is_none()
    }

    pub(super) fn filter(&self) -> LetterFilter {
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

/// A time before 1970 is before every letter.
fn ago(age: Duration) -> SystemTime {
    SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH)
}
