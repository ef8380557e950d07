//! The last 15 minutes of every service, and the document of `/api/v1/services/{service}/series`.
//!
//! The control thread adds a point every five seconds. Versions without traffic and services without a rollout have no points, so
//! that they cost next to nothing. A version with traffic has at most [`POINTS`] of them (3.6 KB), and so have the clients of a
//! service and each rule of a guard.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::rollout::{RolloutStatus, RolloutsByService};
use crate::snapshot::Snapshot;
use crate::telemetry::windows::{Red, StatusWindows};

/// Time between two points.
const STEP: Duration = Duration::from_secs(5);

/// Number of points that are kept: 15 minutes of them.
const POINTS: usize = 180;

/// How much earlier than its time a point may be taken. The ticks of the control thread come a little early or late.
const EARLY: Duration = Duration::from_millis(500);

/// Key of the evidence of all rules together.
const TOTAL: &str = "total";

/// The last minutes of a service. All lists have the same length, the newest value is at their end, and values that aren't known
/// are `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceSeries {
    /// Seconds between two values.
    pub step_s: u64,
    /// When the newest values were taken, RFC 3339; `None` before the first.
    pub until: Option<String>,
    /// Figures of the service's clients: each request once, the proxy's own answers included.
    #[serde(default)]
    pub clients: RedSeries,
    /// The series of each version, by its name.
    pub versions: BTreeMap<String, RedSeries>,
    /// By rule of the guard, and `total` for all of them, as log10.
    pub evidence: BTreeMap<String, Vec<Option<f32>>>,
}

/// The last minutes of a version, or of the clients of a service. Each value is of the five seconds before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RedSeries {
    /// Requests per second.
    pub rate: Vec<Option<f32>>,
    /// Share of failed requests, in 0 to 1; `None` without requests.
    pub error_ratio: Vec<Option<f32>>,
    /// Median duration in milliseconds; `None` without requests.
    pub p50_ms: Vec<Option<f32>>,
    /// 99th percentile of the duration in milliseconds; `None` without requests.
    pub p99_ms: Vec<Option<f32>>,
}

/// The last minutes of all services.
#[derive(Debug, Default)]
pub(crate) struct SeriesStore {
    /// Number of points that were taken.
    taken: u32,
    /// When the newest point was taken.
    last: Option<(Instant, SystemTime)>,
    services: HashMap<String, StoredService>,
}

#[derive(Debug)]
struct StoredService {
    clients: StoredRed,
    versions: HashMap<String, StoredRed>,
    evidence: BTreeMap<String, VecDeque<(u32, f32)>>,
}

#[derive(Debug)]
struct StoredRed {
    /// Number of the first point, with or without traffic.
    first: u32,
    /// The points that have traffic.
    points: VecDeque<TrafficPoint>,
}

#[derive(Clone, Copy, Debug)]
struct TrafficPoint {
    number: u32,
    rate: f32,
    error_ratio: f32,
    p50_ms: f32,
    p99_ms: f32,
}

impl SeriesStore {
    /// Adds a point if it is time for one. Call it once a second, after the windows' tick.
    pub(crate) fn tick(
        &mut self,
        now: Instant,
        snapshot: &Snapshot,
        windows: &StatusWindows,
        rollouts: &RolloutsByService,
    ) {
        let is_due = |(last, _): (Instant, SystemTime)| now.duration_since(last) + EARLY >= STEP;
        if !self.last.is_none_or(is_due) {
            return;
        }
        self.last = Some((now, SystemTime::now()));
        self.taken += 1;
        let number = self.taken;
        let mut former = std::mem::take(&mut self.services);
        for service in &snapshot.services {
            let name = service.name.to_string();
            // Services that have left the configuration are dropped.
            let stored = former.remove(&name);
            let mut stored = stored.unwrap_or_else(|| StoredService::new(number));
            stored.clients.add(number, windows.clients(&name, STEP));
            stored
                .versions
                .retain(|v, _| service.versions.iter().any(|of| *of.name == **v));
            for version in service.versions.iter() {
                let stored = stored.versions.entry(version.name.to_string());
                let stored = stored.or_insert_with(|| StoredRed::new(number));
                stored.add(number, windows.red(&name, &version.name, STEP));
            }
            stored.add_evidence(number, rollouts.get(&name));
            self.services.insert(name, stored);
        }
    }

