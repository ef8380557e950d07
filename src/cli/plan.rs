//! `cutover plan FILE`: shows what a configuration file would change in the running proxy.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::drain::counted;
use super::edit::find;
use super::error::CommandError;
use super::proxy_address::{ProxyAddress, shown};
use super::{CommandResult, Json, block_on};
use crate::admin::plan::{OpenWork, PlanReport, ServicePlan};
use crate::admin::writes::PlanRequest;
use crate::config;
use crate::control::preflight::preflight;

/// Exit code if the file would change something.
const CHANGES: u8 = 2;

/// Shows what a file would change.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  nothing\n  1  the file is not valid, or the proxy can't compare it\n  2  something\n  3  no proxy answers"
)]
pub(super) struct PlanArgs {
    /// The configuration file to compare; the proxy is found by its own file, see -c
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    json: Json,
}

impl PlanArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        let text = checked(&self.file)?;
        block_on(self.plan(address, text))?
    }

    async fn plan(&self, address: &ProxyAddress, text: String) -> CommandResult {
        let (proxy, _) = find(address).await?;
        let request = PlanRequest {
            text,
            name: Some(shown(&self.file)),
        };
        let report: PlanReport = proxy.post("/api/v1/plan", &request).await?;
        match self.json.json {
            true => {
                let json = serde_json::to_string_pretty(&report).unwrap_or_default();
                anstream::println!("{json}");
            }
            false => anstream::print!("{}", text_of(&report)),
        }
        Ok(if report.is_empty() { 0 } else { CHANGES })
    }
}

/// Reads a file and checks it as `run` would, with the files that it names.
fn checked(file: &Path) -> Result<String, CommandError> {
    let loaded = config::load(file).map_err(|error| CommandError::new(error.rendered(false)))?;
    let found = preflight(&loaded, file);
    if found.errors.is_empty() {
        return Ok(loaded.text);
    }
    let errors: Vec<String> = found.errors.iter().map(|e| e.rendered(false)).collect();
    Err(CommandError::new(errors.join("\n")))
}

pub(super) fn text_of(report: &PlanReport) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{line}");
    };
    for change in &report.changes {
        line(change.text.clone());
    }
    for service in &report.services {
        lines_of(service).into_iter().for_each(&mut line);
    }
    for key in &report.restart {
        line(format!("warning: `{key}` takes effect after a restart"));
    }
    for warning in &report.warnings {
        warning.lines().map(str::to_owned).for_each(&mut line);
    }
    if report.is_empty() {
        line(match report.identical {
            true => format!(
                "nothing changes: generation {} runs this text",
                report.generation
            ),
            false => "nothing changes: only comments or layout differ".to_owned(),
        });
    }
    text
}

fn lines_of(service: &ServicePlan) -> Vec<String> {
    let mut lines: Vec<String> = service.changes.iter().map(|c| c.text.clone()).collect();
    match &service.moves {
        None => {}
        Some(moves) if moves.is_empty() => lines.push("  no user moves".to_owned()),
        Some(moves) => lines.extend(moves.iter().map(|m| {
            let (users, from, to) = (&m.users, &m.from, &m.to);
            format!("  {users} of users move from {from} to {to}")
        })),
    }
    lines.extend(service.flags.iter().map(|m| {
        let verb = if m.gain { "gain" } else { "lose" };
        format!("  {} of users {verb} flag {}", m.users, m.flag)
    }));
    lines.extend(service.open.iter().map(open));
    lines.extend(service.awaits.iter().map(|line| format!("  {line}")));
    lines.extend(service.warnings.iter().map(|w| format!("  warning: {w}")));
    lines
}

/// Describes the work in flight: `v1: 3 requests, 1 stream in flight stay`.
fn open(work: &OpenWork) -> String {
    let kinds = [(work.requests, "request"), (work.streams, "stream")];
    let kinds = kinds.into_iter().filter(|(n, _)| *n > 0);
    let kinds: Vec<String> = kinds.map(|(n, what)| counted(n, what)).collect();
    let leaving = match work.leaving {
        0 => "all stay".to_owned(),
        n => format!("{n} of them on endpoints that leave, until the deadline of the drain"),
    };
    format!(
        "  {} in flight on {}: {leaving}",
        kinds.join(", "),
        work.version
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::history::ChangeLine;
    use crate::admin::plan::{FlagMove, UserMove};

    fn report(services: Vec<ServicePlan>) -> PlanReport {
        PlanReport {
            identical: false,
            generation: 7,
            changes: Vec::new(),
            services,
            restart: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_plan_reads_as_sentences() {
        let change = ChangeLine {
            service: Some("shop".into()),
            text: "shop: v2 5% -> 25%".into(),
        };
        let work = |requests, streams, leaving| OpenWork {
            version: "v1".into(),
            requests,
            streams,
            leaving,
        };
        let service = ServicePlan {
            service: "shop".into(),
            changes: vec![change],
            moves: Some(vec![UserMove {
                from: "v1".into(),
                to: "v2".into(),
                users: "20%".into(),
            }]),
            flags: vec![FlagMove {
                flag: "search".into(),
                gain: false,
                users: "5%".into(),
            }],
            open: vec![work(2, 0, 0), work(0, 1, 1)],
            awaits: vec!["service shop: v2 gets 25% once it passes".into()],
            warnings: vec!["v2 is small".into()],
        };
        let expected = "\
shop: v2 5% -> 25%
  20% of users move from v1 to v2
  5% of users lose flag search
  2 requests in flight on v1: all stay
  1 stream in flight on v1: 1 of them on endpoints that leave, until the deadline of the drain
  service shop: v2 gets 25% once it passes
  warning: v2 is small
";
        assert_eq!(text_of(&report(vec![service])), expected);
    }

    #[test]
    fn nothing_is_said_in_two_ways() {
        let mut same = report(Vec::new());
        assert!(text_of(&same).contains("comments or layout"));
        same.identical = true;
        assert!(text_of(&same).contains("generation 7"));
        same.restart = vec!["workers".into()];
        assert!(text_of(&same).contains("`workers` takes effect after a restart"));
    }
}
