//! `cutover deploy SERVICE VERSION=ENDPOINT,...`: gives a version new endpoints and starts its rollout or cut-over.
//!
//! The edit is one of the file, or of the proxy's own file with `--admin` alone. With `--wait` the command then follows the status
//! of the proxy; [`outcome`] judges it.

mod outcome;

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::edit::progress::Edit;
use super::edit::{FileSession, NO_PROXY, find, post};
use super::error::CommandError;
use super::proxy::{Proxy, ProxyError};
use super::proxy_address::ProxyAddress;
use super::shift::shares;
use super::{CommandResult, Json, block_on};
use crate::admin::file_editor::EditReport;
use crate::admin::status::ProxyStatus;
use crate::admin::writes::DeployRequest;
use crate::config::file_edit::{FileEdit, VersionEdit};
use outcome::{DeployOutcome, evidence, judge, rollout};

/// Interval between two requests for the status.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Time for the proxy to show the rollout that the edit starts.
const START: Duration = Duration::from_secs(10);

/// Time for which the proxy may be away, as during a restart, before the command gives up.
const ABSENCE: Duration = Duration::from_secs(15);

/// Exit code of a deployment that was taken back.
const ROLLED_BACK: u8 = 4;

/// Exit code of a deployment that waits for an operator.
const AWAITING_APPROVAL: u8 = 5;

/// Deploys endpoints as a version of a service.
#[derive(Debug, Args)]
#[command(
    after_help = "With a plan ([service.NAME.rollout]) the version then follows it; without one it becomes stable once it passes its health check.\n\nExit codes:\n  0  done; without --wait, started\n  1  refused, or not done within --timeout (the deployment continues)\n  3  no proxy answers\n  4  rolled back or aborted, with the reason and the evidence\n  5  awaiting approval: see `cutover status`"
)]
pub(super) struct DeployArgs {
    /// Name of the service
    service: String,
    /// The version and its endpoints, such as `green=10.0.2.10:8080,10.0.2.11:8080`; a version alone keeps its endpoints
    #[arg(value_name = "VERSION=ENDPOINT,...", value_parser = target)]
    target: DeployTarget,
    /// Label of what is deployed, such as a release
    #[arg(short, long)]
    label: Option<String>,
    /// Wait until it is done, rolled back or needs approval
    #[arg(short, long)]
    wait: bool,
    /// Give up --wait after this time [default: never]
    #[arg(long, value_name = "TIME", value_parser = super::time, requires = "wait")]
    timeout: Option<Duration>,
    #[command(flatten)]
    json: Json,
}

/// A version, and its new endpoints if there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DeployTarget {
    version: String,
    endpoints: Option<Vec<String>>,
}

fn target(text: &str) -> Result<DeployTarget, String> {
    let expected = "expected VERSION=ENDPOINT,..., for example green=10.0.2.10:8080,10.0.2.11:8080";
    let (version, endpoints) = match text.split_once('=') {
        None => (text, None),
        Some((version, list)) => {
            let endpoints: Vec<String> = list.split(',').map(|e| e.trim().to_owned()).collect();
            if endpoints.iter().any(String::is_empty) {
                return Err(expected.to_owned());
            }
            (version, Some(endpoints))
        }
    };
    match version.is_empty() {
        true => Err(expected.to_owned()),
        false => Ok(DeployTarget {
            version: version.to_owned(),
            endpoints,
        }),
    }
}

/// A deployment that the proxy has adopted.
struct StartedDeploy {
    proxy: Proxy,
    /// The generation that runs it.
    generation: u64,
    /// The edit in words.
    summary: String,
}

