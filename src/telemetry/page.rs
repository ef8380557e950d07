//! The text of one scrape: labels, families and histograms in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use super::latency::{EXPORTED, LatencyTotals};
use super::names::{self, Family, MetricKind};
use super::shard::{SeriesLabel, SeriesValue};

/// Label names and values, in the order in which they are written.
#[derive(Clone, Default)]
pub(super) struct Labels(Vec<(String, String)>);

impl Labels {
    /// The constant labels of a service, then `service`. A constant label with one of our names is dropped.
    pub(super) fn of_service(service: &str, constant: &[(String, String)]) -> Self {
        let free = |name: &str| !names::RESERVED_LABELS.contains(&name);
        let constant = constant.iter().filter(|(name, _)| free(name));
        Self(constant.cloned().collect()).with("service", service)
    }

    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let mut labels = self.clone();
        labels.0.push((name.to_owned(), value.to_owned()));
        labels
    }

    /// Formats the labels as `name="value",…`, with values escaped as the text format requires.
    fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            let escaped = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{name}=\"{escaped}\"");
        }
        text
    }
}

/// The page of one scrape. Families and their series are sorted: equal states give equal pages.
#[derive(Default)]
pub(super) struct Page {
    /// By name of the family: the family, and its values by the text of their labels.
    families: BTreeMap<&'static str, (Family, BTreeMap<String, String>)>,
    histograms: String,
}

impl Page {
    pub(super) fn counter(&mut self, family: Family, labels: Labels, value: u64) {
        self.set(family, labels, value);
    }

    pub(super) fn gauge(&mut self, family: Family, labels: Labels, value: f64) {
        self.set(family, labels, value);
    }

    /// Sets the value of a series. A later value replaces it.
    pub(super) fn set(&mut self, family: Family, labels: Labels, value: impl Display) {
        let empty = || (family, BTreeMap::new());
        let (_, series) = self.families.entry(family.name).or_insert_with(empty);
        series.insert(labels.text(), value.to_string());
    }

    pub(super) fn histogram(&mut self, histogram: &Histogram) {
        self.histograms.push_str(&histogram.text);
    }

    /// Adds a series of a shard's table: `labels` are those of its subject, `label` is its own.
    pub(super) fn series(
        &mut self,
        family: Family,
        labels: &Labels,
        label: SeriesLabel,
        value: SeriesValue,
    ) {
        let labels = match label {
            Some((name, value)) => labels.with(name, value),
            None => labels.clone(),
        };
        match value {
            SeriesValue::Counter(n) => self.counter(family, labels, n),
            SeriesValue::Gauge(n) => self.gauge(family, labels, n as f64),
        }
    }

    /// Returns the text of all families.
    pub(super) fn finish(self) -> String {
        let mut page = String::new();
        for (name, (family, series)) in &self.families {
            head(&mut page, *family);
            for (labels, value) in series {
                let _ = match labels.is_empty() {
                    true => writeln!(page, "{name} {value}"),
                    false => writeln!(page, "{name}{{{labels}}} {value}"),
                };
            }
        }
        page.push_str(&self.histograms);
        page
    }
}

fn head(text: &mut String, family: Family) {
    let kind = match family.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    };
    let Family { name, help, .. } = family;
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The text of one histogram family; empty without series.
pub(super) struct Histogram {
    family: Family,
    text: String,
}

impl Histogram {
    pub(super) fn new(family: Family) -> Self {
        let text = String::new();
        Self { family, text }
    }

    pub(super) fn add(&mut self, labels: &Labels, totals: &LatencyTotals) {
        if self.text.is_empty() {
            head(&mut self.text, self.family);
        }
        let (name, labels, text) = (self.family.name, labels.text(), &mut self.text);
        for (le, bound) in EXPORTED {
            let n = totals.at_most(bound);
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{le}\"}} {n}");
        }
        let (n, sum) = (totals.count(), totals.nanos as f64 / 1e9);
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {n}");
        let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(text, "{name}_count{{{labels}}} {n}");
    }
}
