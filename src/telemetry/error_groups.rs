//! Failures of versions in groups: by version, path template, status and reason, with the ids of some requests.
//!
//! Groups show which failures a canary has that stable doesn't have, which a counter can't tell. They are kept in memory, a
//! bounded number for each service. Each worker has a shard of its own, and never waits for it: a failure that happens while the
//! shard is being read isn't counted.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::worker_id::WorkerId;
use crate::reason::Reason;

/// Number of request ids that are kept for each group.
const SAMPLES: usize = 5;
/// Number of groups that a worker keeps for each service. A new one replaces the one that was seen longest ago.
const MAX_GROUPS: usize = 128;
/// Time for which a group is kept after its last failure.
const RETENTION: Duration = Duration::from_secs(3600);
/// Longest path template in bytes.
const MAX_TEMPLATE: usize = 128;
/// Longest request id that is kept, in bytes.
const MAX_ID: usize = 128;
/// The text in place of a variable part of a path.
const VARIABLE: &str = "{id}";

/// The properties that the failures of a group share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorGroupKey {
    /// Name of the version.
    pub version: String,
    /// The path, with `{id}` in place of its variable parts.
    pub path: String,
    /// The status that counts for the version.
    pub status: u16,
    /// Why the attempts failed.
    pub reason: Reason,
}

/// A group of failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorGroup {
    /// What its failures have in common.
    pub key: ErrorGroupKey,
    /// Number of failed attempts.
    pub count: u64,
    /// `x-request-id` of the first requests of the group.
    pub samples: Vec<String>,
    /// When the last attempt failed.
    seen: Instant,
}

/// The groups of one service.
#[derive(Debug)]
pub struct ErrorGroups {
    shards: Box<[Mutex<GroupShard>]>,
}

type GroupShard = HashMap<ErrorGroupKey, ErrorGroup>;

impl ErrorGroups {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
        }
    }

    /// Adds a failed attempt that worker `worker` saw. Never waits.
    pub(crate) fn add(
        &self,
        worker: WorkerId,
        (version, path): (&str, &[u8]),
        (status, reason): (u16, Reason),
        id: &[u8],
        now: Instant,
    ) {
        let key = ErrorGroupKey {
            version: version.to_owned(),
            path: template(path),
            status,
            reason,
        };
        let Ok(mut groups) = self.shards[worker.0].try_lock() else {
            return;
        };
        if let Some(group) = groups.get_mut(&key) {
            group.add(id, now);
            return;
        }
        if groups.len() >= MAX_GROUPS {
            let oldest = groups.values().min_by_key(|group| group.seen);
            if let Some(oldest) = oldest.map(|group| group.key.clone()) {
                groups.remove(&oldest);
            }
        }
        let mut group = ErrorGroup {
            key: key.clone(),
            count: 0,
            samples: Vec::new(),
            seen: now,
        };
        group.add(id, now);
        groups.insert(key, group);
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        // No holder of this lock panics; see `all`.
        let is_empty = |shard: &Mutex<GroupShard>| {
            shard
                .lock()
                .expect("no holder of this lock panics")
                .is_empty()
        };
        self.shards.iter().all(is_empty)
    }

    /// Returns the groups that were seen in the last hour, the largest first.
    pub(crate) fn all(&self, now: Instant) -> Vec<ErrorGroup> {
        let mut merged: GroupShard = HashMap::new();
        for shard in &self.shards {
            // The holders of this lock only insert into and copy a map.
            let mut groups = shard.lock().expect("no holder of this lock panics");
            groups.retain(|_, group| now.saturating_duration_since(group.seen) < RETENTION);
            for (key, group) in groups.iter() {
                match merged.get_mut(key) {
                    Some(known) => known.merge(group),
                    None => drop(merged.insert(key.clone(), group.clone())),
                }
            }
        }
        let mut all: Vec<ErrorGroup> = merged.into_values().collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
        all
    }

    /// Returns the groups of other versions that `stable` doesn't have, the largest first.
    pub fn unknown_to(&self, stable: &str, now: Instant) -> Vec<ErrorGroup> {
        let of_stable = |group: &ErrorGroup| group.key.version == stable;
        let (known, mut others): (Vec<_>, Vec<_>) = self.all(now).into_iter().partition(of_stable);
        let known: HashSet<_> = known.iter().map(ErrorGroup::failure).collect();
        others.retain(|group| !known.contains(&group.failure()));
        others
    }
}

impl ErrorGroup {
    /// The failure, regardless of the version.
    fn failure(&self) -> (&str, u16, Reason) {
        (&self.key.path, self.key.status, self.key.reason)
    }

