//! `cutover history [SERVICE]`: shows the generations that the running proxy has adopted, with times, authors and changes.

use clap::Args;

use super::edit::find;
use super::proxy_address::{ProxyAddress, unknown_service};
use super::table::{Align, TextTable};
use super::{CommandResult, Json, block_on};
use crate::admin::history::{ChangeCause, HistoryEntry, HistoryReport};

/// Shows the history of the running proxy.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  shown\n  1  no such service, or the proxy refused\n  3  no proxy answers"
)]
pub(super) struct HistoryArgs {
    /// Show only changes of this service
    service: Option<String>,
    #[command(flatten)]
    json: Json,
}

impl HistoryArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        block_on(self.show(address))?
    }

    async fn show(&self, address: &ProxyAddress) -> CommandResult {
        let (proxy, status) = find(address).await?;
        let mut report: HistoryReport = proxy.get("/api/v1/history").await?;
        if let Some(service) = &self.service {
            report.entries.retain_mut(|entry| narrow(entry, service));
            let runs = status.services.iter().any(|s| s.name == *service);
            if report.entries.is_empty() && !runs {
                let names = status.services.iter().map(|s| s.name.as_str());
                return Err(unknown_service(service, names));
            }
        }
        match self.json.json {
            true => {
                let json = serde_json::to_string_pretty(&report).unwrap_or_default();
                anstream::println!("{json}");
            }
            false => anstream::print!("{}", table(&report)),
        }
        if !report.stored {
            anstream::eprintln!(
                "the proxy can't store its history, which lasts as long as its process: see its log"
            );
        }
        Ok(0)
    }
}

/// Keeps the changes of one service. Returns whether there are any.
fn narrow(entry: &mut HistoryEntry, service: &str) -> bool {
    entry
        .changes
        .retain(|line| line.service.as_deref() == Some(service));
    !entry.changes.is_empty()
}

fn table(report: &HistoryReport) -> String {
    let mut table = TextTable::new(&[
        ("GENERATION", Align::Right),
        ("WHEN", Align::Left),
        ("WHO", Align::Left),
        ("WHAT", Align::Left),
    ]);
    for entry in &report.entries {
        let mut lines = entry.changes.iter().map(|line| line.text.clone());
        let first = lines
            .next()
            .unwrap_or_else(|| unchanged(entry.by).to_owned());
        table.row([
            entry.generation.to_string(),
            when(&entry.at),
            who(entry),
            first,
        ]);
        for line in lines {
            table.row([String::new(), String::new(), String::new(), line]);
        }
    }
    table.to_string()
}

/// A time to the second: `2026-01-31 12:00:00Z`.
pub(super) fn when(at: &str) -> String {
    let seconds = at.split(['.', 'Z']).next().unwrap_or(at);
    format!("{}Z", seconds.replace('T', " "))
}

fn who(entry: &HistoryEntry) -> String {
    match &entry.who {
        Some(who) => who.clone(),
        None => entry.by.as_str().to_owned(),
    }
}

/// The line of an entry without changes.
fn unchanged(by: ChangeCause) -> &'static str {
    match by {
        ChangeCause::Start => "proxy started",
        _ => "comments or layout",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::history::ChangeLine;

    fn entry(generation: u64, who: Option<&str>, changes: &[&str]) -> HistoryEntry {
        let line = |text: &&str| ChangeLine {
            service: text.split_once(':').map(|(service, _)| service.to_owned()),
            text: (*text).to_owned(),
        };
        HistoryEntry {
            generation,
            at: "2026-01-31T12:00:00.123Z".into(),
            by: ChangeCause::File,
            who: who.map(str::to_owned),
            hash: String::new(),
            changes: changes.iter().map(line).collect(),
        }
    }

    #[test]
    fn each_change_has_a_line() {
        let report = HistoryReport {
            stored: true,
            entries: vec![
                entry(
                    12,
                    Some("alice@host (shift)"),
                    &["shop: v2 5%", "api: a added"],
                ),
                entry(3, None, &[]),
            ],
        };
        let expected = "\
GENERATION  WHEN                  WHO                 WHAT
        12  2026-01-31 12:00:00Z  alice@host (shift)  shop: v2 5%
                                                      api: a added
         3  2026-01-31 12:00:00Z  file                comments or layout
";
        assert_eq!(table(&report), expected);
    }

    #[test]
    fn entries_are_narrowed_to_a_service() {
        let mut both = entry(1, None, &["shop: a", "api: b"]);
        assert!(narrow(&mut both, "api"));
        assert_eq!(both.changes.len(), 1);
        assert!(!narrow(&mut both, "shop"));
    }
}
