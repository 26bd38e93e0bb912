//! Fires signed events at an endpoint, simulates Sendarix, and explains why a request is refused.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=… cargo run --example trigger -- bounce
//! SENDARIX_WEBHOOK_SECRET=… cargo run --example trigger -- all --count 1000 --duplicates 2 --concurrency 16
//! SENDARIX_WEBHOOK_SECRET=… cargo run --example trigger -- simulate --messages 1000 --lose-answers 0.05
//! SENDARIX_WEBHOOK_SECRET=… cargo run --example trigger -- explain --body captured.json --headers captured.txt
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod explain;
mod fire;
mod simulate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    about = "Fires signed Sendarix events at an endpoint",
    after_help = "Exits with 1 if a request got no answer."
)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    fire: fire::Fire,
}

#[derive(Subcommand)]
enum Command {
    /// Behave as Sendarix does: six attempts on its schedule, duplicates, lost answers
    Simulate(simulate::Simulate),
    /// Say step by step why a captured request passes or is refused
    Explain(explain::Explain),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    match options.command {
        Some(Command::Simulate(options)) => simulate::run(options).await,
        Some(Command::Explain(options)) => explain::run(&options),
        None => fire::run(options.fire).await,
    }
}
