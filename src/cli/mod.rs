//! The command line, with one file for each command.
//!
//! * `run` starts the proxy; `check` takes the same path up to the point where listeners would be bound.
//! * `status`, `history`, `logs`, `explain`, `plan`, `shift`, `flag`, `deploy`, `undo`, `drain` and `reload` talk to the admin API of a running
//!   proxy, which [`proxy`] finds.
//! * `pause`, `resume`, `approve`, `promote`, `abort` and `retry` change the course of a rollout.
//! * `demo` runs a proxy with embedded origins and traffic.
//! * `completions` and `man` print files for shells and manuals.
//!
//! Errors go to stderr: one line that says what failed, then indented detail. The exit code is 0 for success and 1 for
//! failure; commands that use other codes list them in their help.

mod author;
mod check;
mod completions;
mod demo;
mod deploy;
mod drain;
mod edit;
mod error;
mod explain;
mod flag;
mod flag_view;
mod fleet;
mod fleet_init;
mod fleet_view;
mod history;
mod logs;
mod man;
mod mirror_view;
mod plan;
mod proxy;
mod proxy_address;
mod reload;
mod rollout;
mod rollout_view;
mod run;
mod shift;
mod status;
mod table;
mod undo;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::units;
use crate::rollout::machine::OperatorCommand;
use error::CommandError;
use proxy_address::ProxyAddress;

/// A Layer-7 reverse proxy that shifts live traffic between versions, inside the proxy
#[derive(Debug, Parser)]
#[command(
    name = "cutover",
    version = env!("CUTOVER_VERSION"),
    max_term_width = 100,
    subcommand_required = true
)]
struct Cutover {
    #[command(subcommand)]
    command: CliCommand,
    #[command(flatten)]
    address: ProxyAddress,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the proxy
    Run(run::RunArgs),
    /// Check configuration files: everything `run` would do, short of listening
    Check(check::CheckArgs),
    /// Watch live traffic move between two versions of an embedded service
    Demo(demo::DemoArgs),
    /// Show where a request would go, and why
    Explain(explain::ExplainArgs),
    /// Show services, versions and endpoints of the running proxy
    Status(status::StatusArgs),
    /// Show what a configuration file would change in the running proxy
    Plan(plan::PlanArgs),
    /// Change the shares of versions in the configuration file, and wait until they are in effect
    Shift(shift::ShiftArgs),
    /// Change the shares of users for whom flags are on, in the configuration file, and wait until they are in effect
    Flag(flag::FlagArgs),
    /// Give a version new endpoints and start its rollout or cut-over
    Deploy(deploy::DeployArgs),
    /// Show what changed, when and by whom
    History(history::HistoryArgs),
    /// Take back the last change of the configuration file, or go back to a generation
    Undo(undo::UndoArgs),
    /// Show the fleet that the running proxy belongs to
    Fleet(fleet::FleetArgs),
    /// Follow the access log
    Logs(logs::LogsArgs),
    /// Stop sending new requests to endpoints; with --wait, until nothing is in flight
    Drain(drain::DrainArgs),
    /// Hold a rollout at its share until `resume`
    Pause(rollout::RolloutArgs),
    /// Continue a rollout that was paused
    Resume(rollout::RolloutArgs),
    /// Let a rollout that awaits approval go on to its next step
    Approve(rollout::RolloutArgs),
    /// Make the version of a rollout stable, or give its flag to all users, in the configuration file
    Promote(rollout::RolloutArgs),
    /// End a rollout: its version or flag loses its share at once
    Abort(rollout::RolloutArgs),
    /// Begin a rollout again that was rolled back or aborted
    Retry(rollout::RolloutArgs),
    /// Reload the configuration file, and wait until every worker runs it or it is rejected
    Reload(reload::ReloadArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the man page, cutover(1)
    Man(man::ManArgs),
}

/// The `--json` option of commands with machine-readable output.
#[derive(Clone, Copy, Debug, Args)]
struct Json {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The outcome of a command: its exit code, or the error to print.
type CommandResult = Result<u8, CommandError>;

/// Parses and runs a command line, and returns the exit code of the process.
///
/// The first argument is the program name, as in [`std::env::args_os`]. Results are printed to stdout, errors to stderr.
/// `run` returns only when the proxy stops. An invalid command line gives exit code 1.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match Cutover::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // clap also reports --help and --version as errors, but prints them to stdout. A closed pipe is ignored.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let outcome = match &parsed.command {
        CliCommand::Run(run) => run.run(&parsed.address),
        CliCommand::Check(check) => check.run(&parsed.address),
        CliCommand::Demo(demo) => demo.run(),
        CliCommand::Explain(explain) => explain.run(&parsed.address),
        CliCommand::Status(status) => status.run(&parsed.address),
        CliCommand::Shift(shift) => shift.run(&parsed.address),
        CliCommand::Flag(flag) => flag.run(&parsed.address),
        CliCommand::Plan(plan) => plan.run(&parsed.address),
        CliCommand::Deploy(deploy) => deploy.run(&parsed.address),
        CliCommand::History(history) => history.run(&parsed.address),
        CliCommand::Fleet(fleet) => fleet.run(&parsed.address),
        CliCommand::Logs(logs) => logs.run(&parsed.address),
        CliCommand::Undo(undo) => undo.run(&parsed.address),
        CliCommand::Drain(drain) => drain.run(&parsed.address),
        CliCommand::Pause(args) => args.run(OperatorCommand::Pause, &parsed.address),
        CliCommand::Resume(args) => args.run(OperatorCommand::Resume, &parsed.address),
        CliCommand::Approve(args) => args.run(OperatorCommand::Approve, &parsed.address),
        CliCommand::Promote(args) => args.run(OperatorCommand::Promote, &parsed.address),
        CliCommand::Abort(args) => args.run(OperatorCommand::Abort, &parsed.address),
        CliCommand::Retry(args) => args.run(OperatorCommand::Retry, &parsed.address),
        CliCommand::Reload(reload) => reload.run(&parsed.address),
        CliCommand::Completions(completions) => completions.run(),
        CliCommand::Man(man) => man.run(),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = ExitCode::from(error.code);
            match &parsed.command {
                CliCommand::Run(_) => print_within(error, Duration::from_secs(1)),
                _ => anstream::eprint!("{error}"),
            }
            code
        }
    }
}

