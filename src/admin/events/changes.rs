//! Compares the proxy with the last observation and makes events of the differences. Pure: the observation is an argument.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::ring::{EventRing, NewBatch, NextEvents, write_event};
use super::stamp::{StatusStamp, rollout_state};
use crate::admin::history::HistoryEntry;
use crate::admin::status::ServiceStatus;

/// The status of the proxy at one time.
pub(super) struct Observation<'a> {
    /// The status without its services.
    pub proxy: Value,
    /// The services, in the order of the configuration.
    pub services: Vec<SeenService>,
    /// Collects the status of the service with this position.
    pub status: &'a dyn Fn(usize) -> ServiceStatus,
    /// Generations that were adopted since the last observation, oldest first.
    pub adopted: Vec<HistoryEntry>,
}

/// A service at one time.
#[derive(Clone, Debug)]
pub(super) struct SeenService {
    pub name: Arc<str>,
    pub stamp: StatusStamp,
}

/// The state that events have reported last, and these events.
#[derive(Debug)]
pub(super) struct ToldState {
    epoch: String,
    ring: EventRing,
    /// Whether the proxy was observed before.
    has_begun: bool,
    proxy: ToldProxy,
    services: Vec<ToldService>,
    /// The service whose figures come first in the next round.
    turn: usize,
    /// The status event with everything that was reported, if a stream has needed it since.
    whole: Option<Bytes>,
}

#[derive(Debug, Default)]
struct ToldProxy {
    json: Value,
    /// The status without values that change with time alone.
    figures: Value,
    /// The status without values that change with time, and without figures.
    state: Value,
}

#[derive(Debug)]
struct ToldService {
    name: Arc<str>,
    json: Bytes,
    /// The stamp of the status that `json` has. Its `rest` is `None` if figures may have changed since.
    stamp: StatusStamp,
    /// Hash of everything that is not a figure.
    state: u64,
    /// Hash of the rollout's state.
    rollout: u64,
}

/// The services that were reported before. Each can be taken once.
struct FormerServices {
    all: Vec<Option<ToldService>>,
    /// Positions of the services by name. Services mostly stay where they were, so that it is seldom needed.
    by_name: Option<HashMap<Arc<str>, usize>>,
}

impl FormerServices {
    fn new(all: Vec<ToldService>) -> Self {
        Self {
            all: all.into_iter().map(Some).collect(),
            by_name: None,
        }
    }

    /// Takes the service with this name, which is likely at this position.
    fn take(&mut self, at: usize, name: &str) -> Option<ToldService> {
        let is_it = |told: &ToldService| *told.name == *name;
        if self
            .all
            .get(at)
            .is_some_and(|told| told.as_ref().is_some_and(is_it))
        {
            return self.all[at].take();
        }
        let by_name = self.by_name.get_or_insert_with(|| {
            let all = self.all.iter().enumerate();
            all.filter_map(|(at, told)| Some((told.as_ref()?.name.clone(), at)))
                .collect()
        });
        self.all[*by_name.get(name)?].take()
    }
}

impl ToldState {
    /// A state in which nothing was reported yet. `epoch` begins the id of every event.
    pub(super) fn new(epoch: String) -> Self {
        Self {
            epoch,
            ring: EventRing::default(),
            has_begun: false,
            proxy: ToldProxy::default(),
            services: Vec::new(),
            turn: 0,
            whole: None,
        }
    }

    /// Makes events of the differences, and returns the number of the newest event.
    ///
    /// Changes of state are always reported. Where only figures have changed, services are reported in turn, up to `figures` bytes.
    pub(super) fn observe(&mut self, now: Observation<'_>, figures: usize) -> u64 {
        let mut batch = self.ring.begin();
        self.compare_services(&mut batch, &now);
        self.tell_figures(&mut batch, &now, figures);
        self.compare_proxy(&mut batch, now.proxy, figures > 0);
        for entry in now.adopted {
            let services = entry.changes.iter().filter_map(|c| c.service.as_deref());
            let services = services.map(Arc::from).collect();
            batch.push(&self.epoch, "adopted", &text(&entry), services);
        }
        // A client that follows from the beginning gets the whole status.
        if std::mem::replace(&mut self.has_begun, true) && self.ring.add(batch) {
            self.whole = None;
        }
        self.ring.newest()
    }

