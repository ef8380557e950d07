//! Keeps the addresses of endpoints' names up to date: looks each name up when its answer expires, for as long as the
//! configuration has it.
//!
//! [`NameState`] decides the effect of an answer and the time of the next lookup. This module runs the lookups as tasks of the
//! control thread, at most [`CONCURRENT`] at a time, logs changes, and tells the publisher, which compiles the addresses into
//! the next snapshot.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::MutexGuard;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use super::name_log::NameLog;
use crate::config::Spec;
use crate::upstream::resolve::name_state::{KnownNames, NameChange, NameState};
use crate::upstream::resolve::record::{AddressSet, LookupFailure, LookupName, Resolutions};
use crate::upstream::resolve::resolver::{LookupOutcome, Resolver};

/// Most lookups at a time. The others wait for their turn.
const CONCURRENT: usize = 64;
/// Time limit for one lookup, with all servers and search domains.
const LIMIT: Duration = Duration::from_secs(10);
/// Shortest time between two generations caused by changed addresses. Changes in the meantime are combined.
const SPACING: Duration = Duration::from_millis(100);
/// The wait when no name is due.
const LATER: Duration = Duration::from_secs(3600);

/// The publisher's handle to the lookups. Dropping it stops them.
#[derive(Debug)]
pub(super) struct Discovery {
    shared: Rc<SharedDiscovery>,
    task: AbortHandle,
}

/// The state that the publisher's handle and the task of the lookups share, on the control thread. Neither borrows it across an
/// await.
#[derive(Debug)]
struct SharedDiscovery {
    resolver: Resolver,
    names: RefCell<TrackedNames>,
    /// The state of each name; the admin API reads it.
    known: KnownNames,
    log: NameLog,
    /// Notified when the next lookup may have become due earlier.
    reschedule: Notify,
    /// Notified when a lookup has ended.
    answered: Notify,
    /// Notified when addresses have changed.
    changed: Notify,
    /// Whether addresses have changed since the last [`Discovery::news`].
    has_news: Cell<bool>,
    /// Time at which [`Discovery::news`] last returned.
    told: Cell<Option<Instant>>,
}

/// The names of the configuration that was adopted last.
#[derive(Debug, Default)]
struct TrackedNames {
    /// Time at which each name is due; `None` during its lookup.
    due: HashMap<LookupName, Option<Instant>>,
    /// The same names, in the order of these times.
    queue: BTreeSet<(Instant, LookupName)>,
    /// The absolute name under which the addresses of a name were found, where a name server had them.
    absolute: HashMap<LookupName, String>,
    /// The addresses in use. Every name has an entry.
    resolutions: Resolutions,
}

impl TrackedNames {
    fn schedule(&mut self, name: &LookupName, at: Instant) {
        if let Some(Some(before)) = self.due.insert(name.clone(), Some(at)) {
            self.queue.remove(&(before, name.clone()));
        }
        self.queue.insert((at, name.clone()));
    }

    /// Takes the next name that is due at `now`.
    fn next_due(&mut self, now: Instant) -> Option<LookupName> {
        let (at, _) = self.queue.first()?;
        if *at > now {
            return None;
        }
        let (_, name) = self.queue.pop_first()?;
        self.due.insert(name.clone(), None);
        Some(name)
    }

    fn remove(&mut self, name: &LookupName) {
        if let Some(Some(at)) = self.due.remove(name) {
            self.queue.remove(&(at, name.clone()));
        }
        self.absolute.remove(name);
        self.resolutions.remove(name);
    }
}

impl Discovery {
    /// Starts without names. Must run on the control thread's runtime.
    pub(super) fn start() -> Self {
        let shared = Rc::new(SharedDiscovery {
            resolver: Resolver::of_system(),
            names: RefCell::default(),
            known: KnownNames::default(),
            log: NameLog::default(),
            reschedule: Notify::new(),
            answered: Notify::new(),
            changed: Notify::new(),
            has_news: Cell::new(false),
            told: Cell::new(None),
        });
        let task = spawn_local(run(shared.clone()));
        Self {
            shared,
            task: task.abort_handle(),
        }
    }

    /// Whether the task that runs the lookups has ended. It loops forever, so only a panic ends it.
    pub(super) fn is_dead(&self) -> bool {
        self.task.is_finished()
    }

    /// The state of each name.
    pub(super) fn known(&self) -> &KnownNames {
        &self.shared.known
    }

    /// Follows a configuration: looks up the names that it adds, and drops those that it doesn't have.
    pub(super) fn adopt(&self, spec: &Spec) {
        let shared = &self.shared;
        let other_servers = shared.resolver.set_servers(&spec.dns.servers);
        let versions = spec.services.iter().flat_map(|service| &service.versions);
        let endpoints = versions.flat_map(|version| &version.endpoints);
        let wanted: HashSet<LookupName> = { endpoints }
            .filter_map(|e| LookupName::of(&e.address))
            .collect();
        let mut names = shared.names.borrow_mut();
        let mut known = shared.known();
        let gone: Vec<LookupName> = { names.due.keys() }
            .filter(|name| !wanted.contains(name))
            .cloned()
            .collect();
        for name in gone {
            names.remove(&name);
            known.remove(&name);
            shared.log.forget(&name);
        }
        let now = Instant::now();
        for name in wanted {
            let is_new = !names.due.contains_key(&name);
            if is_new {
                let state = known.entry(name.clone()).or_default();
                names.resolutions.insert(name.clone(), state.addresses());
            }
            // A lookup that is under way completes, and schedules the next one.
            if is_new || other_servers && names.due[&name].is_some() {
                names.schedule(&name, now);
            }
        }
        shared.reschedule.notify_one();
    }

