//! The description of a metric family in the exposition: its name, its help text and its type.

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Name of the family; a counter's ends in `_total`.
    pub name: &'static str,
    /// Text of its `# HELP` line.
    pub help: &'static str,
    /// Type on its `# TYPE` line.
    pub kind: MetricKind,
}

/// Type of a metric family, in Prometheus' terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A value that only increases, apart from restarts.
    Counter,
    /// A value that may also decrease.
    Gauge,
    /// Observations in fixed buckets.
    Histogram,
}
