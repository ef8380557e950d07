//! The audit log: the changes by an adopted configuration, one line per service, version and listener.
//!
//! [`changes`] compares two snapshots and is pure; [`log`] writes the result. Desired shares come from the specifications and
//! effective ones from the snapshots, so the log shows both when an edit is made and when the stable gate lets it take effect.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::admin::{shares, view};
use crate::config::Spec;
use crate::config::flag::FlagSpec;
use crate::config::spec::{self, Share};
use crate::index::{FlagIx, ServiceIx, VersionIx};
use crate::snapshot::{Service, Snapshot};

/// Limit of lines per generation. Further changes are only counted.
const MAX_LINES: usize = 100;

/// One line of the audit log. Fields that are `None` did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    service: Option<String>,
    version: Option<String>,
    /// A flag of the service whose share changed, or which was added or removed.
    flag: Option<String>,
    listener: Option<String>,
    /// `added` or `removed`.
    change: Option<&'static str>,
    stable_before: Option<String>,
    stable: Option<String>,
    /// The desired share.
    share_before: Option<String>,
    share: Option<String>,
    /// The effective share, if it doesn't simply follow the desired one.
    effective_before: Option<String>,
    effective: Option<String>,
    endpoints_added: Option<String>,
    endpoints_removed: Option<String>,
    /// Names of other keys whose values changed.
    keys: Option<String>,
}

impl Change {
    /// The service that changed; `None` for listeners and the process as a whole.
    pub(super) fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// Describes the change in one line: `shop: v2 5% -> 25%`. Contains no values of keys other than shares and endpoints, and
    /// therefore no secrets.
    pub(super) fn words(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.version.clone());
        if let Some(flag) = &self.flag {
            words.push(format!("flag {flag}"));
        }
        if let Some(listener) = &self.listener {
            words.push(format!("listener {listener}"));
        }
        words.extend(self.change.map(str::to_owned));
        let mut parts = Vec::new();
        let none = || "none".to_owned();
        if let Some(stable) = &self.stable {
            let before = self.stable_before.clone().unwrap_or_else(none);
            parts.push(format!("stable {before} -> {stable}"));
        }
        if let (Some(before), Some(share)) = (&self.share_before, &self.share) {
            parts.push(format!("{before} -> {share}"));
        }
        if let (Some(before), Some(effective)) = (&self.effective_before, &self.effective) {
            parts.push(format!("in effect {before} -> {effective}"));
        }
        let endpoints = [("+", &self.endpoints_added), ("-", &self.endpoints_removed)];
        for (sign, list) in endpoints {
            let each = list.iter().flat_map(|list| list.split(", "));
            parts.extend(each.map(|endpoint| format!("{sign}{endpoint}")));
        }
        if let Some(keys) = &self.keys {
            parts.push(format!("{keys} changed"));
        }
        if !parts.is_empty() {
            words.push(parts.join(", "));
        }
        let words = words.join(" ");
        match &self.service {
            Some(service) => format!("{service}: {words}"),
            None => words,
        }
    }
}

/// Logs the changes of a generation.
pub(crate) fn log(generation: u64, changes: &[Change]) {
    for change in changes.iter().take(MAX_LINES) {
        let text = |value: &'_ Option<String>| value.clone();
        tracing::info!(
            generation,
            service = text(&change.service),
            version = text(&change.version),
            flag = text(&change.flag),
            listener = text(&change.listener),
            change = change.change,
            stable_before = text(&change.stable_before),
            stable = text(&change.stable),
            share_before = text(&change.share_before),
            share = text(&change.share),
            effective_before = text(&change.effective_before),
            effective = text(&change.effective),
            endpoints_added = text(&change.endpoints_added),
            endpoints_removed = text(&change.endpoints_removed),
            keys = text(&change.keys),
            "configuration adopted"
        );
    }
    if changes.len() > MAX_LINES {
        let more = changes.len() - MAX_LINES;
        tracing::info!(
            generation,
            more,
            "configuration adopted, further changes are not listed"
        );
    }
}

/// The differences, in the order of the new configuration, followed by the services that were removed.
pub(crate) fn changes(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let mut found = Vec::new();
    found.extend(process(&old.spec, &new.spec));
    listeners(&old.spec, &new.spec, &mut found);
    let before: HashMap<&str, ServiceIx> = by_name(&old.spec).collect();
    let after: HashMap<&str, ServiceIx> = by_name(&new.spec).collect();
    for (name, at) in by_name(&new.spec) {
        match before.get(name) {
            Some(was) => service((old, *was), (new, at), &mut found),
            None => {
                found.push(entire(name, "added"));
                let versions = &new.spec.services[at].versions;
                let versions = VersionIx::all(versions.len());
                found.extend(versions.filter_map(|v| version(name, None, (new, at, v))));
            }
        }
    }
    let gone = by_name(&old.spec).filter(|(name, _)| !after.contains_key(name));
    found.extend(gone.map(|(name, _)| entire(name, "removed")));
    found
}

