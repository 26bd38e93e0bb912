//! The suppression list: export it, import one, ask it, and release an address.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use clap::{Args, Subcommand};
use sendarix_webhooks::Timestamp;
use sendarix_webhooks::mail::{Mail, MailStore, SuppressionEntry, SuppressionReason};
use serde::{Deserialize, Serialize};

use crate::output::{complain, print};
use crate::place::{Place, StoreOptions};

#[derive(Args)]
#[command(after_help = "Examples:
  sendarix suppressions --store postgres://app@db.internal/app export > suppressed.csv
  sendarix suppressions --store sqlite:events.sqlite import suppressed.csv
  sendarix suppressions --store sqlite:events.sqlite release ann@example.com --because \"she asked us to\"

The CSV has a header. `recipient` is required; `reason` is `manual` and `since` is now where they are missing.

`check` exits with 1 if an address must not be mailed, and `release` if it was not on the list. Where addresses were erased, only
`export` does without the erasure key (SENDARIX_ERASURE_KEY): without it, those are not found.")]
pub(crate) struct Suppressions {
    #[command(flatten)]
    store: StoreOptions,

    /// The application's erasure key in hex, by which addresses that were erased are found
    #[arg(long, env = "SENDARIX_ERASURE_KEY", hide_env_values = true, value_name = "HEX")]
    erasure_key: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the suppressed addresses to standard output, as CSV
    Export,
    /// Put the addresses of a CSV file on the list
    Import {
        /// The file; `-` reads standard input
        file: PathBuf,
    },
    /// Say whether addresses must not be mailed, and why
    Check {
        /// The addresses
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<String>,
    },
    /// Take an address off the list
    Release {
        /// The address
        address: String,
        /// Why; it is kept in the list
        #[arg(long, value_name = "REASON")]
        because: String,
    },
}

/// A line of a CSV file.
#[derive(Serialize, Deserialize)]
struct Line {
    recipient: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    since: Option<String>,
    #[serde(default)]
    event_id: Option<String>,
    #[serde(default)]
    message_id: Option<String>,
}

/// How many addresses are read or written at a time.
const PAGE: usize = 1000;

pub(crate) async fn run(options: Suppressions) -> anyhow::Result<ExitCode> {
    let Suppressions { store, erasure_key, command } = options;
    match store.open()? {
        #[cfg(feature = "sqlite")]
        Some(Place::Sqlite(store)) => command.run(store, erasure_key).await,
        #[cfg(feature = "postgres")]
        Some(Place::Postgres(store)) => command.run(store, erasure_key).await,
        _ => anyhow::bail!("--store: mail state is kept in PostgreSQL or SQLite: set postgres://… or sqlite:PATH"),
    }
}

fn mail<S: MailStore>(store: S, erasure_key: Option<String>) -> anyhow::Result<Mail<S>> {
    let builder = Mail::builder(store);
    Ok(match erasure_key {
        Some(key) => builder.erasure_key(const_hex::decode(key).context("--erasure-key")?).build()?,
        None => builder.build()?,
    })
}

impl Command {
    async fn run<S: MailStore>(self, store: S, erasure_key: Option<String>) -> anyhow::Result<ExitCode> {
        let mail = mail(store, erasure_key)?;
        match self {
            Self::Export => export(&mail).await,
            Self::Import { file } => import(&mail, file).await,
            Self::Check { addresses } => check(&mail, &addresses).await,
            Self::Release { address, because } => {
                let released = mail.release(&address, &because).await?;
                let told = if released {
                    "released"
                } else {
                    "it was not on the list; what happened before now does not put it there"
                };
                complain(format_args!("{}: {told}", address.escape_debug()));
                Ok(if released { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    }
}

async fn export<S: MailStore>(mail: &Mail<S>) -> anyhow::Result<ExitCode> {
    let mut csv = csv::Writer::from_writer(io::stdout().lock());
    let (mut last, mut exported, mut erased) = (None, 0, 0);
    loop {
        let page = mail.suppressions(last.as_deref(), PAGE).await?;
        let Some(entry) = page.last() else { break };
        last = Some(entry.address.as_str().to_owned());
        for entry in page {
            if entry.is_erased() {
                erased += 1;
                continue;
            }
            let SuppressionEntry { recipient, suppressed: Some(suppressed), .. } = entry else { continue };
            exported += 1;
            let line = Line {
                recipient,
                reason: Some(suppressed.reason.to_string()),
                since: Some(suppressed.since.to_string()),
                event_id: suppressed.event_id,
                message_id: suppressed.message_id,
            };
            csv.serialize(line).map_err(|error| match error.into_kind() {
                // Which may be that of a pipe whose reader has gone.
                csv::ErrorKind::Io(error) => anyhow::Error::from(error),
                kind => anyhow::anyhow!("writing CSV: {kind:?}"),
            })?;
        }
    }
    csv.flush()?;
    complain(format_args!("{exported} exported, {erased} that were erased left out"));
    Ok(ExitCode::SUCCESS)
}

async fn import<S: MailStore>(mail: &Mail<S>, file: PathBuf) -> anyhow::Result<ExitCode> {
    let reader: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(&file).with_context(|| file.display().to_string())?)
    };
    let mut csv = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(reader);
    // Every line is read before the first is written, so that a broken file changes nothing.
    let now = SystemTime::now();
    let mut entries = Vec::new();
    for (index, line) in csv.deserialize().enumerate() {
        let entry = line.map_err(anyhow::Error::from).and_then(|line| entry(line, now.into()));
        entries.push(entry.with_context(|| format!("entry {}", index + 1))?);
    }
    for page in entries.chunks(PAGE) {
        mail.suppress(page).await?;
    }
    complain(format_args!("{} imported", entries.len()));
    Ok(ExitCode::SUCCESS)
}

fn entry(line: Line, now: Timestamp) -> anyhow::Result<SuppressionEntry> {
    let Line { recipient, reason, since, event_id, message_id } = line;
    anyhow::ensure!(!recipient.trim().is_empty(), "it has no recipient");
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let reason = given(reason).map_or(Ok(SuppressionReason::Manual), |reason| reason.parse()).context("reason")?;
    let since = given(since).map_or(Ok(now), |since| since.parse()).context("since")?;
    let mut entry = SuppressionEntry::new(recipient, reason, since);
    if let Some(suppressed) = &mut entry.suppressed {
        (suppressed.event_id, suppressed.message_id) = (given(event_id), given(message_id));
    }
    Ok(entry)
}

async fn check<S: MailStore>(mail: &Mail<S>, addresses: &[String]) -> anyhow::Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for address in addresses {
        let entry = mail.suppression(address).await?;
        let address = address.escape_debug();
        match entry.and_then(|entry| entry.suppressed) {
            Some(suppressed) => {
                status = ExitCode::FAILURE;
                print(format_args!("{address} {} since {}", suppressed.reason, suppressed.since))?;
            }
            None => print(format_args!("{address} may be mailed"))?,
        }
    }
    Ok(status)
}
