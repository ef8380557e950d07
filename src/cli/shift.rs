//! `cutover shift SERVICE VERSION=SHARE...` and, for a cut-over, `cutover shift SERVICE VERSION`.
//!
//! The command edits the configuration file, or with `--admin` alone asks the proxy to edit its own, and waits until the edit
//! is in effect.

use clap::Args;

use super::edit::progress::{Edit, Goal};
use super::edit::{ApiEdit, FileSession};
use super::proxy_address::ProxyAddress;
use super::{CommandResult, block_on};
use crate::config::Spec;
use crate::config::file_edit::{FileEdit, SplitChange};
use crate::config::spec::{ServiceSpec, Share};
use crate::index::VersionIx;

/// Moves traffic between the versions of a service.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  in effect on every worker\n  1  refused, held back, or not in effect in time; the message says whether the file was changed\n  3  no proxy answers; without --admin the file was changed"
)]
pub(super) struct ShiftArgs {
    /// Name of the service
    service: String,
    /// Share of a canary, such as `green=5%`, or `green=rollout` to follow the rollout plan; a version without a share becomes
    /// stable
    #[arg(required = true, value_name = "VERSION=SHARE", value_parser = split_change)]
    changes: Vec<(String, SplitChange)>,
}

fn split_change(text: &str) -> Result<(String, SplitChange), String> {
    match text.split_once('=') {
        None if !text.is_empty() => Ok((text.to_owned(), SplitChange::Stable)),
        Some((version, share)) if !version.is_empty() => Ok((version.to_owned(), share.parse()?)),
        _ => Err("expected VERSION=SHARE, for example green=5%".to_owned()),
    }
}

impl ShiftArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        match address.edits_through_api(Some(&self.service)) {
            true => block_on(self.ask(address))?,
            false => block_on(self.edit(address))?,
        }
    }

    /// Edits the file.
    async fn edit(&self, address: &ProxyAddress) -> CommandResult {
        let mut session = FileSession::begin(address, "shift").await?;
        let edit = FileEdit::Split {
            service: self.service.clone(),
            changes: self.changes.clone(),
        };
        let edited = session.save(&edit).await?;
        let summary = shares(&self.service, &edited.spec);
        let versions: Vec<&str> = self.changes.iter().map(|(v, _)| v.as_str()).collect();
        let edit = |hash, before| Edit::new(&self.service, &versions, &edited.spec, hash, before);
        let (_, live) = session.adopted(&edited, edit, summary).await?;
        anstream::println!("{live}");
        Ok(0)
    }

    /// Lets the proxy edit its file.
    async fn ask(&self, address: &ProxyAddress) -> CommandResult {
        let changes = self.changes.iter();
        let goal = |(version, change): &(String, SplitChange)| match change {
            SplitChange::Stable => Some(Goal::Stable(version.clone())),
            SplitChange::Share(share) => Some(Goal::Share(version.clone(), *share)),
            SplitChange::Rollout => None,
        };
        let words: Vec<String> = self.changes.iter().map(words).collect();
        let edit = ApiEdit {
            command: "shift",
            service: &self.service,
            part: "split",
            values: changes
                .map(|(version, change)| (version.clone(), change.to_string().into()))
                .collect(),
            goals: self.changes.iter().filter_map(goal).collect(),
            summary: format!("{}: {}", self.service, words.join(", ")),
        };
        edit.make(address).await
    }
}

fn words((version, change): &(String, SplitChange)) -> String {
    match change {
        SplitChange::Stable => format!("{version} stable"),
        SplitChange::Share(_) | SplitChange::Rollout => format!("{version} {change}"),
    }
}

/// The shares of a service in a file: `shop: v1 95%, v2 5%`.
pub(super) fn shares(service: &str, spec: &Spec) -> String {
    let found = spec.services.iter().find(|s| s.name == service);
    let Some(service) = found else {
        return service.to_owned();
    };
    let name = |version: VersionIx| &service.versions[version].name;
    let canaries: u32 = service.split.iter().map(|(_, share)| share.0).sum();
    let rest = Share(Share::WHOLE - canaries);
    if service.versions.is_empty() {
        return service.name.clone();
    }
    let mut shares = vec![format!("{} {rest}", name(service.stable))];
    let canaries = service.split.iter();
    shares
        .extend(canaries.map(|(v, share)| format!("{} {}", name(*v), canary(service, *v, *share))));
    format!("{}: {}", service.name, shares.join(", "))
}

fn canary(service: &ServiceSpec, version: VersionIx, share: Share) -> String {
    match service.rolling_version() {
        Some(rolling) if rolling == version => "rollout".to_owned(),
        _ => share.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_parsed_as_typed() {
        let change = |version: &str, change| Ok((version.to_owned(), change));
        let five = SplitChange::Share(Share(5_000));
        assert_eq!(split_change("v2=5%"), change("v2", five));
        assert_eq!(
            split_change("v2=rollout"),
            change("v2", SplitChange::Rollout)
        );
        assert_eq!(split_change("v2"), change("v2", SplitChange::Stable));
        for wrong in ["", "=5%", "v2=", "v2=5", "v2=101%"] {
            assert!(split_change(wrong).is_err(), "{wrong}");
        }
    }
}
