//! The text of one scrape: labels, families and histograms in Prometheus' text format.

use std::fmt::Write;

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::latency::{EXPORTED, LatencyTotals};
use super::names::{self, Family, MetricKind};
use super::shard::{SeriesLabel, SeriesValue};

/// Label names and values, in the order in which they are written.
#[derive(Clone, Default)]
pub(super) struct Labels(Vec<(String, String)>);

impl Labels {
    /// The constant labels of a service, then `service`. A constant label with one of the proxy's own names is dropped.
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

    fn key(self, name: &'static str) -> Key {
        // The recorder takes values as already escaped, so a literal backslash has to be doubled.
        let label = |(name, value): (String, String)| Label::new(name, value.replace('\\', "\\\\"));
        Key::from_parts(name, self.0.into_iter().map(label).collect::<Vec<_>>())
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

/// The page of one scrape.
pub(super) struct Page {
    recorder: PrometheusRecorder,
    /// Families that don't go through the recorder, as text.
    pub(super) own: String,
}

const METADATA: Metadata<'static> = Metadata::new("cutover", Level::INFO, None);

impl Page {
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for family in names::ALL {
            match family.kind {
                MetricKind::Counter => {
                    recorder.describe_counter(family.name.into(), None, family.help.into())
                }
                MetricKind::Gauge => {
                    recorder.describe_gauge(family.name.into(), None, family.help.into())
                }
                MetricKind::Histogram => {}
            }
        }
        let own = String::new();
        Self { recorder, own }
    }

    pub(super) fn counter(&mut self, family: Family, labels: Labels, value: u64) {
        let key = labels.key(family.name);
        self.recorder
            .register_counter(&key, &METADATA)
            .absolute(value);
    }

    pub(super) fn gauge(&mut self, family: Family, labels: Labels, value: f64) {
        let key = labels.key(family.name);
        self.recorder.register_gauge(&key, &METADATA).set(value);
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
    ///
    /// The recorder's hash tables have no stable order, so families and their series are sorted: equal states give equal
    /// pages.
    pub(super) fn finish(self) -> String {
        let text = self.recorder.handle().render();
        let mut blocks: Vec<Vec<&str>> = text
            .split("\n\n")
            .map(|block| block.lines().filter(|line| !line.is_empty()).collect())
            .collect();
        blocks.sort_unstable();
        let mut page = String::with_capacity(text.len() + self.own.len());
        for mut block in blocks {
            let comments = block
                .iter()
                // The help and type of a family stay ahead of its series.
                .take_while(|line| line.starts_with('#'))
                .count();
            block[comments..].sort_unstable();
            for line in block {
                page.push_str(line);
                page.push('\n');
            }
        }
        page.push_str(&self.own);
        page
    }
}

pub(super) fn head(text: &mut String, family: Family) {
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
    pub(super) text: String,
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
