//! Per-worker shards: the counters of the request path.
//!
//! Each subject (a version, a service, a listener) has one shard for every worker, and each shard has a single writer,
//! so counting needs neither a lock nor an atomic read-modify-write. A scrape sums the shards.
//!
//! The tables below declare the content of a shard. An entry under `cells` is a field whose counting method and series
//! are written by hand, because its series have several labels or labels that are numbers. Every other entry declares a
//! whole metric family, and the macro derives the field, the counting method, the sum and the series from it:
//!
//! ```text
//! kind method => field: "name" "help";                  one series
//! kind method => field ["label": Set]: "name" "help";   one series for each value of a closed set of words
//! ```
//!
//! | kind | series | counting method |
//! |---|---|---|
//! | `counter` | shown once above zero | `method()`, or `method(value)` with a set |
//! | `gauge` | shown while its subject is configured or it isn't zero | `method(by)` |
//! | `reasons` | one for each [`Reason`] that has occurred; memory is allocated when the first does | `method(reason)` |
//! | `shared` | shown while its subject is configured, at zero too | `method()`, from any thread |

use std::collections::BTreeMap;
use std::time::Duration;

use super::cells::{
    Cell, Counter, Gauge, MethodCounters, ReasonCounters, ReasonTotals, SharedCounter,
    StatusCounters,
};
use super::family::{Family, MetricKind};
use super::latency::{Latency, LatencyTotals};
use super::outcomes::{ClientOutcomes, OutcomeCounts, is_server_failure, server_failures};
use super::words::{Limit, RetryReason};
use crate::http1::Method;
use crate::reason::Reason;

/// Value of one series of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeriesValue {
    Counter(u64),
    Gauge(i64),
}

/// Label of one series of a table: its name and value.
pub(super) type SeriesLabel = Option<(&'static str, &'static str)>;

