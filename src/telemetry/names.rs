//! Every metric name, once, with its help text; and the closed sets that labels come from.

use crate::http1::Method;

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// What kind it is.
    pub kind: MetricKind,
}

/// What kind a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Grows and shrinks.
    Gauge,
    /// Fixed buckets.
    Histogram,
}

macro_rules! families {
    ($($kind:ident $id:ident $name:literal $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Family = Family { name: $name, help: $help, kind: MetricKind::$kind };
        )*
        /// All of them.
        pub const ALL: &[Family] = &[$($id),*];
    };
}

families! {
    Counter HTTP_REQUESTS "http_requests_total" "Attempts that a version answered or failed.";
    Histogram HTTP_DURATION "http_request_duration_seconds" "Time from the request's head read to the response's end.";
    Gauge HTTP_IN_FLIGHT "http_requests_in_flight" "Requests that a version is working on.";
    Gauge QUEUE_DEPTH "queue_depth" "Requests that wait for a connection to a version.";
    Counter GRPC_REQUESTS "grpc_requests_total" "gRPC calls that a version ended, by grpc-status.";
    Counter SERVICE_REQUESTS "cutover_service_requests_total" "Requests to a service by the status that its clients got, the proxy's own answers included; 499 stands for a client that left before it got one.";
    Counter OWN_ANSWERS "cutover_own_answers_total" "Requests that the proxy answered by itself; without a service where no route matched.";
    Counter UPSTREAM_FAILURES "cutover_upstream_failures_total" "Attempts that a version failed.";
    Counter CLIENT_FAILURES "cutover_client_failures_total" "Requests and TLS handshakes that a client failed.";
    Counter DOWNSTREAM_REQUESTS "cutover_downstream_requests_total" "Requests that a listener answered.";
    Counter PANICS "cutover_panics_total" "Connections and HTTP/2 streams that a fault of the proxy itself ended; the log says where.";
    Gauge CONNECTIONS "cutover_connections" "Open downstream connections of a listener.";
    Gauge UPSTREAM_CONNECTIONS "cutover_upstream_connections" "Open connections to a version's endpoints.";
    Gauge SPLIT_RATIO "cutover_split_ratio" "Effective share of a service's traffic that a version gets, from 0 to 1: after gate and failover.";
    Gauge SPLIT_DESIRED_RATIO "cutover_split_desired_ratio" "Share of a service's traffic that the configuration gives a version, from 0 to 1.";
    Counter MATCH_HITS "cutover_match_hits_total" "Requests that a match rule sent to its version; rules count from 0 in file order.";
    Counter RETRIES "cutover_retries_total" "Attempts that were repeated, by the reason.";
    Counter SHIELDED "cutover_shielded_total" "Requests that this version failed and stable answered instead.";
    Counter LIMIT_REJECTIONS "cutover_limit_rejections_total" "Requests and retries that a limit of the version refused.";
    Gauge ENDPOINT_UP "cutover_endpoint_up" "Whether an endpoint is usable: 1 or 0.";
    Counter EJECTIONS "cutover_ejections_total" "Outliers among endpoints: each is detected, and then either enforced (it is out) or overflow (too many are out).";
    Gauge GATE_WAITING "cutover_gate_waiting" "Always 1; the version's new share waits until one of its endpoints passes its check.";
    Gauge CONFIG_GENERATION "cutover_config_generation" "Number of the configuration generation that runs.";
    Gauge CONFIG_SUCCESSFUL "cutover_config_last_reload_successful" "Whether the configuration file as it is now was adopted: 1 or 0.";
    Gauge CONFIG_TIMESTAMP "cutover_config_last_reload_success_timestamp_seconds" "When a configuration was last adopted, in seconds since the epoch.";
    Counter LOG_DROPPED "cutover_log_dropped_total" "Log lines that were dropped because the log was not read fast enough.";
    Gauge CERTIFICATE_EXPIRY "cutover_certificate_expiry_timestamp_seconds" "When the certificate that a listener shows for a name expires, in seconds since the epoch.";
    Gauge CERTIFICATE_SUCCESSFUL "cutover_certificate_last_reload_successful" "Whether the certificate files of a listener as they are now are in use: 1 or 0.";
    Gauge BUILD_INFO "cutover_build_info" "Always 1; the labels say what runs.";
    Counter PROCESS_CPU "process_cpu_seconds_total" "Total user and system CPU time spent in seconds.";
    Gauge PROCESS_RESIDENT "process_resident_memory_bytes" "Resident memory size in bytes.";
    Gauge PROCESS_VIRTUAL "process_virtual_memory_bytes" "Virtual memory size in bytes.";
    Gauge PROCESS_OPEN_FDS "process_open_fds" "Number of open file descriptors.";
    Gauge PROCESS_MAX_FDS "process_max_fds" "Maximum number of open file descriptors.";
    Gauge PROCESS_START "process_start_time_seconds" "Start time of the process in seconds since the epoch.";
    Gauge PROCESS_THREADS "process_threads" "Number of threads of the process.";
}

/// Labels that the families of a service have of their own; constant labels of a configuration can't take these names.
pub const RESERVED_LABELS: [&str; 15] = [
    "service",
    "version",
    "status",
    "method",
    "le",
    "grpc_status",
    "endpoint",
    "reason",
    "outcome",
    "rule",
    "listener",
    "limit",
    "quantile",
    // Prometheus' own, which a scrape that honours labels would take from here.
    "job",
    "instance",
];

/// Labels of families that belong to no service.
pub const PROCESS_LABELS: [&str; 2] = ["log", "name"];

/// What refuses for want of room: what [`super::VersionShard::limit_rejected`] counts, by index.
pub const LIMITS: [&str; 5] = ["connections", "pending", "requests", "retries", "streams"];

/// The label of each method, in the order of [`Method`].
pub const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "other",
];

/// The label of a method.
pub fn method(method: Method) -> &'static str {
    METHODS[method as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut names: Vec<_> = ALL.iter().map(|f| f.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            assert_eq!(
                family.kind == MetricKind::Counter,
                family.name.ends_with("_total"),
                "{}",
                family.name
            );
            assert!(family.help.ends_with('.'), "{}", family.name);
        }
    }

    #[test]
    fn method_labels_stand_in_the_order_of_the_methods() {
        for (m, label) in [
            (Method::Get, "GET"),
            (Method::Head, "HEAD"),
            (Method::Post, "POST"),
            (Method::Put, "PUT"),
            (Method::Delete, "DELETE"),
            (Method::Options, "OPTIONS"),
            (Method::Patch, "PATCH"),
            (Method::Trace, "TRACE"),
            (Method::Connect, "CONNECT"),
            (Method::Other, "other"),
        ] {
            assert_eq!(method(m), label);
        }
    }
}
