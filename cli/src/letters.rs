//! Dead letters: list them, show one, redrive one or all.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetters, FileDeadLetters};
use sendarix_webhooks::inbox::RedriveError;
use sendarix_webhooks::store::{DedupStore, EventKey, MemoryStore};
use sendarix_webhooks::{Delivery, HandlerError, Inbox, Outcome};
use tokio::io::AsyncWriteExt;
use tokio::process::Command as Process;

use crate::output::{complain, print};
use crate::place::{Place, StoreOptions};

#[derive(Args)]
#[command(after_help = "Examples:
  sendarix letters --store postgres://app@db.internal/app list
  sendarix letters --store sqlite:events.sqlite show evt_1
  sendarix letters --store sqlite:events.sqlite redrive --all -- ./handle-event

Redriving goes through the same deduplication as what Sendarix sends, so the application may run meanwhile. Only a file of
dead letters belongs to one process at a time.

Exits with 1 if letters are left that should have been handled.")]
pub(crate) struct Letters {
    #[command(flatten)]
    store: StoreOptions,

    /// The file that keeps the dead letters [default: the store itself]
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// The name of the receiver's endpoint
    #[arg(long, default_value = "default", value_name = "NAME")]
    endpoint: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print a line for each: the event's id, the reason, the attempts, when it failed last, and the error
    List,
    /// Print all that is known of one, and its body
    Show {
        /// The event's id, as listed
        event_id: String,
        /// Write the body alone, byte by byte as it was signed
        #[arg(long)]
        body: bool,
    },
    /// Handle one or all again, by a command of yours
    ///
    /// The command gets the event's body on standard input, and its id as `SENDARIX_EVENT_ID`. Status 0 says that it has handled
    /// the event: its letter then goes, and copies of the event are duplicates. After 50 s it is killed, and the event counts as
    /// failed. To redrive letters by the application's own handler, call
    /// `Inbox::redrive_all` in the application.
    Redrive(Redrive),
}

#[derive(Args)]
struct Redrive {
    /// The event's id, as listed
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    event_id: Option<String>,

    /// Also if the event failed last before the retention. First make sure that it has not been handled since
    #[arg(long, requires = "event_id")]
    beyond_retention: bool,

    /// Every letter, one after the other; those from before the retention, and those with the reason `expired`, are left alone
    #[arg(long)]
    all: bool,

