//! The compiled mirror of a service.

use std::sync::Arc;

use crate::config::mirror::MirrorSpec;
use crate::config::spec;
use crate::telemetry::Telemetry;
use crate::telemetry::mirror::MirrorLog;
use crate::upstream::{Pool, Registry};

/// Where copies of requests go. It owns all that a copy needs, because a copy may outlive the snapshot of its request.
#[derive(Debug)]
pub(crate) struct MirrorTarget {
    /// The configuration.
    pub spec: MirrorSpec,
    /// The endpoints of the version. They share their state with those of live traffic, and nothing is charged to them.
    pub pool: Pool,
    /// Counters and differences.
    pub log: Arc<MirrorLog>,
}

impl MirrorTarget {
    pub(super) fn new(
        service: &spec::ServiceSpec,
        registry: &Registry,
        telemetry: &Telemetry,
    ) -> Option<Arc<Self>> {
        let spec = service.mirror.clone()?;
        let version = &service.versions[spec.to];
        let metrics = telemetry.version(&service.name, &version.name);
        Some(Arc::new(Self {
            pool: Pool::new(service, version, registry, &metrics),
            log: telemetry.mirror(&service.name),
            spec,
        }))
    }
}