    /// Takes over the addresses that a predecessor had, for names that have none yet.
    pub(super) fn inherit(&self, sets: Vec<(LookupName, AddressSet)>) {
        let mut names = self.shared.names.borrow_mut();
        let mut known = self.shared.known();
        for (name, set) in sets {
            let Some(state) = known.get_mut(&name).filter(|s| !s.has_addresses()) else {
                continue;
            };
            *state = NameState::inherited(set.clone());
            names.resolutions.insert(name, set);
        }
    }

    /// Waits until every name has been looked up, for at most `limit`. Names that take longer have no addresses until then.
    pub(super) async fn first_round(&self, limit: Duration) {
        let round = async {
            while !self.shared.are_all_known() {
                self.shared.answered.notified().await;
            }
        };
        let _ = timeout(limit, round).await;
        // The addresses that have been found until now are compiled next.
        self.shared.has_news.set(false);
    }

    /// Waits until addresses have changed. Cancellation safe.
    pub(super) async fn news(&self) {
        while !self.shared.has_news.get() {
            self.shared.changed.notified().await;
        }
        if let Some(told) = self.shared.told.get() {
            sleep_until(told + SPACING).await;
        }
        // Cleared only after the pause: what has changed in the meantime belongs to the same generation. If this is cancelled, the
        // news is still there for the next call.
        self.shared.told.set(Some(Instant::now()));
        self.shared.has_news.set(false);
    }

    /// Calls `with` with the addresses in use.
    pub(super) fn with_resolutions<T>(&self, with: impl FnOnce(&Resolutions) -> T) -> T {
        with(&self.shared.names.borrow().resolutions)
    }

    /// The addresses in use, for a successor.
    pub(super) fn sets(&self) -> Vec<(LookupName, AddressSet)> {
        let names = self.shared.names.borrow();
        let known = names.resolutions.iter().filter(|(_, set)| !set.is_empty());
        known
            .map(|(name, set)| (name.clone(), set.clone()))
            .collect()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SharedDiscovery {
    fn known(&self) -> MutexGuard<'_, HashMap<LookupName, NameState>> {
        // The lock is not poisoned: nothing panics while it is held.
        self.known.lock().expect("names lock")
    }

    fn are_all_known(&self) -> bool {
        let known = self.known();
        known.values().all(NameState::is_known)
    }

    async fn lookup(&self, name: &LookupName) -> LookupOutcome {
        let absolute = self.names.borrow().absolute.get(name).cloned();
        let looked = self.resolver.lookup(name, absolute.as_deref());
        timeout(LIMIT, looked).await.unwrap_or(LookupOutcome {
            result: Err(LookupFailure::Timeout),
            absolute: None,
        })
    }

    /// Takes the result of a lookup, and schedules the next one.
    fn on_outcome(&self, name: LookupName, outcome: LookupOutcome) {
        let mut names = self.names.borrow_mut();
        let mut known = self.known();
        // A reload may have removed the name in the meantime.
        let Some(state) = known.get_mut(&name) else {
            return;
        };
        if let Some(absolute) = outcome.absolute {
            names.absolute.insert(name.clone(), absolute);
        }
        let now = Instant::now();
        let (change, pause) = state.on_result(outcome.result, now.into_std(), fastrand::f64());
        self.log.result(&name, &change, state, now.into_std());
        if change != NameChange::None {
            names.resolutions.insert(name.clone(), state.addresses());
            self.has_news.set(true);
            self.changed.notify_one();
        }
        drop(known);
        names.schedule(&name, now + pause);
        self.answered.notify_one();
    }
}

async fn run(shared: Rc<SharedDiscovery>) {
    let mut lookups = JoinSet::new();
    loop {
        while lookups.len() < CONCURRENT {
            let due = shared.names.borrow_mut().next_due(Instant::now());
            let Some(name) = due else { break };
            let shared = shared.clone();
            lookups.spawn_local(async move {
                let outcome = shared.lookup(&name).await;
                (name, outcome)
            });
        }
        let next = shared.names.borrow().queue.first().map(|(at, _)| *at);
        let has_room = lookups.len() < CONCURRENT;
        tokio::select! {
            Some(ended) = lookups.join_next() => match ended {
                Ok((name, outcome)) => shared.on_outcome(name, outcome),
                // A lookup is only cancelled with this task. If it panicked, its name would never be due again.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            () = sleep_until(next.unwrap_or_else(|| Instant::now() + LATER)), if has_room => {}
            () = shared.reschedule.notified() => {}
        }
    }
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;