    /// How long the event is remembered once it is handled, in hours. It must be the retention of the application
    #[arg(long, default_value_t = 24, value_name = "HOURS")]
    retention: u32,

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

pub(crate) async fn run(options: Letters) -> anyhow::Result<ExitCode> {
    let place = options.store.open()?;
    let is_named = place.is_some();
    let store = place.map_or_else(|| Arc::new(MemoryStore::new()) as Arc<dyn DedupStore>, Place::store);
    let mut builder = Inbox::builder(options.endpoint.as_str());
    let letters: Arc<dyn DeadLetters> = match options.file {
        Some(path) => {
            anyhow::ensure!(path.exists(), "{} is not there", path.display());
            let file = Arc::new(FileDeadLetters::open(path)?);
            builder = builder.dead_letters(Arc::clone(&file));
            file
        }
        None => store.dead_letters().context("a memory keeps no dead letters: set --store or --file")?,
    };
    let endpoint = options.endpoint.as_str();
    match options.command {
        Command::List => list(letters.as_ref(), endpoint).await,
        Command::Show { event_id, body } => {
            let letter = find(letters.as_ref(), endpoint, &event_id).await?;
            if body { show_body(&letter) } else { show(&letter) }
        }
        Command::Redrive(redrive) => {
            anyhow::ensure!(
                is_named,
                "set --store to where the application remembers events, or each copy is handled again; `memory` if it forgets"
            );
            let retention = Duration::from_secs(60 * 60 * u64::from(redrive.retention));
            builder = builder.retention(retention);
            // Letters were verified when they came, so no secret is needed to redrive them.
            let inbox = builder.store(store).build()?;
            let done = redrive.run(letters.as_ref(), endpoint, &inbox).await;
            inbox.drain().await;
            done
        }
    }
}

impl Redrive {
    async fn run(self, letters: &dyn DeadLetters, endpoint: &str, inbox: &Inbox) -> anyhow::Result<ExitCode> {
        let handler = Handler(self.handler.into());
        let mut report = Report::default();
        if let Some(event_id) = self.event_id {
            let letter = find(letters, endpoint, &event_id).await?;
            let redelivery =
                if self.beyond_retention { inbox.redrive_beyond_retention(letter) } else { inbox.redrive(letter) }?;
            let settlement = redelivery.deliver(move |delivery| handler.handle(delivery)).await;
            report.add(&event_id, Ok(settlement.outcome()));
            return Ok(report.exit_code());
        }
        let mut redrives = inbox.redrive_all(move |delivery| handler.clone().handle(delivery))?;
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
}

/// The letters of a page.
const PAGE: usize = 100;

async fn list(letters: &dyn DeadLetters, endpoint: &str) -> anyhow::Result<ExitCode> {
    let (mut after, mut unreadable): (Option<String>, usize) = (None, 0);
    loop {
        let page = letters.list(endpoint, after.as_deref(), PAGE).await?;
        if page.is_empty() {
            if after.is_none() {
                complain(format_args!("there are no dead letters of the endpoint {endpoint}"));
            }
            return Ok(if unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        for listed in page {
            let key = match listed {
                Ok(letter) => {
                    let (id, error) = (letter.key.event_id().escape_debug(), letter.error.escape_debug());
                    let (reason, attempts, last_at) = (letter.reason.as_str(), letter.attempts, letter.last_at);
                    print(format_args!("{id} {reason} {attempts} {last_at} {error}"))?;
                    letter.key
                }
                Err(letter) => {
                    unreadable += 1;
                    complain(format_args!("{letter}: {}", letter.source));
                    letter.key
                }
            };
            anyhow::ensure!(after.as_deref() < Some(key.event_id()), "the store listed the same letters twice");
            after = Some(key.event_id().to_owned());
        }
    }
}

async fn find(letters: &dyn DeadLetters, endpoint: &str, event_id: &str) -> anyhow::Result<DeadLetter> {
    let letter = letters.get(&EventKey::new(endpoint, event_id)).await?;
    letter.with_context(|| format!("there is no dead letter of {event_id} for the endpoint {endpoint}"))
}

fn show(letter: &DeadLetter) -> anyhow::Result<ExitCode> {
    print(format_args!("event     {}", letter.key.event_id().escape_debug()))?;
    print(format_args!("endpoint  {}", letter.key.endpoint()))?;
    let retried = if letter.is_retrying() { ", Sendarix may retry it" } else { "" };
    print(format_args!("reason    {}{retried}", letter.reason.as_str()))?;
    print(format_args!("error     {}", letter.error.escape_debug()))?;
    if let Some(place) = letter.place {
        print(format_args!("at        {place}"))?;
    }
    print(format_args!("attempts  {}, the first {}, the last {}", letter.attempts, letter.first_at, letter.last_at))?;
    if let Some(signature) = letter.signature {
        print(format_args!("signature {signature}"))?;
    }
    // A terminal must not take a stranger's text for commands.
    let body =
        String::from_utf8_lossy(&letter.body).replace(|c: char| c.is_control() && !"\n\t".contains(c), "\u{fffd}");
    print(format_args!("\n{body}"))?;
    Ok(ExitCode::SUCCESS)
}

fn show_body(letter: &DeadLetter) -> anyhow::Result<ExitCode> {
    std::io::stdout().lock().write_all(&letter.body)?;
    Ok(ExitCode::SUCCESS)
}

/// Says what became of each, and fails if any is still to be handled.
#[derive(Default)]
struct Report {
    redriven: usize,
    left: usize,
}

impl Report {
    fn add(&mut self, event_id: &str, result: Result<Outcome, RedriveError>) {
        let event_id = event_id.escape_debug();
        self.redriven += usize::from(result.is_ok());
        self.left += usize::from(!matches!(result, Ok(Outcome::Processed | Outcome::Duplicate)));
        match result {
            Ok(outcome) => complain(format_args!("{event_id}: {outcome}")),
            Err(error) => complain(format_args!("{event_id}: left alone: {error}")),
        }
    }

    fn exit_code(&self) -> ExitCode {
        complain(format_args!("{} redriven, {} left", self.redriven, self.left));
        if self.left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
