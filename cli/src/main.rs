//! The command line of `sendarix-webhooks`: `sendarix trigger`, `simulate`, `explain`, `letters` and
//! `suppressions`.

mod client;
mod explain;
mod letters;
mod output;
mod place;
mod simulate;
#[cfg(feature = "sql")]
mod suppressions;
mod trigger;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

#[derive(Parser)]
#[command(
    name = "sendarix",
    version,
    about = "Send signed Sendarix events, simulate Sendarix, explain a refused request, and manage dead letters and suppressions",
    args_override_self = true,
    after_help = "Exit status:
  0  everything went as it should
  1  a request got no answer, an event was given up, a request is refused, dead letters are left, or an
     address is suppressed
  2  the command could not do its work; standard error says why

Environment:
  SENDARIX_WEBHOOK_SECRET           the secret that the endpoint shares with Sendarix
  SENDARIX_WEBHOOK_SECRET_PREVIOUS  the secret before it, for `explain`"
)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send signed events to an endpoint
    Trigger(trigger::Trigger),
    /// Behave as Sendarix does: six attempts on its schedule, copies, lost answers
    Simulate(simulate::Simulate),
    /// Say step by step why a captured request passes or is refused
    Explain(explain::Explain),
    /// List, count, show, redrive, discard and purge dead letters
    Letters(letters::Letters),
    /// Export, import, ask and change the suppression list
    #[cfg(feature = "sql")]
    Suppressions(suppressions::Suppressions),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Trigger(options) => trigger::run(options).await,
        Command::Simulate(options) => simulate::run(options).await,
        Command::Explain(options) => explain::run(&options),
        Command::Letters(options) => letters::run(options).await,
        #[cfg(feature = "sql")]
        Command::Suppressions(options) => suppressions::run(options).await,
        Command::Completions { shell } => output::completions(shell, &mut Options::command()),
    };
    match done {
        Ok(code) => code,
        // The reader of a pipe, such as `head`, has seen enough.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format_args!("sendarix: {error:#}"));
            ExitCode::from(2)
        }
    }
}
