//! A version's endpoints, weighted and balanced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Under so many thousandths of usable endpoints all are used.
    pub panic: u32,
    pub(super) epoch: Arc<AtomicU64>,
    /// No other pool of this process has it.
    pub(super) id: u64,
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
        let member = |spec: &spec::Endpoint| {
            let endpoint = registry.endpoint(&service.name, &version.name, spec, metrics);
            endpoint.set_pause(service.timeouts.idle);
            Member {
                endpoint,
                weight: spec.weight,
            }
        };
        let members = version.endpoints.iter().map(member).collect();
        let panic = service.policies.outlier.panic;
        Self::of(members, service.balance, panic, registry.epoch())
    }

    /// A pool of these members.
    pub fn of(members: Vec<Member>, balance: Balance, panic: u32, epoch: Arc<AtomicU64>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            members,
            balance,
            panic,
            epoch,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }
}
