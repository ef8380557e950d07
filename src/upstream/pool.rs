//! A version's endpoints, weighted and balanced.

use std::sync::Arc;

use super::{Endpoint, Registry};
use crate::config::spec::{self, Balance};
use crate::telemetry::VersionMetrics;

/// The runtime set of a version's endpoints.
#[derive(Debug)]
pub struct Pool {
    /// In the order of the spec.
    pub members: Vec<Member>,
    /// How they are chosen.
    pub balance: Balance,
}

/// One endpoint in one pool.
#[derive(Debug)]
pub struct Member {
    /// Shared with every pool that names the same address for the same version.
    pub endpoint: Arc<Endpoint>,
    /// 1 to 1000.
    pub weight: u32,
}

impl Pool {
    /// The pool of `version`; endpoints that the registry knows are taken over with their state.
    pub fn new(
        service: &spec::Service,
        version: &spec::Version,
        registry: &Registry,
        metrics: &Arc<VersionMetrics>,
    ) -> Self {
        let members = version
            .endpoints
            .iter()
            .map(|e| Member {
                endpoint: registry.endpoint(&service.name, &version.name, e, metrics),
                weight: e.weight,
            })
            .collect();
        Self {
            members,
            balance: service.balance,
        }
    }
}
