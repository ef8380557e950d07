//! A version's endpoints, weighted and balanced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::endpoint::flag;
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
    /// Below this many thousandths of usable endpoints all are used. Endpoints that an operator drains count on neither side.
    pub panic: u32,
    pub(super) epoch: Arc<AtomicU64>,
    /// No other pool of this process has it.
    pub(super) id: u64,
}

/// What the state of a pool's endpoints allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolCounts {
    /// Endpoints that are well; 0: the pool is down, and what is picked from it is picked in panic.
    pub(crate) well: usize,
    /// Endpoints that may be picked; 0: requests to this version get the proxy's own answer.
    pub(crate) tried: usize,
    /// Any of these flags bars an endpoint.
    barred: u32,
}

impl PoolCounts {
    /// Whether requests may go to this endpoint of the pool.
    pub(super) fn may_pick(&self, endpoint: &Endpoint) -> bool {
        endpoint.state.flags() & self.barred == 0
    }
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
        service: &spec::ServiceSpec,
        version: &spec::VersionSpec,
        registry: &Registry,
        metrics: &Arc<VersionMetrics>,
    ) -> Self {
        let member = |spec: &spec::EndpointSpec| {
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

    /// What the state of the endpoints allows now.
    pub(crate) fn census(&self) -> PoolCounts {
        let without = |barred: u32| {
            let flags = self.members.iter().map(|m| m.endpoint.state.flags());
            flags.filter(|flags| flags & barred == 0).count()
        };
        let mut barred = u32::MAX;
        let mut well = without(barred);
        if well == 0 {
            // A suspicion alone takes nobody's last endpoint: the judge leaves one in a moment.
            barred = !flag::SUSPECT;
            well = without(barred);
        }
        // Unproven endpoints were never counted on, and drained ones were taken out on purpose: they are not missed, and
        // not used for want of others.
        let absent = flag::UNPROVEN | flag::DRAINING;
        if well * 1000 < without(absent) * self.panic as usize {
            // Panic: so few are well that they would be overrun.
            barred = absent;
        }
        let mut tried = without(barred);
        if tried == 0 && self.panic > 0 {
            barred = flag::DRAINING;
            tried = without(barred);
        }
        PoolCounts {
            well,
            tried,
            barred,
        }
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
