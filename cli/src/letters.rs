//! Dead letters: list and count them, show one, redrive, discard or purge.

mod filter;
mod redrive;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use sendarix_webhooks::Inbox;
use sendarix_webhooks::dead_letter::{DeadLetter, FileDeadLetters, LetterFilter};
use sendarix_webhooks::store::{DedupStore, MemoryStore};

use self::filter::{Filter, OneOrAll, ago};
use self::redrive::Redrive;
use crate::output::{complain, print};
use crate::place::{Place, StoreOptions};

#[derive(Args)]
#[command(after_help = "Examples:
  sendarix letters --store postgres://app@db.internal/app list
  sendarix letters --store sqlite:events.sqlite show evt_1
  sendarix letters --store sqlite:events.sqlite redrive --all --error 'timed out' --per-second 20 -- ./handle-event
  sendarix letters --store sqlite:events.sqlite discard evt_1 --because 'a test message'
  sendarix letters --store sqlite:events.sqlite purge --older-than 30d

Redriving goes through the same deduplication as what Sendarix sends, so the application may run meanwhile. Only a file of
dead letters belongs to one process at a time.

Exits with 1 if letters are left that should have been handled or discarded.")]
pub(crate) struct Letters {
    #[command(flatten)]
    store: StoreOptions,

    /// The file that keeps the dead letters [default: the store itself]
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// The name of the receiver's endpoint, or NAME/DESTINATION for the letters of a fan-out
    #[arg(long, default_value = "default", value_name = "NAME")]
    endpoint: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print a line for each: the event's id, the reason, the attempts, when it failed last, and the error
    List(Filter),
    /// Print how many there are of each reason
    Count,
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
    /// failed. Letters from before the retention, and those with the reason `expired`, are redriven by their ids alone. To
    /// redrive letters by the application's own handler, call `Inbox::redrive_all` in the application.
    Redrive(Redrive),
    /// Delete one, or all that a filter takes, whose events need not be handled
    Discard(Discard),
    /// Delete those that failed last long ago, so that no personal data is kept for ever
    Purge {
        /// How long ago, such as `30d`
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        older_than: Duration,
    },
}

#[derive(Args)]
struct Discard {
    #[command(flatten)]
    letters: OneOrAll,

    /// Why; it is printed with each id on standard error
    #[arg(long, value_name = "REASON")]
    because: String,
}

pub(crate) async fn run(options: Letters) -> anyhow::Result<ExitCode> {
    let place = options.store.open()?;
    let is_named = place.is_some();
    let store = place.map_or_else(|| Arc::new(MemoryStore::new()) as Arc<dyn DedupStore>, Place::store);
    let (endpoint, destination) = match options.endpoint.split_once('/') {
        Some((endpoint, destination)) => (endpoint.to_owned(), Some(destination.to_owned())),
        None => (options.endpoint, None),
    };
    let mut builder = Inbox::builder(endpoint);
    match options.file {
        Some(path) => {
            anyhow::ensure!(path.exists(), "{} is not there", path.display());
            builder = builder.dead_letters(FileDeadLetters::open(path)?);
        }
        None if store.dead_letters().is_none() => {
            anyhow::bail!("a memory keeps no dead letters: set --store or --file")
        }
        None => {}
    }
    if let Command::Redrive(redrive) = &options.command {
        anyhow::ensure!(
            is_named,
            "set --store to where the application remembers events, or each copy is handled again; `memory` if it forgets"
        );
        builder = builder.retention(Duration::from_secs(60 * 60 * u64::from(redrive.retention)));
    }
    // Letters were verified when they came, so no secret is needed to redrive them.
    let mut inbox = builder.store(store).build()?;
    if let Some(destination) = destination {
        inbox = inbox.destination(&destination)?;
    }
    let done = options.command.run(&inbox).await;
    inbox.drain().await;
    done
}

