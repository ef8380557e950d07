//! Follows the keys of all members, and the connection to etcd.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::document::{self, member_name};
use super::presence::Presence;
use crate::admin::fleet::{FleetLink, FleetView, KnownMember};
use crate::control::etcd::{Connection, Entry, Etcd, Listing, WatchEvent, WatchNews};

/// Follows the members of one fleet.
///
/// It only reports: to the view, from which the status and `limit_members` are taken, and to the presence, which writes a missing
/// key again. While etcd doesn't answer, the members in the view stay as they were.
pub(super) struct Roster {
    pub fleet: String,
    pub member: String,
    pub instance: String,
    /// The beginning of the members' keys.
    pub prefix: String,
    pub view: Arc<FleetView>,
    pub presence: Rc<Presence>,
}

impl Roster {
    /// Follows the members. Never returns; safe to cancel.
    pub(super) async fn follow(self, etcd: Etcd) {
        let mut connection = etcd.connection();
        let mut members = etcd.watch(&self.prefix);
        let mut link = LinkLog::default();
        let mut logged = BTreeSet::new();
        self.show(&mut link, &mut connection);
        loop {
            tokio::select! {
                // `etcd` holds the sender.
                Ok(()) = connection.changed() => self.show(&mut link, &mut connection),
                news = members.next() => self.on_news(news),
            }
            self.log_disagreements(&mut logged);
        }
    }

    /// Shows and logs the state of the connection.
    fn show(&self, log: &mut LinkLog, connection: &mut watch::Receiver<Connection>) {
        let state = connection.borrow_and_update().clone();
        log.write(&self.fleet, &state);
        let link = match state {
            Connection::Connected { endpoint, .. } => FleetLink::Connected(endpoint),
            Connection::Alone { since, error } => {
                FleetLink::Alone(since, error.map(|error| error.to_string()))
            }
        };
        self.view.update(|state| state.link = link);
    }

    fn on_news(&self, news: WatchNews) {
        match news {
            WatchNews::Listed {
                listing,
                is_restored,
            } => self.on_listed(listing, is_restored),
            WatchNews::Changed { events, revision } => {
                for event in events {
                    match event {
                        WatchEvent::Put(entry) => self.on_put(&entry),
                        WatchEvent::Deleted { key, .. } => self.on_deleted(&key),
                    }
                }
                self.view.update(|state| state.revision = revision);
            }
            WatchNews::Lost(error) => {
                tracing::debug!(fleet = self.fleet, reason = %error, "fleet: watch lost");
            }
            WatchNews::Resumed { revision } => {
                tracing::debug!(fleet = self.fleet, revision, "fleet: watch resumed");
            }
        }
    }

    /// Takes a list of all members.
    fn on_listed(&self, listing: Listing, is_restored: bool) {
        if is_restored {
            tracing::warn!(
                fleet = self.fleet,
                revision = listing.revision,
                "fleet: etcd's history is another one: restored from a backup, or replaced"
            );
        }
        if listing.is_truncated {
            tracing::warn!(
                fleet = self.fleet,
                "fleet: too many members, ignoring the rest"
            );
        }
        let read = |entry: &Entry| self.read(entry);
        let members = listing.entries.iter().filter_map(read).collect();
        self.view.update(|state| {
            state.members = members;
            state.revision = listing.revision;
        });
        let own = format!("{}{}", self.prefix, self.member);
        if !listing.entries.iter().any(|entry| entry.key == own) {
            self.presence.is_missing();
        }
    }

    fn read(&self, entry: &Entry) -> Option<(String, KnownMember)> {
        let read = match member_name(&entry.key, &self.prefix) {
            Some(name) => document::read(&entry.value).map(|member| (name.to_owned(), member)),
            None => Err("not the name of a member"),
        };
        if let Err(reason) = read {
            tracing::warn!(key = ?entry.key, reason, "fleet: ignoring a key");
        }
        read.ok()
    }

    fn on_put(&self, entry: &Entry) {
        let Some((name, member)) = self.read(entry) else {
            return self.on_deleted(&entry.key);
        };
        let is_other = name == self.member && member.instance != self.instance;
        if is_other {
            tracing::warn!(
                fleet = self.fleet,
                member = name,
                "fleet: another proxy has the same name: set `fleet.member`"
            );
        }
        self.view.update(|state| {
            state.members.insert(name, member);
            if is_other {
                let text = "another proxy has the same member name";
                state.fault = Some(text.to_owned());
            }
        });
    }

    fn on_deleted(&self, key: &str) {
        if let Some(name) = member_name(key, &self.prefix) {
            self.view.update(|state| drop(state.members.remove(name)));
            if name == self.member {
                self.presence.is_missing();
            }
        }
    }

    /// Logs disagreements that are new.
    fn log_disagreements(&self, logged: &mut BTreeSet<String>) {
        let now: BTreeSet<_> = self.view.disagreements().into_iter().collect();
        for disagreement in now.difference(logged) {
            tracing::warn!(
                fleet = self.fleet,
                "fleet: members disagree: {disagreement}"
            );
        }
        *logged = now;
    }
}

/// Logs when the connection is lost, and when it is back.
#[derive(Default)]
struct LinkLog {
    /// Time at which the connection was lost, once that is logged.
    alone: Option<Instant>,
    is_connected: bool,
}

impl LinkLog {
    fn write(&mut self, fleet: &str, state: &Connection) {
        match state {
            Connection::Connected { endpoint, cluster } => {
                if !self.is_connected {
                    let alone_s = self.alone.take().map(|since| since.elapsed().as_secs());
                    tracing::info!(
                        fleet,
                        endpoint,
                        cluster = format!("{cluster:x}"),
                        alone_s,
                        "fleet: connected to etcd"
                    );
                }
                self.is_connected = true;
            }
            Connection::Alone { since, error } => {
                self.is_connected = false;
                if let (None, Some(error)) = (self.alone, error) {
                    self.alone = Some(*since);
                    tracing::warn!(fleet, reason = %error, "fleet: alone, etcd is not available");
                }
            }
        }
    }
}