fn by_name(spec: &Spec) -> impl Iterator<Item = (&str, ServiceIx)> {
    let names = spec.services.iter().map(|s| s.name.as_str());
    names.zip(ServiceIx::all(spec.services.len()))
}

fn entire(service: &str, change: &'static str) -> Change {
    Change {
        service: Some(service.to_owned()),
        change: Some(change),
        ..Change::default()
    }
}

/// Changed keys that belong to no service or listener.
fn process(old: &Spec, new: &Spec) -> Option<Change> {
    let keys = [
        ("workers", old.workers != new.workers),
        ("admin", old.admin != new.admin),
        ("state_dir", old.state_dir != new.state_dir),
        ("shutdown", old.shutdown != new.shutdown),
        ("limits", old.limits != new.limits),
        ("access_log", old.access_log != new.access_log),
        ("trace", old.trace != new.trace),
        ("acme", old.acme != new.acme),
    ];
    let keys = keys.iter().filter(|(_, changed)| *changed);
    let keys = list(keys.map(|(key, _)| *key))?;
    Some(Change {
        keys: Some(keys),
        ..Change::default()
    })
}

fn listeners(old: &Spec, new: &Spec, found: &mut Vec<Change>) {
    let of = |listener: &spec::ListenerSpec| Change {
        listener: Some(listener.name.clone()),
        ..Change::default()
    };
    for listener in &new.listeners {
        match old.listeners.iter().find(|l| l.name == listener.name) {
            None => found.push(Change {
                change: Some("added"),
                ..of(listener)
            }),
            Some(was) if was != listener => found.push(Change {
                keys: changed_keys(&view::listener(was), &view::listener(listener), &[]),
                ..of(listener)
            }),
            Some(_) => {}
        }
    }
    let remains = |l: &&spec::ListenerSpec| new.listeners.iter().any(|n| n.name == l.name);
    found.extend(
        old.listeners
            .iter()
            .filter(|l| !remains(l))
            .map(|l| Change {
                change: Some("removed"),
                ..of(l)
            }),
    );
}

/// The changes of a service that is in both snapshots, given by its index in each.
fn service(old: (&Snapshot, ServiceIx), new: (&Snapshot, ServiceIx), found: &mut Vec<Change>) {
    let (was, is) = (&old.0.spec.services[old.1], &new.0.spec.services[new.1]);
    // A service that is reused has the same specification and the same effective split.
    if Arc::ptr_eq(&old.0.services[old.1], &new.0.services[new.1]) {
        return;
    }
    let name = &is.name;
    if was != is {
        let stable = |s: &spec::ServiceSpec| s.stable_name().to_owned();
        let moved = stable(was) != stable(is);
        // These keys have lines or fields of their own.
        let except = ["stable", "split", "versions", "flags"];
        let change = Change {
            service: Some(name.clone()),
            stable_before: moved.then(|| stable(was)),
            stable: moved.then(|| stable(is)),
            keys: changed_keys(&view::service(was), &view::service(is), &except),
            ..Change::default()
        };
        if moved || change.keys.is_some() {
            found.push(change);
        }
    }
    flags(
        (was, &old.0.services[old.1]),
        (is, &new.0.services[new.1]),
        found,
    );
    for (at, it) in VersionIx::enumerate(&is.versions) {
        let before = was.version(&it.name).map(|v| (old.0, old.1, v));
        found.extend(version(name, before, (new.0, new.1, at)));
    }
    let remains = |v: &spec::VersionSpec| is.versions.iter().any(|n| n.name == v.name);
    let gone = was.versions.iter().filter(|v| !remains(v));
    found.extend(gone.map(|v| Change {
        version: Some(v.name.clone()),
        ..entire(name, "removed")
    }));
}