impl DeployArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        block_on(self.deploy(address))?
    }

    async fn deploy(&self, address: &ProxyAddress) -> CommandResult {
        let began = Instant::now();
        let started = match address.edits_through_api(Some(&self.service)) {
            true => self.ask(address).await?,
            false => self.edit(address).await?,
        };
        if self.wait {
            return self.follow(started, began).await;
        }
        let status = started.proxy.status().await?;
        let now = match judge(&status, self.names(), started.generation) {
            DeployOutcome::Unknown => "its rollout starts".to_owned(),
            DeployOutcome::Done(what)
            | DeployOutcome::Waiting(what)
            | DeployOutcome::RolledBack(what)
            | DeployOutcome::AwaitingApproval(what)
            | DeployOutcome::Replaced(what) => what,
        };
        let line = format!("{}; {now}", started.summary);
        self.print("adopted", &line, started.generation, &status);
        Ok(0)
    }

    fn names(&self) -> (&str, &str) {
        (&self.service, &self.target.version)
    }

    /// Edits the file.
    async fn edit(&self, address: &ProxyAddress) -> Result<StartedDeploy, CommandError> {
        // Without a proxy nothing would be deployed, so that the file isn't touched either.
        find(address)
            .await
            .map_err(|fault| fault.with("the file was not changed"))?;
        let mut session = FileSession::begin(address, "deploy").await?;
        let edit = FileEdit::Deploy(VersionEdit {
            service: self.service.clone(),
            version: self.target.version.clone(),
            endpoints: self.target.endpoints.clone(),
            label: self.label.clone(),
        });
        let edited = session.save(&edit).await?;
        let summary = shares(&self.service, &edited.spec);
        let adopted = session.adopted(&edited, Edit::of_text, summary.clone());
        let (proxy, _) = adopted.await?;
        let generation = proxy.status().await?.generation;
        Ok(StartedDeploy {
            proxy,
            generation,
            summary,
        })
    }

    /// Lets the proxy edit its file.
    async fn ask(&self, address: &ProxyAddress) -> Result<StartedDeploy, CommandError> {
        let path = format!("/api/v1/services/{}/deploy", self.service);
        let request = DeployRequest {
            version: self.target.version.clone(),
            endpoints: self.target.endpoints.clone(),
            label: self.label.clone(),
        };
        let (proxy, report) = post::<EditReport>(address, "deploy", &path, &request).await?;
        Ok(StartedDeploy {
            proxy,
            generation: report.generation,
            summary: format!("{}: {} deployed", self.service, self.target.version),
        })
    }

    /// Follows the deployment to its end.
    async fn follow(&self, started: StartedDeploy, began: Instant) -> CommandResult {
        let (mut said, mut last) = (String::new(), None);
        let mut seen = Instant::now();
        loop {
            let status = match started.proxy.status().await {
                Ok(status) => status,
                Err(ProxyError::Unreachable(_)) if seen.elapsed() < ABSENCE => {
                    tokio::time::sleep(POLL_INTERVAL).await;
                    continue;
                }
                Err(ProxyError::Unreachable(fault)) => return Err(fault.exit(NO_PROXY)),
                Err(ProxyError::Failed(fault)) => return Err(fault),
            };
            seen = Instant::now();
            let outcome = match judge(&status, self.names(), started.generation) {
                DeployOutcome::Unknown if began.elapsed() < START => {
                    DeployOutcome::Waiting("its rollout starts".to_owned())
                }
                DeployOutcome::Unknown => DeployOutcome::Replaced(format!(
                    "the proxy shows no rollout of {}",
                    self.target.version
                )),
                outcome => outcome,
            };
            match &outcome {
                DeployOutcome::Waiting(what) if *what != said => {
                    anstream::eprintln!("{}: {what}", self.service);
                    said.clone_from(what);
                }
                DeployOutcome::Waiting(_) => {}
                // The same outcome must come twice in a row: the first one may be that of an earlier rollout, just before the proxy
                // starts this one.
                outcome if last.as_ref() == Some(outcome) => {
                    return self.ended(outcome, &status, (&started, began));
                }
                _ => {}
            }
            if let DeployOutcome::Waiting(what) = &outcome
                && self.timeout.is_some_and(|limit| began.elapsed() >= limit)
            {
                self.print("timeout", what, started.generation, &status);
                let limit = humantime::format_duration(self.timeout.unwrap_or_default());
                return Err(CommandError::new(format!("not done after {limit}: {what}"))
                    .with("the deployment continues"));
            }
            last = Some(outcome);
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Reports the end of the deployment.
    fn ended(
        &self,
        outcome: &DeployOutcome,
        status: &ProxyStatus,
        (started, began): (&StartedDeploy, Instant),
    ) -> CommandResult {
        let print = |word: &str, what: &str| self.print(word, what, started.generation, status);
        match outcome {
            DeployOutcome::Done(what) => {
                let took =
                    humantime::format_duration(Duration::from_secs(began.elapsed().as_secs()));
                print("done", &format!("{}: {what}, after {took}", self.service));
                Ok(0)
            }
            DeployOutcome::RolledBack(why) => {
                print("rolled-back", why);
                let fault = CommandError::new(why.clone()).exit(ROLLED_BACK);
                let rollout = rollout(status, self.names());
                let lines = rollout.map(evidence).unwrap_or_default();
                Err(lines.into_iter().fold(fault, CommandError::with))
            }
            DeployOutcome::AwaitingApproval(what) => {
                print("awaiting-approval", &format!("{}: {what}", self.service));
                Ok(AWAITING_APPROVAL)
            }
            DeployOutcome::Replaced(why) => {
                print("replaced", why);
                Err(CommandError::new(format!(
                    "the deployment was replaced: {why}"
                )))
            }
            // Only a decided outcome ends the wait.
            DeployOutcome::Waiting(_) | DeployOutcome::Unknown => Ok(0),
        }
    }

    /// Prints a line, or the report as JSON. Failures have their line on stderr.
    fn print(&self, word: &str, line: &str, generation: u64, status: &ProxyStatus) {
        let failed = matches!(word, "rolled-back" | "replaced" | "timeout");
        if !self.json.json {
            if !failed {
                anstream::println!("{line}");
            }
            return;
        }
        let report = json!({
            "service": self.service,
            "version": self.target.version,
            "outcome": word,
            "generation": generation,
            "reason": line,
            "rollout": rollout(status, self.names()),
        });
        let report = serde_json::to_string_pretty(&report).unwrap_or_default();
        anstream::println!("{report}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_parsed_as_typed() {
        let of = |version: &str, endpoints: Option<&[&str]>| {
            let owned = |list: &[&str]| list.iter().map(|e| (*e).to_owned()).collect();
            Ok(DeployTarget {
                version: version.to_owned(),
                endpoints: endpoints.map(owned),
            })
        };
        assert_eq!(target("v2=a:1"), of("v2", Some(&["a:1"])));
        let two = of("v2", Some(&["a:1 weight=2", "b:1"]));
        assert_eq!(target("v2=a:1 weight=2, b:1"), two);
        assert_eq!(target("v2"), of("v2", None));
        for wrong in ["", "=a:1", "v2=", "v2=a:1,", "v2=,a:1"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