    /// Reports services that are new, are gone or have another state.
    fn compare_services(&mut self, batch: &mut NewBatch, now: &Observation<'_>) {
        let mut told = FormerServices::new(std::mem::take(&mut self.services));
        for (at, SeenService { name, stamp }) in now.services.iter().enumerate() {
            let former = told.take(at, name);
            let former = match former {
                Some(former) if former.stamp.state == stamp.state => {
                    self.services.push(former);
                    continue;
                }
                former => former,
            };
            let status = (now.status)(at);
            let rollout = hash(|to| rollout_state(status.rollout.as_ref(), to));
            let state = hash(|to| service_state(&status, to));
            match former {
                Some(mut former) if former.state == state => {
                    // The figures of the service may have changed.
                    former.stamp = StatusStamp {
                        rest: None,
                        ..*stamp
                    };
                    self.services.push(former);
                    continue;
                }
                Some(former) if former.rollout != rollout => {
                    let change = json!({ "service": status.name, "rollout": status.rollout });
                    batch.push(&self.epoch, "rollout", &text(&change), vec![name.clone()]);
                }
                _ => {}
            }
            let json = Bytes::from(text(&status));
            batch.push(&self.epoch, "service", &json, vec![name.clone()]);
            self.services.push(ToldService {
                name: name.clone(),
                json,
                stamp: *stamp,
                state,
                rollout,
            });
        }
        for gone in told.all.into_iter().flatten() {
            let json = text(&json!({ "name": &*gone.name }));
            batch.push(&self.epoch, "removed", &json, vec![gone.name]);
        }
    }

    /// Reports services whose figures have changed, up to `most` bytes. The others come first the next time.
    fn tell_figures(&mut self, batch: &mut NewBatch, now: &Observation<'_>, most: usize) {
        let count = self.services.len();
        let first = if self.turn < count { self.turn } else { 0 };
        let mut left = most;
        for at in (first..count).chain(0..first) {
            if left == 0 {
                self.turn = at;
                return;
            }
            let (told, stamp) = (&mut self.services[at], &now.services[at].stamp);
            if stamp.rest.is_some() && told.stamp.rest == stamp.rest {
                continue;
            }
            let status = (now.status)(at);
            let json = text(&status);
            told.stamp.rest = stamp.rest;
            if told.json == json {
                continue;
            }
            left = left.saturating_sub(json.len());
            batch.push(&self.epoch, "service", &json, vec![told.name.clone()]);
            told.state = hash(|to| service_state(&status, to));
            told.json = json.into();
        }
        self.turn = 0;
    }

    fn compare_proxy(&mut self, batch: &mut NewBatch, now: Value, figures: bool) {
        let without_time = without_time(now.clone());
        let state = without_figures(without_time.clone());
        let is_news = self.proxy.state != state || figures && self.proxy.figures != without_time;
        if is_news {
            batch.push(&self.epoch, "proxy", &text(&now), Vec::new());
            self.proxy.figures = without_time;
            self.proxy.state = state;
        }
        self.proxy.json = now;
    }

