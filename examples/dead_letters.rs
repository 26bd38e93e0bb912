//! Dead letters on the command line: list them, show one, redrive one or all.
//!
//! ```sh
//! cargo run --example dead_letters --features sqlite,redis,postgres -- --store sqlite:events.sqlite list
//! cargo run --example dead_letters --features sqlite,redis,postgres -- --store sqlite:events.sqlite redrive --all
//! ```
//!
//! A command of your own application looks like this one, with its own handler: what is redriven goes through the same
//! receiver and the same store as what Sendarix sends, so it may run while the application does. Only a file of dead
//! letters belongs to one process at a time.

#![allow(clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, reason = "this is no server")]
mod shared;
#[path = "shared/store.rs"]
mod store;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use sendarix_webhooks::dead_letter::{DeadLetter, DeadLetters};
use sendarix_webhooks::inbox::RedriveError;
use sendarix_webhooks::store::EventKey;
use sendarix_webhooks::{Delivery, HandlerError, Inbox, Outcome};

use self::store::Store;

#[derive(Parser)]
#[command(about = "Lists, shows and redrives events that could not be handled")]
struct Options {
    /// Where events are remembered: memory, sqlite:PATH, redis://… or postgres://…
    #[arg(long, default_value = "memory")]
    store: String,

    /// The file that keeps the dead letters [default: the store itself]
    #[arg(long, value_name = "PATH")]
    dead_letters: Option<PathBuf>,

    /// The receiver's name
    #[arg(long, default_value = "default")]
    endpoint: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One line for each: its event's id, reason, attempts, when it failed last, and the error
    List,
    /// All that is known of one, and its body
    Show {
        /// The event's id, as listed
        event_id: String,
    },
    /// Handles one or all again
    Redrive(Redrive),
}

#[derive(Args)]
struct Redrive {
    /// The event's id, as listed
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    event_id: Option<String>,

    /// Also if its event last failed longer ago than events are remembered: make sure that it was not handled since
    #[arg(long, requires = "event_id")]
    beyond_retention: bool,

    /// Every letter, one after the other; those beyond the retention are left alone
    #[arg(long)]
    all: bool,
}

/// The application's own handler.
async fn on_event(delivery: Delivery) -> Result<(), HandlerError> {
    shared::print(delivery.event()).await
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let options: Options = shared::options();
    let otherwise = Path::new("shared_store.dead-letters.jsonl");
    let store: Store = options.store.parse()?;
    let (events, mut builder) = (store.events(), Inbox::builder(options.endpoint.as_str()));
    let letters: Arc<dyn DeadLetters> = match store.letters_apart(options.dead_letters.as_deref(), otherwise)? {
        Some(file) => {
            let file = Arc::new(file);
            builder = builder.dead_letters(file.clone());
            file
        }
        None => events.dead_letters().context("the store keeps no dead letters")?,
    };
    // Letters were verified when they came, so no secret is needed to redrive them.
    let inbox = builder.store(events).build()?;
    let done = run(options.command, letters.as_ref(), &options.endpoint, &inbox).await;
    inbox.drain().await;
    done
}

async fn run(command: Command, letters: &dyn DeadLetters, endpoint: &str, inbox: &Inbox) -> anyhow::Result<ExitCode> {
    Ok(match command {
        Command::List => list(letters, endpoint).await?,
        Command::Show { event_id } => {
            show(&find(letters, endpoint, &event_id).await?);
            ExitCode::SUCCESS
        }
        Command::Redrive(Redrive { event_id: Some(event_id), beyond_retention, .. }) => {
            let letter = find(letters, endpoint, &event_id).await?;
            let redelivery =
                if beyond_retention { inbox.redrive_beyond_retention(letter)? } else { inbox.redrive(letter)? };
            let mut report = Report::default();
            report.add(&event_id, Ok(redelivery.deliver(on_event).await.outcome()));
            report.exit_code()
        }
        Command::Redrive(Redrive { event_id: None, .. }) => {
            let (mut redrives, mut report) = (inbox.redrive_all(on_event)?, Report::default());
            loop {
                match redrives.next().await {
                    Ok(Some(redriven)) => report.add(redriven.key.event_id(), redriven.result),
                    Ok(None) => break report.exit_code(),
                    Err(error) => {
                        report.exit_code();
                        return Err(error.into());
                    }
                }
            }
        }
    })
}

async fn list(letters: &dyn DeadLetters, endpoint: &str) -> anyhow::Result<ExitCode> {
    let mut after: Option<String> = None;
    loop {
        let page = letters.list(endpoint, after.as_deref(), 100).await?;
        for listed in &page {
            let letter = match listed {
                Ok(letter) => letter,
                Err(unreadable) => {
                    eprintln!("{unreadable}: {}", unreadable.source);
                    after = Some(unreadable.key.event_id().to_owned());
                    continue;
                }
            };
            after = Some(letter.key.event_id().to_owned());
            let (id, error) = (letter.key.event_id().escape_debug(), letter.error.escape_debug());
            println!("{id} {} {} {} {error}", letter.reason.as_str(), letter.attempts, letter.last_at);
        }
        if page.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

async fn find(letters: &dyn DeadLetters, endpoint: &str, event_id: &str) -> anyhow::Result<DeadLetter> {
    let letter = letters.get(&EventKey::new(endpoint, event_id)).await?;
    letter.with_context(|| format!("there is no dead letter of {event_id} for the endpoint {endpoint}"))
}

fn show(letter: &DeadLetter) {
    println!("event     {}", letter.key.event_id().escape_debug());
    println!("endpoint  {}", letter.key.endpoint());
    println!(
        "reason    {}{}",
        letter.reason.as_str(),
        if letter.is_retrying() { ", Sendarix may retry it" } else { "" }
    );
    println!("error     {}", letter.error.escape_debug());
    if let Some(place) = letter.place {
        println!("at        {place}");
    }
    println!("attempts  {}, the first {}, the last {}", letter.attempts, letter.first_at, letter.last_at);
    if let Some(signature) = letter.signature {
        println!("signature {signature}");
    }
    println!();
    println!("{}", String::from_utf8_lossy(&letter.body));
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
            Ok(outcome) => eprintln!("{event_id}: {outcome}"),
            Err(error) => eprintln!("{event_id}: left alone: {error}"),
        }
    }

    fn exit_code(&self) -> ExitCode {
        eprintln!("{} redriven, {} left", self.redriven, self.left);
        if self.left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
