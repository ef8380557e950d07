//! `cutover flag SERVICE NAME=SHARE...`: switches features of an application on for a share of its users, or lets them follow the
//! rollout plan.
//!
//! As `cutover shift`, the command edits the configuration file, or with `--admin` alone asks the proxy to edit its own, and waits
//! until every worker decides by the new share.

use clap::Args;

use super::edit::progress::{Edit, Goal};
use super::edit::{ApiEdit, FileSession};
use super::proxy_address::ProxyAddress;
use super::{CommandResult, block_on};
use crate::config::Spec;
use crate::config::file_edit::{FileEdit, FlagChange};
use crate::config::flag::FlagSpec;
use crate::config::spec::Share;

/// Changes the shares of the users for whom flags are on.
#[derive(Debug, Args)]
#[command(
    after_help = "A share of 0% switches a flag off for all users, except for requests that match its `when`.\n\nExit codes:\n  0  in effect on every worker\n  1  refused, or not in effect in time; the message says whether the file was changed\n  3  no proxy answers; without --admin the file was changed"
)]
pub(super) struct FlagArgs {
    /// Name of the service
    service: String,
    /// Share of the users for whom a flag is on, such as `new-checkout=5%`, or `new-checkout=rollout` to follow the rollout plan
    #[arg(required = true, value_name = "NAME=SHARE", value_parser = flag_change)]
    changes: Vec<(String, FlagChange)>,
}

fn flag_change(text: &str) -> Result<(String, FlagChange), String> {
    match text.split_once('=') {
        Some((flag, share)) if !flag.is_empty() => Ok((flag.to_owned(), share.parse()?)),
        _ => Err("expected NAME=SHARE, for example new-checkout=5%".to_owned()),
    }
}

impl FlagArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        match address.edits_through_api(Some(&self.service)) {
            true => block_on(self.ask(address))?,
            false => block_on(self.edit(address))?,
        }
    }

    /// Edits the file.
    async fn edit(&self, address: &ProxyAddress) -> CommandResult {
        let mut session = FileSession::begin(address, "flag").await?;
        let edit = FileEdit::Flags {
            service: self.service.clone(),
            changes: self.changes.clone(),
        };
        let edited = session.save(&edit).await?;
        let edit = |hash, before| Edit::of_flags(&self.service, self.goals(), hash, before);
        let (_, live) = session.adopted(&edited, edit, self.summary()).await?;
        anstream::println!("{live}");
        self.print_targets(&edited.spec);
        Ok(0)
    }

    /// Lets the proxy edit its file.
    async fn ask(&self, address: &ProxyAddress) -> CommandResult {
        let changes = self.changes.iter();
        let edit = ApiEdit {
            command: "flag",
            service: &self.service,
            part: "flags",
            values: changes
                .map(|(flag, share)| (flag.clone(), share.to_string().into()))
                .collect(),
            goals: self.goals(),
            summary: self.summary(),
        };
        edit.make(address).await
    }

    fn goals(&self) -> Vec<Goal> {
        let changes = self.changes.iter();
        changes
            .map(|(flag, share)| Goal::Flag(flag.clone(), *share))
            .collect()
    }

    fn summary(&self) -> String {
        let words = self.changes.iter();
        let words: Vec<String> = words
            .map(|(flag, share)| format!("{flag} {share}"))
            .collect();
        format!("{}: {}", self.service, words.join(", "))
    }

    /// Prints which of the flags at 0 % are still on for some requests.
    fn print_targets(&self, spec: &Spec) {
        let service = spec.services.iter().find(|s| s.name == self.service);
        let is_off = |flag: &&FlagSpec| {
            let off = (flag.name.clone(), FlagChange::Share(Share(0)));
            self.changes.contains(&off) && !flag.when.is_empty()
        };
        let flags = service.iter().flat_map(|service| &service.flags);
        for flag in flags.filter(is_off) {
            let name = &flag.name;
            anstream::println!("{name} stays on for requests that match its `when`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_parsed_as_typed() {
        let change = |change| Ok(("f".to_owned(), change));
        assert_eq!(flag_change("f=5%"), change(FlagChange::Share(Share(5_000))));
        assert_eq!(flag_change("f=rollout"), change(FlagChange::Rollout));
        for wrong in ["", "f", "=5%", "f=", "f=5", "f=101%", "f=on"] {
            assert!(flag_change(wrong).is_err(), "{wrong}");
        }
    }
}
