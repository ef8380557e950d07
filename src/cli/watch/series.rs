//! The figures of the last minutes, second by second, from the status documents, and before the first document from the proxy's
//! own record.

use std::collections::{HashMap, VecDeque};

use crate::admin::series::{RedSeries, ServiceSeries};
use crate::admin::status::{ProxyStatus, RedStatus, SHORT_WINDOW, ServiceStatus};

/// Number of seconds that are kept.
const KEPT: usize = 300;

/// Largest number of seconds between two documents that are no gap.
const LATE: u64 = 2;

/// The figure that is charted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Rate,
    Errors,
    P99,
    Evidence,
}

/// The figures of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct SeriesPoint {
    rate: Option<f32>,
    errors: Option<f32>,
    p99: Option<f32>,
    evidence: Option<f32>,
}

impl SeriesPoint {
    /// The figures of a window.
    fn of(red: Option<&RedStatus>) -> Self {
        let red = red.copied().unwrap_or_default();
        Self {
            rate: Some(red.rate as f32),
            errors: (red.rate > 0.0).then_some(red.error_ratio as f32),
            p99: red.p99_ms.map(|ms| ms as f32),
            evidence: None,
        }
    }

    fn value(self, measure: Measure) -> Option<f32> {
        match measure {
            Measure::Rate => self.rate,
            Measure::Errors => self.errors,
            Measure::P99 => self.p99,
            Measure::Evidence => self.evidence,
        }
    }
}

/// The last seconds of one service or version; the newest is at the end.
#[derive(Debug, Default)]
struct Points {
    /// The second of the newest point.
    newest: u64,
    points: VecDeque<SeriesPoint>,
}

impl Points {
    fn add(&mut self, second: u64, point: SeriesPoint) {
        let missing = match self.points.is_empty() {
            true => 1,
            false => second.saturating_sub(self.newest),
        };
        // Documents come a little later each time, so that some seconds have none: these take the figures of the next, whose window
        // covers them. Longer without a document is a gap. The point of a second that has one already is replaced.
        let fill = match missing <= LATE {
            true => point,
            false => SeriesPoint::default(),
        };
        for _ in 0..missing.min(KEPT as u64) {
            if self.points.len() == KEPT {
                self.points.pop_front();
            }
            self.points.push_back(fill);
        }
        self.newest = self.newest.max(second);
        if let Some(last) = self.points.back_mut() {
            *last = point;
        }
    }
}

impl Points {
    /// Fills the gaps with the values recorded every `step` seconds until `second`; the newest is at the end.
    fn fill(&mut self, second: u64, step: u64, past: &[SeriesPoint]) {
        if self.points.is_empty() {
            self.newest = second;
        }
        let measured = |at: u64| {
            let back = second.checked_sub(at)? / step.max(1);
            let index = past.len().checked_sub(back as usize + 1)?;
            past.get(index).copied()
        };
        let known = std::mem::take(&mut self.points);
        let first = (self.newest + 1).saturating_sub(known.len() as u64);
        for at in (self.newest + 1).saturating_sub(KEPT as u64)..=self.newest {
            let own = at
                .checked_sub(first)
                .and_then(|index| known.get(index as usize));
            let own = own.copied().filter(|point| point.rate.is_some());
            let point = own.or_else(|| measured(at)).unwrap_or_default();
            // The time before the first value is no gap.
            if point != SeriesPoint::default() || !self.points.is_empty() {
                self.points.push_back(point);
            }
        }
    }
}

/// The series of all services and their versions.
#[derive(Debug, Default)]
pub(super) struct TrafficSeries {
    services: HashMap<String, Points>,
    versions: HashMap<(String, String), Points>,
}

impl TrafficSeries {
    /// Adds a document that came in this second.
    pub(super) fn add(&mut self, second: u64, status: &ProxyStatus) {
        for service in &status.services {
            let total = total(service);
            let points = self.services.entry(service.name.clone()).or_default();
            points.add(second, total);
            for version in &service.versions {
                let point = SeriesPoint::of(version.red.get(SHORT_WINDOW));
                let key = (service.name.clone(), version.name.clone());
                self.versions.entry(key).or_default().add(second, point);
            }
        }
        // Services and versions that left the configuration are dropped.
        let is_fresh = |points: &Points| points.newest + KEPT as u64 > second;
        self.services.retain(|_, points| is_fresh(points));
        self.versions.retain(|_, points| is_fresh(points));
    }

    /// Adds the proxy's record of a service, taken at this second.
    pub(super) fn add_past(&mut self, second: u64, service: &str, past: &ServiceSeries) {
        for (version, series) in &past.versions {
            let key = (service.to_owned(), version.clone());
            let points = self.versions.entry(key).or_default();
            points.fill(second, past.step_s, &past_points(series, None));
        }
        let points = self.services.entry(service.to_owned()).or_default();
        let evidence = past.evidence.get("total").map(Vec::as_slice);
        points.fill(second, past.step_s, &past_points(&past.clients, evidence));
    }

