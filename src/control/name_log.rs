//! Log lines about names of endpoints: changes of their addresses, and lookups that fail.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::telemetry::log_limit::LogLimit;
use crate::upstream::resolve::name_state::{NameChange, NameState};
use crate::upstream::resolve::record::{LookupName, ResolvedAddress};

/// Interval at which a name that keeps failing is logged.
const REPEAT: Duration = Duration::from_secs(60);
/// Shortest time between two lines about failures, of all names together.
const FAILURES: Duration = Duration::from_millis(500);
/// Shortest time between two lines about changes, of all names together.
const CHANGES: Duration = Duration::from_millis(50);
/// Most addresses that one field of a line lists.
const LISTED: usize = 16;

/// Writes the lines, and remembers which names fail.
#[derive(Debug)]
pub(super) struct NameLog {
    /// Time at which a failure of each name was last logged.
    failing: RefCell<HashMap<LookupName, Instant>>,
    failures: LogLimit,
    changes: LogLimit,
}

impl Default for NameLog {
    fn default() -> Self {
        Self {
            failing: RefCell::default(),
            failures: LogLimit::new(1, FAILURES, Instant::now()),
            changes: LogLimit::new(1, CHANGES, Instant::now()),
        }
    }
}

impl NameLog {
    /// Logs the result of a lookup at `now`: the change of `state`, and the failure if it failed.
    pub(super) fn result(
        &self,
        name: &LookupName,
        change: &NameChange,
        state: &NameState,
        now: Instant,
    ) {
        match change {
            NameChange::None => {}
            NameChange::Set { added, removed } => {
                if let Some(omitted) = self.changes.check(0, now) {
                    let addresses = state.addresses().len();
                    let (added, removed) = (list(added), list(removed));
                    tracing::info!(%name, addresses, added, removed, omitted, "name resolved to other addresses");
                }
            }
            // This is rare and always worth a line.
            NameChange::Emptied { removed } => tracing::error!(
                %name,
                removed = list(removed),
                "name has not existed for five minutes: its addresses are given up and get no more requests"
            ),
        }
        self.failure(name, state, now);
    }

    /// Forgets a name that has left the configuration.
    pub(super) fn forget(&self, name: &LookupName) {
        self.failing.borrow_mut().remove(name);
    }

    fn failure(&self, name: &LookupName, state: &NameState, now: Instant) {
        let mut failing = self.failing.borrow_mut();
        let Some((error, since)) = state.failure() else {
            if failing.remove(name).is_some() {
                tracing::info!(%name, addresses = state.addresses().len(), "name can be resolved again");
            }
            return;
        };
        let is_due = |logged: &Instant| now.saturating_duration_since(*logged) >= REPEAT;
        if !failing.get(name).is_none_or(is_due) {
            return;
        }
        let Some(omitted) = self.failures.check(0, now) else {
            return;
        };
        failing.insert(name.clone(), now);
        let failing_s = now.saturating_duration_since(since).as_secs();
        let keeps = match state.has_addresses() {
            true => "the last addresses stay in use",
            false => "it has no address, and its endpoints get no requests",
        };
        tracing::warn!(%name, %error, failing_s, omitted, "name can't be resolved: {keeps}");
    }
}

fn list(all: &[ResolvedAddress]) -> Option<String> {
    let first = all.iter().take(LISTED);
    let mut texts: Vec<String> = first.map(text).collect();
    if all.len() > LISTED {
        texts.push(format!("and {} more", all.len() - LISTED));
    }
    (!texts.is_empty()).then(|| texts.join(","))
}

fn text(found: &ResolvedAddress) -> String {
    match found.port {
        Some(port) => std::net::SocketAddr::new(found.ip, port).to_string(),
        None => found.ip.to_string(),
    }
}