impl Command {
    async fn run(self, inbox: &Inbox) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(filter) => list(inbox, &filter.build()).await,
            Self::Count => count(inbox).await,
            Self::Show { event_id, body } => {
                let letter = find(inbox, &event_id).await?;
                if body { show_body(&letter) } else { show(&letter) }
            }
            Self::Redrive(redrive) => redrive.run(inbox).await,
            Self::Discard(discard) => discard.run(inbox).await,
            Self::Purge { older_than } => {
                complain(format_args!("{} purged", inbox.purge_letters(ago(older_than)).await?));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl Discard {
    async fn run(self, inbox: &Inbox) -> anyhow::Result<ExitCode> {
        self.letters.check()?;
        if let Some(event_id) = &self.letters.event_id {
            let letter = find(inbox, event_id).await?;
            return Ok(if self.discard(inbox, &letter).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        let filter = self.letters.filter.build();
        let seen = each_letter(inbox, &filter, async |letter| self.discard(inbox, &letter).await).await?;
        Ok(if seen.left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Says what became of a letter, and whether it is gone.
    async fn discard(&self, inbox: &Inbox, letter: &DeadLetter) -> anyhow::Result<bool> {
        let is_discarded = inbox.discard(letter, &self.because).await?;
        let (id, because) = (letter.key.event_id().escape_debug(), self.because.escape_debug());
        if is_discarded {
            complain(format_args!("{id}: discarded: {because}"));
        } else {
            complain(format_args!("{id}: left alone: its letter is gone or has changed meanwhile; look once more"));
        }
        Ok(is_discarded)
    }
}

async fn count(inbox: &Inbox) -> anyhow::Result<ExitCode> {
    let mut counts: Vec<_> = inbox.count_letters().await?.into_iter().collect();
    counts.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    if counts.is_empty() {
        complain(format_args!("there are no dead letters of the endpoint {}", inbox.endpoint()));
    }
    for (reason, letters) in counts {
        print(format_args!("{reason} {letters}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The letters of a page.
const PAGE: usize = 100;

async fn list(inbox: &Inbox, filter: &LetterFilter) -> anyhow::Result<ExitCode> {
    let seen = each_letter(inbox, filter, async |letter| Ok(print_line(&letter).map(|()| true)?)).await?;
    if seen.letters == 0 {
        complain(format_args!("there are no dead letters of the endpoint {}", inbox.endpoint()));
    }
    Ok(if seen.left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Default)]
struct Seen {
    letters: usize,
    /// Those that cannot be read, or that `act` left alone.
    left: usize,
}

/// Acts on each letter that the filter takes, and says of each that cannot be read why.
async fn each_letter(
    inbox: &Inbox,
    filter: &LetterFilter,
    mut act: impl AsyncFnMut(DeadLetter) -> anyhow::Result<bool>,
) -> anyhow::Result<Seen> {
    let (mut after, mut seen) = (None::<String>, Seen::default());
    loop {
        let page = inbox.list_letters(after.as_deref(), PAGE).await?;
        if page.is_empty() {
            return Ok(seen);
        }
        for listed in page {
            seen.letters += 1;
            let key = match listed {
                Ok(letter) => {
                    let key = letter.key.clone();
                    if filter.matches(&letter) && !act(letter).await? {
                        seen.left += 1;
                    }
                    key
                }
                Err(letter) => {
                    seen.left += 1;
                    complain(format_args!("{letter}: {}", letter.source));
                    letter.key
                }
            };
            after = Some(key.event_id().to_owned());
        }
    }
}

fn print_line(letter: &DeadLetter) -> std::io::Result<()> {
    let (id, error) = (letter.key.event_id().escape_debug(), letter.error.escape_debug());
    let (reason, attempts, last_at) = (letter.reason.as_str(), letter.attempts, letter.last_at);
    print(format_args!("{id} {reason} {attempts} {last_at} {error}"))
}

async fn find(inbox: &Inbox, event_id: &str) -> anyhow::Result<DeadLetter> {
    let letter = inbox.letter(event_id).await?;
    letter.with_context(|| format!("there is no dead letter of {event_id} for the endpoint {}", inbox.endpoint()))
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