    /// The last values of a service, or of one of its versions, the newest at the end.
    pub(super) fn values(
        &self,
        service: &str,
        version: Option<&str>,
        measure: Measure,
        count: usize,
    ) -> Vec<Option<f32>> {
        let points = match version {
            None => self.services.get(service),
            Some(version) => self.versions.get(&(service.to_owned(), version.to_owned())),
        };
        let Some(points) = points else {
            return Vec::new();
        };
        let skipped = points.points.len().saturating_sub(count);
        let last = points.points.iter().skip(skipped);
        last.map(|point| point.value(measure)).collect()
    }
}

fn past_points(series: &RedSeries, evidence: Option<&[Option<f32>]>) -> Vec<SeriesPoint> {
    let at = |list: &[Option<f32>], index: usize| list.get(index).copied().flatten();
    let point = |index: usize| SeriesPoint {
        rate: at(&series.rate, index),
        errors: at(&series.error_ratio, index),
        p99: at(&series.p99_ms, index),
        evidence: evidence.and_then(|list| at(list, index)),
    };
    (0..series.rate.len()).map(point).collect()
}

/// The figures of a service's clients, and the evidence of its rollout.
fn total(service: &ServiceStatus) -> SeriesPoint {
    SeriesPoint {
        evidence: service.rollout.as_ref().map(|r| r.total_evidence as f32),
        ..SeriesPoint::of(service.clients.get(SHORT_WINDOW))
    }
}

/// Rate, share of errors and p99 in milliseconds of a service's clients, from the last document.
pub(super) fn figures(service: &ServiceStatus) -> (f32, Option<f32>, Option<f32>) {
    let total = total(service);
    (total.rate.unwrap_or_default(), total.errors, total.p99)
}

/// A chart of one row, a character for each value: `highest` fills a character, a gap is a space.
pub(super) fn sparkline(values: &[Option<f32>], highest: f32) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let level = |value: f32| match highest > 0.0 {
        true => ((value / highest).clamp(0.0, 1.0) * 7.0).round() as usize,
        false => 0,
    };
    let shown = values
        .iter()
        .map(|value| value.map_or(' ', |v| LEVELS[level(v)]));
    shown.collect()
}

/// The largest of some values; 0 if there are none.
pub(super) fn highest(values: &[Option<f32>]) -> f32 {
    values.iter().flatten().copied().fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::watch::fixtures::{document, service};

    #[test]
    fn seconds_without_a_document_are_gaps() {
        let mut points = Points::default();
        let point = |rate: f32| SeriesPoint {
            rate: Some(rate),
            ..SeriesPoint::default()
        };
        points.add(100, point(1.0));
        points.add(100, point(2.0));
        points.add(103, point(3.0));
        // The clock was set back.
        points.add(90, point(4.0));
        // One document was late.
        points.add(105, point(5.0));
        let rates: Vec<_> = points.points.iter().map(|p| p.rate).collect();
        let expected = [Some(2.0), None, None, Some(4.0), Some(5.0), Some(5.0)];
        assert_eq!(rates, expected);
        points.add(1_000_000, point(5.0));
        assert_eq!(points.points.len(), KEPT);
    }

    #[test]
    fn the_past_fills_what_was_not_seen() {
        let red = |rate: f32, errors: f32, p99_ms: f32| RedSeries {
            rate: vec![None, Some(rate), Some(2.0 * rate)],
            error_ratio: vec![None, Some(errors), Some(errors)],
            p50_ms: vec![None; 3],
            p99_ms: vec![None, Some(p99_ms), None],
        };
        let past = ServiceSeries {
            step_s: 2,
            until: None,
            clients: red(39.0, 0.1, 14.0),
            versions: [("v1", red(30.0, 0.0, 5.0)), ("v2", red(10.0, 0.4, 9.0))]
                .map(|(name, series)| (name.to_owned(), series))
                .into(),
            evidence: [("total".to_owned(), vec![None, None, Some(1.5)])].into(),
        };
        let mut series = TrafficSeries::default();
        let status = document(&[service("shop", "up", 0.0)]);
        series.add(1003, &status);
        let seen = series.values("shop", None, Measure::Rate, 9);
        series.add_past(1003, "shop", &past);
        let values = |of, measure| series.values("shop", of, measure, 9);
        let rate = values(None, Measure::Rate);
        assert_eq!(rate[..3], [Some(39.0), Some(39.0), Some(78.0)]);
        assert_eq!(rate[3..], seen[..]);
        assert_eq!(values(None, Measure::Errors)[0], Some(0.1));
        assert_eq!(
            values(None, Measure::P99)[..3],
            [Some(14.0), Some(14.0), None]
        );
        assert_eq!(values(None, Measure::Evidence)[2], Some(1.5));
        assert_eq!(values(Some("v2"), Measure::Rate)[1], Some(10.0));
    }

    #[test]
    fn a_sparkline_has_a_character_for_each_value() {
        let values = [Some(0.0), None, Some(4.0), Some(8.0), Some(9.0)];
        assert_eq!(sparkline(&values, 8.0), "▁ ▅██");
        assert_eq!(sparkline(&values, 0.0), "▁ ▁▁▁");
        assert_eq!(highest(&values), 9.0);
    }
}
