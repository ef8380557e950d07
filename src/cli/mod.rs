//! The command line: one file a command.
//!
//! * `run`, `check`: the proxy itself, and the same path up to where it would start.
//! * `status`, `explain`, `shift`, `drain`, `reload`: for an operator; [`proxy`] finds the running proxy for them.
//! * `demo`: everything embedded. `completions`, `man`: for shells and manuals.
//!
//! Errors go to stderr: one line first, detail under it. Exit codes: 0 done, 1 not done, 2 as a command says.

mod check;
mod completions;
mod demo;
mod drain;
mod explain;
mod fault;
mod man;
mod proxy;
mod proxy_address;
mod reload;
mod run;
mod shift;
mod status;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::units;
use fault::CommandError;
use proxy_address::ProxyAddress;

/// A Layer-7 reverse proxy in whose data path deployments happen.
#[derive(Debug, Parser)]
#[command(
    name = "cutover",
    version,
    max_term_width = 100,
    subcommand_required = true
)]
struct Cutover {
    #[command(subcommand)]
    command: CliCommand,
    #[command(flatten)]
    place: ProxyAddress,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the proxy
    Run(run::RunArgs),
    /// Check a configuration: everything that `run` would do, short of listening
    Check(check::CheckArgs),
    /// Watch live traffic move between two versions; needs nothing else
    Demo(demo::Demo),
    /// Say where a request would go, and why
    Explain(explain::Explain),
    /// Show what runs: services, versions, endpoints
    Status(status::Show),
    /// Change the shares of versions in the configuration file, and wait until they are live
    Shift(shift::Shift),
    /// Take endpoints out of use, and wait until nothing is in flight on them
    Drain(drain::DrainArgs),
    /// Read the configuration file again, and wait until it runs on every worker or is rejected
    Reload(reload::Reload),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Print the man page, cutover(1)
    Man(man::Man),
}

/// `--json`, where another program may read.
#[derive(Clone, Copy, Debug, Args)]
struct Json {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a command comes to: its exit code, or why it could not do its work.
type CommandResult = Result<u8, CommandError>;

/// Runs a command line, program name first; the result is the exit code of the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match Cutover::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version go to stdout and are no failure. A closed pipe is nobody's problem.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let outcome = match &parsed.command {
        CliCommand::Run(run) => run.run(&parsed.place),
        CliCommand::Check(check) => check.run(&parsed.place),
        CliCommand::Demo(demo) => demo.run(),
        CliCommand::Explain(explain) => explain.run(&parsed.place),
        CliCommand::Status(status) => status.run(&parsed.place),
        CliCommand::Shift(shift) => shift.run(&parsed.place),
        CliCommand::Drain(drain) => drain.run(&parsed.place),
        CliCommand::Reload(reload) => reload.run(&parsed.place),
        CliCommand::Completions(completions) => completions.run(),
        CliCommand::Man(man) => man.run(),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            let code = ExitCode::from(fault.code);
            match &parsed.command {
                CliCommand::Run(_) => print_within(fault, Duration::from_secs(1)),
                _ => anstream::eprint!("{fault}"),
            }
            code
        }
    }
}

/// Prints a fault without waiting longer than `limit` for the reader of stderr: a log collector that stalls must not
/// keep a service from ending.
fn print_within(fault: CommandError, limit: Duration) {
    let (done, is_done) = mpsc::channel();
    let print = move || {
        anstream::eprint!("{fault}");
        // Nobody waits any more when it took longer.
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(print).is_ok() {
        let _ = is_done.recv_timeout(limit);
    }
}

/// A time on the command line, with the units of the configuration. A bare number is refused: seconds and milliseconds are both
/// in use elsewhere.
fn time(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|error| match text.parse::<f64>() {
        Ok(_) => format!("no unit: did you mean `{text}s`?"),
        Err(_) => error,
    })
}

/// Runs a command's asynchronous part on this thread.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| CommandError::new(format!("the runtime can't start: {error}")))?;
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
    fn options_of_the_place_are_taken_after_the_command() {
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
        assert_eq!(parsed.place.admin.as_deref(), Some("127.0.0.1:9"));
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
