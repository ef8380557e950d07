//! A service of which nothing matters but where it is.

use std::time::Duration;

use cutover::config::spec::{
    Balance, CohortKey, HostPattern, PathPattern, ServiceSpec, Timeouts, VersionSpec,
};
use cutover::index::VersionIx;

/// With these hosts and paths.
pub fn service(hosts: Vec<HostPattern>, paths: Vec<PathPattern>) -> ServiceSpec {
    let second = Duration::from_secs(1);
    ServiceSpec {
        policies: Default::default(),
        hash_by: vec![CohortKey::Ip],
        name: "shop".into(),
        hosts,
        paths,
        stable: VersionIx(0),
        split: Vec::new(),
        rolling: None,
        rollout: None,
        goals: Vec::new(),
        cohort: None,
        flags: Vec::new(),
        rules: Vec::new(),
        mirror: None,
        body_bytes: None,
        actions: Default::default(),
        balance: Balance::default(),
        timeouts: Timeouts {
            connect: second,
            first_byte: second,
            total: None,
            idle: second,
        },
        labels: Vec::new(),
        versions: vec![VersionSpec {
            slow_start: None,
            name: "v1".into(),
            label: None,
            endpoints: Vec::new(),
            max_share: None,
            tls: None,
            proxy_protocol: None,
            preview: Vec::new(),
            actions: Default::default(),
        }],
    }
}