/// Prints an error, but waits at most `limit` for the reader of stderr.
///
/// A log collector that has stopped reading must not keep the proxy's process from exiting.
fn print_within(error: CommandError, limit: Duration) {
    let (done, is_done) = mpsc::channel();
    let print = move || {
        anstream::eprint!("{error}");
        // The receiver is gone once the limit has passed.
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(print).is_ok() {
        let _ = is_done.recv_timeout(limit);
    }
}

/// Parses a duration on the command line, with the units of the configuration file.
///
/// A bare number is refused, because other tools read it as seconds or as milliseconds.
fn time(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|error| match text.parse::<f64>() {
        Ok(_) => format!("no unit: did you mean `{text}s`?"),
        Err(_) => error,
    })
}

/// Runs the asynchronous part of a command on this thread; `spawn_local` works inside.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| CommandError::new(format!("can't start the async runtime: {error}")))?;
    Ok(runtime.block_on(work))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cutover::command().debug_assert();
    }

    #[test]
    fn options_of_the_proxy_address_may_follow_the_command() {
        let line = [
            "cutover",
            "status",
            "--admin",
            "127.0.0.1:9",
            "-c",
            "x.toml",
        ];
        let parsed = Cutover::try_parse_from(line).unwrap();
        assert!(matches!(parsed.command, CliCommand::Status(_)));
        assert_eq!(parsed.address.admin.as_deref(), Some("127.0.0.1:9"));
    }

    #[test]
    fn a_time_without_a_unit_is_refused_with_the_one_that_was_probably_meant() {
        assert_eq!(time("2").unwrap_err(), "no unit: did you mean `2s`?");
        assert_eq!(time("1.5").unwrap_err(), "no unit: did you mean `1.5s`?");
        assert!(time("2x").unwrap_err().contains("unknown unit"));
        assert_eq!(time("1m30s"), Ok(Duration::from_secs(90)));
    }

    #[test]
    fn usage_errors_are_one_and_help_is_zero() {
        let code = |line: &[&str]| main(line.iter().map(OsString::from));
        let same = |code: ExitCode, expected: u8| {
            assert_eq!(
                format!("{code:?}"),
                format!("{:?}", ExitCode::from(expected))
            );
        };
        same(code(&["cutover", "shift"]), 1);
        same(code(&["cutover", "--version"]), 0);
    }
}