    /// The event that reports everything to a new stream: of all services, or of one. `None` if there is no such service.
    pub(super) fn whole(&mut self, service: Option<&str>) -> Option<Bytes> {
        let newest = (&*self.epoch, self.ring.newest());
        let mut event = Vec::new();
        if let Some(service) = service {
            let told = self.services.iter().find(|told| *told.name == *service)?;
            write_event(&mut event, newest, "service", &told.json);
            return Some(event.into());
        }
        if let Some(whole) = &self.whole {
            return Some(whole.clone());
        }
        let mut json = text(&self.proxy.json);
        // An object with at least one key, which ends with its brace.
        json.pop();
        json.extend_from_slice(b",\"services\":[");
        for (at, told) in self.services.iter().enumerate() {
            json.extend_from_slice(if at == 0 { b"" } else { b"," });
            json.extend_from_slice(&told.json);
        }
        json.extend_from_slice(b"]}");
        write_event(&mut event, newest, "status", &json);
        let whole = Bytes::from(event);
        self.whole = Some(whole.clone());
        Some(whole)
    }

    /// The number of the newest event.
    pub(super) fn newest(&self) -> u64 {
        self.ring.newest()
    }

    /// The events after the one with this number: of all services, or of one.
    pub(super) fn after(&self, seen: u64, service: Option<&str>) -> NextEvents {
        self.ring.after(seen, service)
    }

    /// Whether a service with this name was reported.
    pub(super) fn has(&self, service: &str) -> bool {
        self.services.iter().any(|told| *told.name == *service)
    }

    /// Whether the proxy was not observed yet.
    pub(super) fn is_new(&self) -> bool {
        !self.has_begun
    }

    /// The number of the event with this id; `None` if it is no event of this process.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        let (epoch, number) = id.rsplit_once('-')?;
        let number = number.parse().ok()?;
        (epoch == self.epoch && number <= self.ring.newest()).then_some(number)
    }

    /// The event that tells a stream that it can't continue where it was.
    pub(super) fn reset(&self, is_of_this_process: bool) -> Bytes {
        let reason = match is_of_this_process {
            true => "too-old",
            false => "restarted",
        };
        let mut event = Vec::new();
        let newest = (&*self.epoch, self.ring.newest());
        write_event(
            &mut event,
            newest,
            "reset",
            &text(&json!({ "reason": reason })),
        );
        event.into()
    }
}

/// Serialises on one line. The documents have string keys only, so that this doesn't fail.
fn text(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

/// The facts about the proxy without seconds that pass. The time until a certificate expires is reported every hour.
fn without_time(mut proxy: Value) -> Value {
    proxy["uptime_s"].take();
    if let Some(fleet) = proxy.get_mut("fleet") {
        fleet["alone_s"].take();
    }
    for certificate in items(&mut proxy["certificates"]) {
        let left = &mut certificate["expires_in_s"];
        *left = left.as_i64().map(|seconds| seconds / 3600).into();
    }
    proxy
}

fn without_figures(mut proxy: Value) -> Value {
    for listener in items(&mut proxy["listeners"]) {
        listener["connections"].take();
    }
    proxy
}

fn items(list: &mut Value) -> impl Iterator<Item = &mut Value> {
    list.as_array_mut().into_iter().flatten()
}

fn hash(write: impl FnOnce(&mut Xxh3)) -> u64 {
    let mut hasher = Xxh3::new();
    write(&mut hasher);
    hasher.finish()
}

/// Hashes the parts of a status whose changes are reported at once. Counts, rates, durations and evidence are left out.
fn service_state(service: &ServiceStatus, to: &mut Xxh3) {
    let of_split = (&service.split.desired, &service.split.effective);
    (
        &service.stable,
        &service.answer,
        of_split,
        &service.awaiting,
    )
        .hash(to);
    service.warnings.hash(to);
    rollout_state(service.rollout.as_ref(), to);
    for flag in &service.flags {
        (&flag.name, &flag.share).hash(to);
    }
    for group in &service.new_errors {
        (&group.version, &group.path, group.status, &group.reason).hash(to);
    }
    for version in &service.versions {
        (&version.name, &version.label, &version.share).hash(to);
        for endpoint in &version.endpoints {
            (
                &endpoint.address,
                endpoint.weight,
                &endpoint.health,
                &endpoint.since,
            )
                .hash(to);
            (endpoint.ejected.is_some(), endpoint.draining).hash(to);
        }
    }
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
