//! The compiled mirror of a service.

use std::sync::Arc;

use crate::config::mirror::MirrorSpec;
use crate::config::spec;
use crate::index::VersionIx;
use crate::telemetry::Telemetry;
use crate::telemetry::mirror::MirrorLog;
use crate::upstream::resolve::expansion::PoolEndpoint;
use crate::upstream::{Pool, Registry};

/// The target of a service's copies. It owns all that a copy needs, because a copy may outlive the snapshot of its request.
#[derive(Debug)]
pub struct MirrorTarget {
    /// The mirror in the configuration.
    pub spec: MirrorSpec,
    /// The endpoints of the version. They share their state with those of live traffic, but outcomes of copies don't count for
    /// them.
    pub pool: Pool,
    /// Outcomes of copies, and differences.
    pub log: Arc<MirrorLog>,
}

impl MirrorTarget {
    /// The mirror of `service`, if it has one. `expanded` has the endpoints of versions that name hosts or services.
    pub(super) fn new<'e>(
        service: &spec::ServiceSpec,
        expanded: impl Fn(VersionIx) -> Option<&'e [PoolEndpoint]>,
        (registry, telemetry): (&Registry, &Telemetry),
    ) -> Option<Arc<Self>> {
        let spec = service.mirror.clone()?;
        let version = &service.versions[spec.to];
        let metrics = telemetry.version(&service.name, &version.name);
        Some(Arc::new(Self {
            pool: Pool::new(service, version, expanded(spec.to), registry, &metrics),
            log: telemetry.mirror(&service.name),
            spec,
        }))
    }
}