    /// The last minutes of a service; `None` if it is not configured.
    pub(crate) fn of(&self, snapshot: &Snapshot, service: &str) -> Option<ServiceSeries> {
        snapshot.services.iter().find(|s| *s.name == *service)?;
        let numbers = self.taken.saturating_sub(POINTS as u32) + 1..=self.taken;
        let stored = self.services.get(service);
        let of_version =
            |(name, stored): (&String, &StoredRed)| (name.clone(), stored.series(numbers.clone()));
        let of_rule = |(rule, points): (&String, &VecDeque<(u32, f32)>)| {
            let value = |number| {
                let at = points.binary_search_by_key(&number, |(number, _)| *number);
                at.ok().map(|at| points[at].1)
            };
            (rule.clone(), numbers.clone().map(value).collect())
        };
        Some(ServiceSeries {
            step_s: STEP.as_secs(),
            until: { self.last }.map(|(_, at)| humantime::format_rfc3339_millis(at).to_string()),
            clients: stored.map_or_else(RedSeries::default, |s| s.clients.series(numbers.clone())),
            versions: stored.map_or_else(BTreeMap::new, |s| {
                s.versions.iter().map(of_version).collect()
            }),
            evidence: stored
                .map_or_else(BTreeMap::new, |s| s.evidence.iter().map(of_rule).collect()),
        })
    }
}

/// Adds a point and drops those that are too old.
fn push<P>(points: &mut VecDeque<P>, point: Option<P>, newest: u32, number: impl Fn(&P) -> u32) {
    points.extend(point);
    while points
        .front()
        .is_some_and(|p| number(p) + POINTS as u32 <= newest)
    {
        points.pop_front();
    }
}

impl StoredService {
    /// A service whose first point has this number.
    fn new(number: u32) -> Self {
        Self {
            clients: StoredRed::new(number),
            versions: HashMap::new(),
            evidence: BTreeMap::new(),
        }
    }

    fn add_evidence(&mut self, number: u32, rollout: Option<&RolloutStatus>) {
        let total = rollout.map(|r| (TOTAL.to_owned(), r.total_evidence));
        let rules = rollout.iter().flat_map(|r| r.evidence.clone());
        for (rule, value) in rules.chain(total) {
            let points = self.evidence.entry(rule).or_default();
            points.push_back((number, value as f32));
        }
        self.evidence.retain(|_, points| {
            push(points, None, number, |(number, _)| *number);
            !points.is_empty()
        });
    }
}

impl StoredRed {
    fn new(number: u32) -> Self {
        Self {
            first: number,
            points: VecDeque::new(),
        }
    }

    fn add(&mut self, number: u32, red: Red) {
        let ms = |time: Option<Duration>| time.unwrap_or_default().as_secs_f32() * 1000.0;
        let point = (red.requests > 0).then(|| TrafficPoint {
            number,
            rate: red.rate as f32,
            error_ratio: red.error_ratio as f32,
            p50_ms: ms(red.p50),
            p99_ms: ms(red.p99),
        });
        push(&mut self.points, point, number, |point| point.number);
    }

    fn series(&self, numbers: impl Iterator<Item = u32>) -> RedSeries {
        let mut series = RedSeries::default();
        for number in numbers {
            let at = self
                .points
                .binary_search_by_key(&number, |point| point.number);
            let point = at.ok().map(|at| self.points[at]);
            let idle = (number >= self.first).then_some(0.0);
            series.rate.push(point.map(|p| p.rate).or(idle));
            series.error_ratio.push(point.map(|p| p.error_ratio));
            series.p50_ms.push(point.map(|p| p.p50_ms));
            series.p99_ms.push(point.map(|p| p.p99_ms));
        }
        series
    }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
