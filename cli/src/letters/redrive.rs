//! Redriving dead letters by a command.

use std::io::ErrorKind;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sendarix_webhooks::inbox::RedriveError;
use sendarix_webhooks::{Delivery, HandlerError, Inbox, Outcome};
use tokio::io::AsyncWriteExt;
use tokio::process::Command as Process;

use super::filter::OneOrAll;
use super::find;
use crate::output::complain;

#[derive(Args)]
pub(super) struct Redrive {
    #[command(flatten)]
    letters: OneOrAll,

    /// Also if the event failed last before the retention. First make sure that it has not been handled since
    #[arg(long, requires = "event_id")]
    beyond_retention: bool,

    /// At most this many letters a second
    #[arg(long, requires = "all", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    per_second: Option<u32>,

    /// This many letters and no more
    #[arg(long, requires = "all", value_name = "N")]
    at_most: Option<u64>,

    /// How long to wait after a letter that failed again; twice as long after the next one, up to a minute
    #[arg(long, requires = "all", default_value = "1s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pause: Duration,

    /// How long the event is remembered once it is handled, in hours. It must be the retention of the application
    #[arg(long, default_value_t = 24, value_name = "HOURS")]
    pub(super) retention: u32,

    /// The command that handles an event, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    handler: Vec<String>,
}

/// The command that handles events.
#[derive(Clone)]
struct Handler(Arc<[String]>);

impl Handler {
    async fn handle(self, delivery: Delivery) -> Result<(), HandlerError> {
        let (program, arguments) = self.0.split_first().ok_or("there is no command")?;
        let mut process = Process::new(program);
        process.args(arguments).env("SENDARIX_EVENT_ID", &delivery.event().event_id);
        process.stdin(Stdio::piped()).kill_on_drop(true);
        let mut process = process.spawn().with_context(|| format!("starting {program}"))?;
        let mut stdin = process.stdin.take();
        if let Some(stdin) = &mut stdin
            && let Err(error) = stdin.write_all(delivery.event().body()).await
            // A command that does not read it all may succeed.
            && error.kind() != ErrorKind::BrokenPipe
        {
            return Err(error.into());
        }
        drop(stdin);
        let status = process.wait().await?;
        if status.success() { Ok(()) } else { Err(HandlerError::retry(format!("{program}: {status}"))) }
    }
}

impl Redrive {
    pub(super) async fn run(self, inbox: &Inbox) -> anyhow::Result<ExitCode> {
        self.letters.check()?;
        let handler = Handler(self.handler.clone().into());
        if let Some(event_id) = &self.letters.event_id {
            let mut report = Report::new(ProgressBar::hidden());
            let letter = find(inbox, event_id).await?;
            let redelivery =
                if self.beyond_retention { inbox.redrive_beyond_retention(letter) } else { inbox.redrive(letter) }?;
            let settlement = redelivery.deliver(move |delivery| handler.handle(delivery)).await;
            report.add(event_id, Ok(settlement.outcome()));
            return Ok(report.exit_code());
        }
        let mut report = Report::new(self.bar(inbox).await);
        let mut redrives = inbox
            .redrive_all(move |delivery| handler.clone().handle(delivery))?
            .only(self.letters.filter.build())
            .pause_after_failure(self.pause);
        if let Some(letters) = self.per_second {
            redrives = redrives.every(Duration::from_secs(1) / letters);
        }
        if let Some(letters) = self.at_most {
            redrives = redrives.at_most(letters);
        }
        loop {
            match redrives.next().await {
                Ok(Some(redriven)) => report.add(redriven.key.event_id(), redriven.result),
                Ok(None) => return Ok(report.exit_code()),
                Err(error) => {
                    report.exit_code();
                    return Err(error.into());
                }
            }
        }
    }

    /// A bar, which is seen on a terminal alone. How many letters a filter takes is not known before they are read.
    async fn bar(&self, inbox: &Inbox) -> ProgressBar {
        let counts = if self.letters.filter.takes_all() { inbox.count_letters().await.ok() } else { None };
        let letters: Option<u64> = counts.map(|counts| counts.into_values().sum());
        let (bar, template) = match letters {
            Some(letters) => {
                let letters = letters.min(self.at_most.unwrap_or(u64::MAX));
                (ProgressBar::new(letters), "{wide_bar} {pos}/{len}, {per_sec}, {msg}")
            }
            None => (ProgressBar::no_length(), "{spinner} {pos}, {per_sec}, {msg}"),
        };
        bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

/// Says what became of each, and fails if any is still to be handled.
struct Report {
    bar: ProgressBar,
    redriven: usize,
    left: usize,
}

impl Report {
    fn new(bar: ProgressBar) -> Self {
        Self { bar, redriven: 0, left: 0 }
    }

    fn add(&mut self, event_id: &str, result: Result<Outcome, RedriveError>) {
        let event_id = event_id.escape_debug();
        self.redriven += usize::from(result.is_ok());
        self.left += usize::from(!matches!(result, Ok(Outcome::Processed | Outcome::Duplicate)));
        self.bar.inc(1);
        self.bar.set_message(format!("{} left", self.left));
        self.bar.suspend(|| match result {
            Ok(outcome) => complain(format_args!("{event_id}: {outcome}")),
            Err(error) => complain(format_args!("{event_id}: left alone: {error}")),
        });
    }

    fn exit_code(&self) -> ExitCode {
        self.bar.finish_and_clear();
        complain(format_args!("{} redriven, {} left", self.redriven, self.left));
        if self.left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
