//! The endpoints of one version, with their weights. A [`Pool`] is immutable; a reload makes a new one that shares the
//! [`Endpoint`]s, and with them their state, with its predecessor. `Pool::counts` decides from that state which endpoints
//! may be picked, and when the pool is in panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::endpoint::flag;
use super::resolve::expansion::PoolEndpoint;
use super::{Endpoint, Registry};
use crate::config::spec::{self, Balance};
use crate::index::EndpointIx;
use crate::telemetry::VersionMetrics;

/// The endpoints of a version, and how one of them is picked.
///
/// Compiled with a snapshot and never changed. What does change, the state of the endpoints, is read through `epoch`: each worker
/// keeps a [`PoolView`](super::PoolView) that it rebuilds when the epoch has moved.
#[derive(Debug)]
pub struct Pool {
    /// Members in the order of the configuration; the addresses of a name in their own order.
    pub members: Vec<Member>,
    /// The policy that picks one of them.
    pub balance: Balance,
    /// The panic threshold in thousandths: with a smaller share of usable endpoints all of them are picked again. 0 turns
    /// it off. Unproven and draining endpoints are not counted.
    pub panic: u32,
    /// The largest tier of a member; 0 nearly always.
    last_tier: u16,
    /// Changes with the state of any endpoint: see [`Registry::epoch`].
    pub(super) epoch: Arc<AtomicU64>,
    /// Unique in this process, unlike the pool's address in memory, which may be reused.
    pub(super) id: u64,
}

/// How many endpoints of a pool may be used in their present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolCounts {
    /// Usable endpoints. With 0 the pool is down, and endpoints are picked from it in panic.
    pub usable: usize,
    /// Endpoints that may be picked. 0: the proxy itself answers the requests to this version.
    pub eligible: usize,
    /// An endpoint with any of these flags may not be picked.
    barred: u32,
    /// The tier whose endpoints may be picked; `None` if all may.
    tier: Option<u16>,
}

impl PoolCounts {
    /// Whether requests may go to this member of the pool.
    pub(super) fn may_pick(&self, member: &Member) -> bool {
        member.endpoint.state.flags() & self.barred == 0
            && self.tier.is_none_or(|tier| member.tier == tier)
    }
}

/// One endpoint in one pool.
#[derive(Debug)]
pub struct Member {
    /// Shared by all pools with this address for the same version.
    pub endpoint: Arc<Endpoint>,
    /// Weight in load balancing, 1 to 1000.
    pub weight: u32,
    /// Members of a larger tier are picked only while none of a smaller one is usable.
    pub tier: u16,
}

indexed_by!(EndpointIx: Member);

impl Pool {
    /// The pool of `version`, whose names stand for the endpoints in `expanded`, if it has names. Endpoints that the registry
    /// knows already keep their state.
    pub(crate) fn new(
        service: &spec::ServiceSpec,
        version: &spec::VersionSpec,
        expanded: Option<&[PoolEndpoint]>,
        registry: &Registry,
        metrics: &Arc<VersionMetrics>,
    ) -> Self {
        let member = |spec: &spec::EndpointSpec, tier: u16| {
            let endpoint = registry.endpoint(&service.name, &version.name, spec, metrics);
            endpoint.set_pause(service.timeouts.idle);
            Member {
                endpoint,
                weight: spec.weight,
                tier,
            }
        };
        let members = match expanded {
            None => version
                .endpoints
                .iter()
                .map(|spec| member(spec, 0))
                .collect(),
            Some(expanded) => {
                let each = expanded.iter().map(|of| {
                    let member = member(&of.spec, of.tier);
                    let all = of.spec.address.socket().into_iter().chain(of.alternative);
                    member.endpoint.set_addresses(all.collect());
                    member
                });
                each.collect()
            }
        };
        let panic = service.policies.outlier.panic;
        Self::of(members, service.balance, panic, registry.epoch())
    }

    /// Counts the endpoints that may be used in their present state.
    ///
    /// Below the panic threshold the flags of failing endpoints are ignored: the few usable ones would be overloaded by the
    /// traffic of all, and many failures at once are more often the fault of the checks or the network. A threshold of 0
    /// turns this off.
    ///
    /// Of several tiers the first one that has a usable endpoint counts, as if the pool had no others. If none has one, all tiers
    /// count together.
    pub fn counts(&self) -> PoolCounts {
        let is_usable = |m: &&Member| m.endpoint.state.is_usable();
        let tier = match self.last_tier {
            0 => None,
            _ => { self.members.iter() }
                .filter(is_usable)
                .map(|m| m.tier)
                .min(),
        };
        let without = |barred: u32| {
            let members = self.members.iter();
            let in_tier = members.filter(|m| tier.is_none_or(|tier| m.tier == tier));
            let flags = in_tier.map(|m| m.endpoint.state.flags());
            flags.filter(|flags| flags & barred == 0).count()
        };
        let mut barred = u32::MAX;
        let mut usable = without(barred);
        if usable == 0 {
            // A worker raises SUSPECT by itself, without knowing whether it is the last endpoint. The control thread,
            // which confirms it or takes it back in a moment, never ejects the last one.
            barred = !flag::SUSPECT;
            usable = without(barred);
        }
        // Neither side of the comparison counts these: unproven endpoints have not carried traffic yet, and an operator
        // has taken the draining ones out on purpose.
        let absent = flag::UNPROVEN | flag::DRAINING;
        if usable * 1000 < without(absent) * self.panic as usize {
            barred = absent;
        }
        let mut eligible = without(barred);
        if eligible == 0 && self.panic > 0 {
            // Unproven endpoints are better than none.
            barred = flag::DRAINING;
            eligible = without(barred);
        }
        PoolCounts {
            usable,
            eligible,
            barred,
            tier,
        }
    }

    /// A pool of these members. `panic` is in thousandths, `epoch` that of the registry that made the endpoints.
    pub fn of(members: Vec<Member>, balance: Balance, panic: u32, epoch: Arc<AtomicU64>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            last_tier: members.iter().map(|m| m.tier).max().unwrap_or(0),
            members,
            balance,
            panic,
            epoch,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }
}