/// The changes of a service's flags.
fn flags(
    (was, before): (&spec::ServiceSpec, &Service),
    (is, after): (&spec::ServiceSpec, &Service),
    found: &mut Vec<Change>,
) {
    let of = |flag: &FlagSpec| Change {
        service: Some(is.name.clone()),
        flag: Some(flag.name.clone()),
        ..Change::default()
    };
    for (at, flag) in FlagIx::enumerate(&is.flags) {
        let desired = flag_share(is, at);
        let Some(old) = was.flags.iter().position(|old| old.name == flag.name) else {
            found.push(Change {
                change: Some("added"),
                share_before: Some(Share(0).to_string()),
                share: Some(desired),
                ..of(flag)
            });
            continue;
        };
        let old = FlagIx(old);
        let desired = (flag_share(was, old), desired);
        let share = |service: &Service, at: FlagIx| service.routing.flags[at].share.to_string();
        let effective = (share(before, old), share(after, at));
        let shifted = desired.0 != desired.1;
        // As with versions: an effective share that changes together with the desired one would only repeat it.
        let differs = effective.0 != effective.1 && !(shifted && effective == desired);
        let other_when = was.flags[old].when != flag.when;
        if shifted || differs || other_when {
            found.push(Change {
                share_before: shifted.then_some(desired.0),
                share: shifted.then_some(desired.1),
                effective_before: differs.then_some(effective.0),
                effective: differs.then_some(effective.1),
                keys: other_when.then(|| "when".to_owned()),
                ..of(flag)
            });
        }
    }
    let remains = |flag: &&FlagSpec| is.flags.iter().any(|now| now.name == flag.name);
    let gone = was.flags.iter().filter(|flag| !remains(flag));
    found.extend(gone.map(|flag| Change {
        change: Some("removed"),
        ..of(flag)
    }));
}

/// The share of a flag as the file writes it.
fn flag_share(service: &spec::ServiceSpec, flag: FlagIx) -> String {
    match service.rolling_flag() == Some(flag) {
        true => "rollout".to_owned(),
        false => service.flags[flag].share.to_string(),
    }
}

/// A version: a snapshot, and the indices of the service and of the version in it.
type VersionAt<'s> = (&'s Snapshot, ServiceIx, VersionIx);

fn version(service: &str, old: Option<VersionAt<'_>>, new: VersionAt<'_>) -> Option<Change> {
    let spec = |(snapshot, s, v): VersionAt<'_>| snapshot.spec.services[s].versions[v].clone();
    let desired = |(snapshot, s, v): VersionAt<'_>| shares::desired(&snapshot.spec.services[s])[v];
    let effective = |(snapshot, s, v): VersionAt<'_>| snapshot.share(s, v);
    let is = spec(new);
    let was = old.map(spec);
    let desired = (old.map_or(Share(0), desired), desired(new));
    let effective = (old.map_or(Share(0), effective), effective(new));
    let endpoints = |version: &spec::VersionSpec| -> Vec<String> {
        version.endpoints.iter().map(view::endpoint).collect()
    };
    let now = endpoints(&is);
    let before = was.as_ref().map(endpoints).unwrap_or_default();
    let only_in = |these: &[String], others: &[String]| {
        list(
            these
                .iter()
                .filter(|e| !others.contains(e))
                .map(String::as_str),
        )
    };
    let keys = was.as_ref().filter(|was| **was != is).and_then(|was| {
        changed_keys(
            &view::one_version(was),
            &view::one_version(&is),
            &["endpoints"],
        )
    });
    let shifted = desired.0 != desired.1;
    // An effective share that changes together with the desired one would only repeat it.
    let differs = effective.0 != effective.1 && !(shifted && effective == desired);
    let change = Change {
        service: Some(service.to_owned()),
        version: Some(is.name.clone()),
        change: old.is_none().then_some("added"),
        share_before: shifted.then(|| desired.0.to_string()),
        share: shifted.then(|| desired.1.to_string()),
        effective_before: differs.then(|| effective.0.to_string()),
        effective: differs.then(|| effective.1.to_string()),
        endpoints_added: only_in(&now, &before),
        endpoints_removed: only_in(&before, &now),
        keys,
        ..Change::default()
    };
    let same = Change {
        service: change.service.clone(),
        version: change.version.clone(),
        ..Change::default()
    };
    (change != same).then_some(change)
}

/// The names of the keys whose values differ, except those in `except`.
fn changed_keys(old: &Value, new: &Value, except: &[&str]) -> Option<String> {
    let keys = new.as_object()?.iter();
    let changed = keys.filter(|(key, value)| old.get(key) != Some(value));
    list(
        changed
            .map(|(key, _)| key.as_str())
            .filter(|k| !except.contains(k)),
    )
}

/// Joins the items with commas; `None` if there are none.
fn list<'a>(items: impl Iterator<Item = &'a str>) -> Option<String> {
    let items: Vec<&str> = items.collect();
    (!items.is_empty()).then(|| items.join(", "))
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
