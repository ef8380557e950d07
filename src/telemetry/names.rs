//! The metric families of the exposition, and the label names that are taken.
//!
//! Families of a shard with at most one label of their own are declared with the counter itself, in the tables of
//! `shard.rs`; all others are declared here. [`ALL`] has both.

pub use super::family::{Family, MetricKind};
use super::shard::{ListenerTotals, ServiceTotals, VersionTotals};

macro_rules! families {
    ($($kind:ident $id:ident $name:literal $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Family = Family { name: $name, help: $help, kind: MetricKind::$kind };
        )*
        /// The families declared here.
        const OTHERS: &[Family] = &[$($id),*];
    };
}

families! {
    Counter HTTP_REQUESTS "http_requests_total" "Attempts that a version answered or failed.";
    Histogram HTTP_DURATION "http_request_duration_seconds" "Time from the request's head read to the response's end.";
    Counter GRPC_REQUESTS "grpc_requests_total" "gRPC calls that a version ended, by grpc-status.";
    Counter SERVICE_REQUESTS "cutover_service_requests_total" "Requests to a service by the status that its clients got, the proxy's own answers included; 499 stands for a client that left before it got one.";
    Counter DOWNSTREAM_REQUESTS "cutover_downstream_requests_total" "Requests that a listener answered.";
    Gauge SPLIT_RATIO "cutover_split_ratio" "Effective share of a service's traffic that a version gets, from 0 to 1: after gate and failover.";
    Gauge SPLIT_DESIRED_RATIO "cutover_split_desired_ratio" "Share of a service's traffic that the configuration gives a version, from 0 to 1.";
    Counter MATCH_HITS "cutover_match_hits_total" "Requests that a match rule sent to its version; rules count from 0 in file order.";
    Gauge ENDPOINT_UP "cutover_endpoint_up" "Whether an endpoint is usable: 1 or 0.";
    Counter EJECTIONS "cutover_ejections_total" "Outliers among endpoints: each is detected, and then either enforced (it is out) or overflow (too many are out).";
    Gauge GATE_WAITING "cutover_gate_waiting" "Always 1; the version's new share waits until one of its endpoints passes its check.";
    Gauge ROLLOUT_STEP "cutover_rollout_step" "The step of its plan that a rollout is in, from 1; 0 before the first.";
    Gauge ROLLOUT_STATE "cutover_rollout_state" "1 for the state that a rollout is in, 0 for the others.";
    Gauge ROLLOUT_EVIDENCE "cutover_rollout_evidence" "Evidence against the canary by rule of the guard, as log10; at 2 a single rule of confidence 99% would fail it.";
    Counter FLAG_REQUESTS "cutover_flag_requests_total" "Requests that were forwarded, by the state of each flag of the service.";
    Counter GOALS "cutover_goals_total" "Requests to a version that reached a goal of its service.";
    Counter MIRROR_REQUESTS "cutover_mirror_requests_total" "Requests of a service that were selected for a copy, by what became of the copy.";
    Counter ROLLBACKS "cutover_rollbacks_total" "Rollouts that lost their share by a rollback or an abort.";
    Gauge CONFIG_GENERATION "cutover_config_generation" "Number of the configuration generation that runs.";
    Gauge CONFIG_SUCCESSFUL "cutover_config_last_reload_successful" "Whether the configuration file as it is now was adopted: 1 or 0.";
    Gauge CONFIG_TIMESTAMP "cutover_config_last_reload_success_timestamp_seconds" "When a configuration was last adopted, in seconds since the epoch.";
    Counter LOG_DROPPED "cutover_log_dropped_total" "Log lines that were dropped because the log was not read fast enough, or could not be written.";
    Counter TRACE_SPANS "cutover_trace_spans_total" "Spans of sampled requests, by what became of them: exported, rejected by the receiver, or dropped because it could not be reached in time.";
    Counter CERTIFICATE_ORDERS "cutover_certificate_orders_total" "Orders of certificates from an ACME authority, by how they ended: issued or failed.";
    Gauge CERTIFICATE_EXPIRY "cutover_certificate_expiry_timestamp_seconds" "When the certificate that a listener shows for a name expires, in seconds since the epoch.";
    Gauge CERTIFICATE_SUCCESSFUL "cutover_certificate_last_reload_successful" "Whether the certificate files of a listener as they are now are in use: 1 or 0.";
    Gauge UPSTREAM_CERTIFICATE_EXPIRY "cutover_upstream_certificate_expiry_timestamp_seconds" "When the certificate that a version's endpoints are shown expires, in seconds since the epoch.";
    Gauge UPSTREAM_CERTIFICATE_SUCCESSFUL "cutover_upstream_certificate_last_reload_successful" "Whether the TLS files of a version as they are now are in use: 1 or 0.";
    Gauge NAME_ADDRESSES "cutover_name_addresses" "Addresses in use of a name of endpoints; 0: its endpoints get no requests.";
    Gauge NAME_SUCCESSFUL "cutover_name_last_lookup_successful" "Whether the last lookup of a name of endpoints succeeded: 1 or 0.";
    Gauge FLEET_CONNECTED "cutover_fleet_connected" "Whether this member of a fleet is connected to etcd: 1, or 0 if it is alone.";
    Gauge FLEET_MEMBERS "cutover_fleet_members" "Live members of the fleet, this one included, as this one saw them last.";
    Gauge FLEET_DISAGREEMENTS "cutover_fleet_disagreements" "Points in which other members' rollout plans, sticky keys and cohorts differ from this one's.";
    Gauge FLEET_CONFIG_ADOPTED "cutover_fleet_config_adopted" "Whether this member of a fleet uses the newest tables that the members share: 1, or 0 if it refuses them.";
    Gauge FLEET_CONFIG_REVISION "cutover_fleet_config_revision" "Revision in etcd of the newest tables that the members share, as this one has seen them.";
    Gauge FLEET_DRIVES "cutover_fleet_drives" "Whether this member of a fleet drives the rollout of a service: 1 or 0.";
    Gauge FLEET_TERM "cutover_fleet_term" "The term of the member that drives the rollout of a service; it grows when another one takes over.";
    Gauge FLEET_TAKES_PART "cutover_fleet_takes_part" "Whether this member of a fleet has the fleet's plan for the rollout of a service: 1, or 0 if it keeps to stable.";
    Gauge FLEET_LAG "cutover_fleet_lag_seconds" "Seconds since etcd last confirmed what this member of a fleet knows of the rollout of a service.";
    Gauge BUILD_INFO "cutover_build_info" "Always 1; the labels say what runs.";
    Counter PROCESS_CPU "process_cpu_seconds_total" "Total user and system CPU time spent in seconds.";
    Gauge PROCESS_RESIDENT "process_resident_memory_bytes" "Resident memory size in bytes.";
    Gauge PROCESS_VIRTUAL "process_virtual_memory_bytes" "Virtual memory size in bytes.";
    Gauge PROCESS_OPEN_FDS "process_open_fds" "Number of open file descriptors.";
    Gauge PROCESS_MAX_FDS "process_max_fds" "Maximum number of open file descriptors.";
    Gauge PROCESS_START "process_start_time_seconds" "Start time of the process in seconds since the epoch.";
    Gauge PROCESS_THREADS "process_threads" "Number of threads of the process.";
}

/// Label names of families that belong to a service or listener; the constant labels of a configuration may not use them.
pub const RESERVED_LABELS: [&str; 19] = [
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
    "state",
    "guard",
    "goal",
    "flag",
    // Prometheus adds these to every target. A scrape with `honor_labels` would let ours replace them.
    "job",
    "instance",
];

/// Label names of families that belong to no service or listener.
pub const PROCESS_LABELS: [&str; 2] = ["log", "name"];

/// Every metric family of the exposition.
pub const ALL: &[Family] = &concat::<COUNT>();

/// The families of the shards' tables, and those declared here.
const PARTS: [&[Family]; 4] = [
    VersionTotals::FAMILIES,
    ServiceTotals::FAMILIES,
    ListenerTotals::FAMILIES,
    OTHERS,
];

const COUNT: usize = PARTS[0].len() + PARTS[1].len() + PARTS[2].len() + PARTS[3].len();

const fn concat<const N: usize>() -> [Family; N] {
    let mut all = [OTHERS[0]; N];
    let (mut at, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut i = 0;
        while i < PARTS[part].len() {
            all[at] = PARTS[part][i];
            at += 1;
            i += 1;
        }
        part += 1;
    }
    all
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
}