    fn add(&mut self, id: &[u8], now: Instant) {
        self.count += 1;
        self.seen = now;
        if self.samples.len() < SAMPLES && id.len() <= MAX_ID {
            let id = String::from_utf8_lossy(id);
            self.samples.push(id.escape_debug().collect());
        }
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.seen = self.seen.max(other.seen);
        let room = SAMPLES.saturating_sub(self.samples.len());
        let samples = other.samples.iter().take(room);
        self.samples.extend(samples.cloned());
    }
}

/// The template of a path: segments that name one of many things become `{id}`. Such a segment has a digit, or is longer than
/// words are.
pub(crate) fn template(path: &[u8]) -> String {
    const LONGEST_WORD: usize = 32;
    let text = String::from_utf8_lossy(path);
    let mut template = String::new();
    for segment in text.trim_start_matches('/').split('/') {
        template.push('/');
        let is_version = segment
            .strip_prefix('v')
            .is_some_and(|n| n.len() < 3 && n.bytes().all(|b| b.is_ascii_digit()));
        let is_variable = segment.bytes().any(|b| b.is_ascii_digit()) && !is_version;
        match is_variable || segment.len() > LONGEST_WORD {
            true => template.push_str(VARIABLE),
            false => template.extend(segment.escape_debug()),
        }
        if template.len() > MAX_TEMPLATE {
            template.truncate(template.floor_char_boundary(MAX_TEMPLATE));
            template.push('…');
            break;
        }
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: (u16, Reason) = (500, Reason::UpstreamStatus);

    fn add(groups: &ErrorGroups, worker: usize, version: &str, path: &str, now: Instant) {
        let (at, id) = ((version, path.as_bytes()), b"id".as_slice());
        groups.add(WorkerId(worker), at, FAILED, id, now);
    }

    #[test]
    fn variable_parts_of_a_path_become_one_word() {
        for (path, expected) in [
            ("/", "/"),
            ("/orders/123", "/orders/{id}"),
            ("/v2/users/ann/cart", "/v2/users/ann/cart"),
            ("/a/9f1c-4e/b", "/a/{id}/b"),
            ("/files/this-is-a-very-long-name-of-one-file", "/files/{id}"),
            ("/v2024/x", "/{id}/x"),
        ] {
            assert_eq!(template(path.as_bytes()), expected);
        }
        assert!(template("/ab".repeat(1000).as_bytes()).len() <= MAX_TEMPLATE + 3);
        assert!(!template(b"/a\nb/\xff").contains('\n'));
    }

    #[test]
    fn failures_of_all_workers_are_one_group_with_five_samples() {
        let (groups, now) = (ErrorGroups::new(2), Instant::now());
        for n in 0..8 {
            add(&groups, n % 2, "v2", &format!("/orders/{n}"), now);
        }
        let all = groups.all(now);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].count, all[0].samples.len()), (8, SAMPLES));
        assert_eq!(all[0].key.path, "/orders/{id}");
    }

    #[test]
    fn only_what_stable_does_not_have_is_unknown_to_it() {
        let (groups, now) = (ErrorGroups::new(1), Instant::now());
        add(&groups, 0, "v1", "/both/1", now);
        add(&groups, 0, "v2", "/both/2", now);
        add(&groups, 0, "v1", "/old", now);
        add(&groups, 0, "v2", "/new", now);
        let unknown = groups.unknown_to("v1", now);
        let paths: Vec<_> = unknown.iter().map(|group| &*group.key.path).collect();
        assert_eq!(paths, ["/new"]);
    }

    #[test]
    fn groups_are_bounded_and_expire() {
        let (groups, began) = (ErrorGroups::new(1), Instant::now());
        for n in 0..900 {
            let word = "abcdefghij".repeat(3);
            let path = format!("/{}/{}", &word[..n % 30], &word[..n / 30]);
            add(
                &groups,
                0,
                "v2",
                &path,
                began + Duration::from_millis(n as u64),
            );
        }
        let now = began + Duration::from_secs(1);
        assert_eq!(groups.all(now).len(), MAX_GROUPS);
        assert_eq!(groups.all(now + RETENTION).len(), 0);
    }

    #[test]
    fn a_worker_never_waits() {
        let (groups, now) = (ErrorGroups::new(1), Instant::now());
        let held = groups.shards[0].lock().expect("a lock");
        add(&groups, 0, "v2", "/", now);
        drop(held);
        assert_eq!(groups.all(now), []);
    }
}