/// Declares a shard, its totals and the metric families of both; the module's head explains the syntax.
macro_rules! shard {
    (
        $(#[$shard_doc:meta])* shard $shard:ident;
        $(#[$totals_doc:meta])* totals $totals:ident;
        cells { $($(#[$cell_doc:meta])* $cell:ident: $cell_type:ty => $cell_total:ty,)* }
        $($kind:ident $method:ident => $field:ident $([$label:literal: $set:ident])?: $name:literal $help:literal;)*
    ) => {
        $(#[$shard_doc])*
        #[derive(Debug, Default)]
        // Two cache lines, because adjacent lines are prefetched in pairs: no worker's writes slow down another's.
        // In the order of the table, so that what every request writes can be close together.
        #[repr(C, align(128))]
        pub struct $shard {
            $($cell: $cell_type,)*
            $($field: shard!(@cell $kind $($set)?),)*
        }

        impl $shard {
            $(shard!(@method $kind $method $field $name $help $($set)?);)*

            pub(super) fn add_to(&self, totals: &mut $totals) {
                $(self.$cell.add_to(&mut totals.$cell);)*
                $(self.$field.add_to(&mut totals.$field);)*
            }
        }

        $(#[$totals_doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $totals {
            $($(#[$cell_doc])* pub $cell: $cell_total,)*
            $(#[doc = concat!("`", $name, "`: ", $help)] pub $field: shard!(@total $kind $($set)?),)*
        }

        impl $totals {
            /// The families that the table declares.
            pub(super) const FAMILIES: &[Family] = &[$(shard!(@family $kind $name $help)),*];

            /// Calls `show` with each series of these families that is to be exposed.
            ///
            /// `configured` says whether the subject is part of the running configuration.
            #[allow(unused_variables, reason = "a table without gauges doesn't ask")]
            pub(super) fn series(
                &self,
                configured: bool,
                mut show: impl FnMut(Family, SeriesLabel, SeriesValue),
            ) {
                $({
                    let family = shard!(@family $kind $name $help);
                    let mut show = |label, value| show(family, label, value);
                    shard!(@series $kind show configured (&self.$field) $($label $set)?);
                })*
            }
        }
    };

    (@cell counter) => { Counter };
    (@cell counter $set:ident) => { [Counter; $set::COUNT] };
    (@cell gauge) => { Gauge };
    (@cell reasons) => { ReasonCounters };
    (@cell shared) => { SharedCounter };

    (@total counter) => { u64 };
    (@total counter $set:ident) => { [u64; $set::COUNT] };
    (@total gauge) => { i64 };
    (@total reasons) => { ReasonTotals };
    (@total shared) => { u64 };

    (@family gauge $name:literal $help:literal) => {
        Family { name: $name, help: $help, kind: MetricKind::Gauge }
    };
    (@family $counter:ident $name:literal $help:literal) => {
        Family { name: $name, help: $help, kind: MetricKind::Counter }
    };

    (@method counter $method:ident $field:ident $name:literal $help:literal) => {
        #[doc = concat!("Adds one to `", $name, "`: ", $help)]
        #[inline]
        pub fn $method(&self) {
            self.$field.add(1);
        }
    };
    (@method counter $method:ident $field:ident $name:literal $help:literal $set:ident) => {
        #[doc = concat!("Adds one to `", $name, "`: ", $help)]
        #[inline]
        pub fn $method(&self, value: $set) {
            self.$field[value.index()].add(1);
        }
    };
    (@method gauge $method:ident $field:ident $name:literal $help:literal) => {
        #[doc = concat!("Changes `", $name, "` by `by`: ", $help)]
        #[inline]
        pub fn $method(&self, by: i64) {
            self.$field.add(by);
        }
    };
    (@method reasons $method:ident $field:ident $name:literal $help:literal) => {
        #[doc = concat!("Adds one to `", $name, "`: ", $help)]
        pub fn $method(&self, reason: Reason) {
            self.$field.add(reason);
        }
    };
    (@method shared $method:ident $field:ident $name:literal $help:literal) => {
        #[doc = concat!("Adds one to `", $name, "`, from any thread: ", $help)]
        pub fn $method(&self) {
            self.$field.add(1);
        }
    };

    (@series counter $show:ident $configured:ident ($total:expr)) => {
        if *$total > 0 {
            $show(None, SeriesValue::Counter(*$total));
        }
    };
    (@series counter $show:ident $configured:ident ($total:expr) $label:literal $set:ident) => {
        for (value, n) in $set::ALL.iter().zip($total).filter(|(_, n)| **n > 0) {
            $show(Some(($label, value.as_str())), SeriesValue::Counter(*n));
        }
    };
    (@series gauge $show:ident $configured:ident ($total:expr)) => {
        // The shards are read one after the other, so a sum can be negative for a moment.
        let value = (*$total).max(0);
        if $configured || value > 0 {
            $show(None, SeriesValue::Gauge(value));
        }
    };
    (@series reasons $show:ident $configured:ident ($total:expr)) => {
        for (reason, n) in $total {
            $show(Some(("reason", *reason)), SeriesValue::Counter(*n));
        }
    };
    (@series shared $show:ident $configured:ident ($total:expr)) => {
        if $configured {
            $show(None, SeriesValue::Counter(*$total));
        }
    };
}

shard! {
    /// One worker's counters of one version.
    shard VersionShard;
    /// The counters of one version, summed over the workers.
    totals VersionTotals;

    cells {
        /// Durations of attempts. Their sum lies before the count of GETs with status 200.
        latency: Latency => LatencyTotals,
        /// Attempts by method label and status; only those that have occurred.
        requests: MethodCounters => BTreeMap<(&'static str, u16), u64>,
        /// gRPC calls by `grpc-status`.
        grpc: [Counter; 17] => [u64; 17],
    }
    gauge in_flight => in_flight:
        "http_requests_in_flight" "Requests that a version is working on.";
    gauge queued => queued:
        "queue_depth" "Requests that wait for a connection to a version.";
    gauge connections => connections:
        "cutover_upstream_connections" "Open connections to a version's endpoints.";
    counter retry => retries ["reason": RetryReason]:
        "cutover_retries_total" "Attempts that were repeated, by the reason.";
    counter hedge_won => hedges_won:
        "cutover_hedge_wins_total" "Requests whose second try answered before the first; those that began one are retries with the reason hedge.";
    counter limit_rejected => limit_rejected ["limit": Limit]:
        "cutover_limit_rejections_total" "Requests and retries that a limit of the version refused.";
    counter shielded => shielded:
        "cutover_shielded_total" "Requests that this version failed and stable answered instead.";
    reasons failed => failures:
        "cutover_upstream_failures_total" "Attempts that a version failed.";
}

impl VersionShard {
    /// Asks the CPU for what [`Self::request`] writes, before the attempt, which is expected to take so long.
    #[inline]
    pub fn prefetch(&self, method: Method, expected: Duration) {
        self.requests.prefetch(method);
        self.latency.prefetch(expected);
    }

    /// What is written when a request begins.
    pub(in crate::telemetry) fn flight_gauge(&self) -> &Gauge {
        &self.in_flight
    }

    /// Records an attempt that ended: `http_requests_total` and `http_request_duration_seconds`.
    ///
    /// A status outside 100 to 599 counts as 502.
    ///
    /// Budget: 97 instructions (`just instructions`: record).
    #[inline]
    pub fn request(&self, method: Method, status: u16, took: Duration) {
        self.requests.add(method, status);
        self.latency.record(took);
    }

    /// Adds one to `grpc_requests_total` for this `grpc-status`.
    ///
    /// gRPC defines the codes 0 to 16; any other counts as 2, `UNKNOWN`.
    #[inline]
    pub fn grpc(&self, status: u8) {
        let known = if status <= 16 { status } else { 2 };
        self.grpc[usize::from(known)].add(1);
    }

    /// Returns this worker's part of the requests in flight.
    pub(in crate::telemetry) fn requests_in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// Adds the outcomes of attempts.
    pub(in crate::telemetry) fn add_outcomes_to(&self, counts: &mut OutcomeCounts) {
        let errors = self.requests.server_errors() + server_failures(&self.grpc);
        counts.add(self.latency.buckets(), errors, self.hedges_won.get());
    }
}

shard! {
    /// One worker's counters of one service.
    shard ServiceShard;
    /// The counters of one service, summed over the workers.
    totals ServiceTotals;

    cells {
        /// Requests by the status that the client got; only those that have occurred.
        requests: StatusCounters => BTreeMap<u16, u64>,
        /// Requests by outcome, for the windows of the status.
        outcomes: ClientOutcomes => OutcomeCounts,
    }
    reasons own_answer => own_answers:
        "cutover_own_answers_total" "Requests that the proxy answered by itself; without a service where no route matched.";
}

impl ServiceShard {
    /// Asks the CPU for what [`Self::request`] writes, before the request, which is expected to take so long.
    #[inline]
    pub fn prefetch(&self, expected: Duration) {
        self.requests.prefetch();
        self.outcomes.prefetch(expected);
    }

    /// Adds one to `cutover_service_requests_total`: a request ended, and its client got this status. `grpc` is the
    /// `grpc-status`, if the client got one.
    #[inline]
    pub fn request(&self, status: u16, grpc: Option<u8>, took: Duration) {
        self.requests.add(status);
        let is_failed = status >= 500 || grpc.is_some_and(is_server_failure);
        self.outcomes.record(took, is_failed);
    }

    /// Adds the outcomes of requests.
    pub(in crate::telemetry) fn add_outcomes_to(&self, counts: &mut OutcomeCounts) {
        self.outcomes.add_to(counts);
    }
}

shard! {
    /// One worker's counters of one listener.
    shard ListenerShard;
    /// The counters of one listener, summed over the workers.
    totals ListenerTotals;

    cells {
        /// Requests by the status of their response; only those that have occurred.
        requests: StatusCounters => BTreeMap<u16, u64>,
    }
    gauge connections => connections:
        "cutover_connections" "Open downstream connections of a listener.";
    shared panicked => panics:
        "cutover_panics_total" "Connections and HTTP/2 streams that a bug in cutover ended; the log says where.";
    counter uncertified => uncertified:
        "cutover_uncertified_handshakes_total" "TLS handshakes that were refused because the certificate of their name has not been obtained yet.";
    reasons client_failed => failures:
        "cutover_client_failures_total" "Requests and TLS handshakes that a client failed.";
}

impl ListenerShard {
    /// Adds one to `cutover_downstream_requests_total`: a request was answered with this status.
    #[inline]
    pub fn request(&self, status: u16) {
        self.requests.add(status);
    }
}

/// One worker's counter of one match rule, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct RuleShard(pub(super) Counter);

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn statuses_that_are_none_count_as_a_bad_gateway() {
        let shard = VersionShard::default();
        for status in [0, 99, 100, 599, 600, 999, u16::MAX] {
            shard.request(Method::Get, status, Duration::ZERO);
        }
        let mut totals = VersionTotals::default();
        shard.add_to(&mut totals);
        assert_eq!(
            totals.requests.into_iter().collect::<Vec<_>>(),
            [(("GET", 100), 1), (("GET", 502), 5), (("GET", 599), 1)]
        );
    }

    #[test]
    fn foreign_grpc_statuses_count_as_unknown() {
        let shard = VersionShard::default();
        for status in [0, 2, 16, 17, 255] {
            shard.grpc(status);
        }
        let mut totals = VersionTotals::default();
        shard.add_to(&mut totals);
        assert_eq!((totals.grpc[0], totals.grpc[2], totals.grpc[16]), (1, 3, 1));
    }

    #[test]
    fn nearly_every_request_writes_few_cache_lines() {
        let line = |offset: usize| offset / 64;
        let nanos = offset_of!(VersionShard, latency) + Latency::NANOS;
        assert_eq!(line(nanos), line(offset_of!(VersionShard, requests)));
        assert_eq!(Method::Get as usize, 0);
    }

    #[test]
    fn shards_of_neighbours_share_no_cache_line() {
        assert_eq!(align_of::<VersionShard>(), 128);
        assert_eq!(align_of::<ListenerShard>(), 128);
        assert_eq!(align_of::<RuleShard>(), 64);
    }
}
