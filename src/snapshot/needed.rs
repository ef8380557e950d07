//! What requests to a service need, for the CPU to be asked for it as soon as they are routed.

use super::Service;
use crate::prefetch::{PrefetchList, PrefetchShard};
use crate::telemetry::WorkerId;

/// Versions, and endpoints of each, whose memory is asked for.
const MOST: usize = 2;

/// The memory that most requests to a service need.
///
/// Made for large configurations only ([`FEW_SERVICES`](crate::prefetch::FEW_SERVICES)).
#[derive(Debug)]
pub(crate) struct NeededMemory {
    pub(super) list: PrefetchList,
    /// [`Service::slot`], the index of each worker's own state.
    pub(crate) slot: usize,
    /// The slots of endpoints. `usize::MAX` is none.
    pub(crate) endpoints: [usize; MOST * MOST],
    /// Counters of versions and endpoints.
    shards: [PrefetchShard; MOST * (MOST + 1)],
}

impl NeededMemory {
    pub(super) fn of(service: &Service) -> Self {
        let mut list = PrefetchList::default();
        list.add(&service.routing);
        list.add(&service.actions);
        list.add(&service.versions);
        list.add_start(&service.sessions, 1);
        list.add(&service.timeouts);
        list.add(&service.name);
        list.add(&service.client_limits);
        list.add(&service.slot);
        list.add(&service.mirror);
        list.add(&service.hash);
        list.add(&service.flags);
        list.add(&service.goals);
        list.add(&service.policies.wait);
        list.add(&service.policies.limits);
        list.add(&service.policies.retry.budget);
        list.add(&service.policies.outlier);
        list.add_start(&service.policies.hedge, 1);
        service.routing.add_to(&mut list);
        list.add_start(&*service.versions, 256);
        list.add(&*service.metrics);
        let mut endpoints = [usize::MAX; MOST * MOST];
        let mut free = endpoints.iter_mut();
        let mut shards = [PrefetchShard::default(); MOST * (MOST + 1)];
        let mut free_shards = shards.iter_mut();
        let mut add_shard = |place| {
            if let Some(free) = free_shards.next() {
                *free = place;
            }
        };
        for version in service.versions.iter().take(MOST) {
            list.add(&*version.metrics);
            add_shard(version.metrics.needed());
            list.add_start(&*version.load, 256);
            list.add_start(&*version.pool.members, 64);
            for member in version.pool.members.iter().take(MOST) {
                let endpoint = &*member.endpoint;
                list.add_start(endpoint, 128);
                list.add(&endpoint.load.active);
                add_shard(PrefetchShard::of(&endpoint.shards, |shard| shard));
                if let Some(slot) = free.next() {
                    *slot = endpoint.slot;
                }
            }
        }
        Self {
            list,
            slot: service.slot,
            endpoints,
            shards,
        }
    }

    /// Asks for the memory that all workers share, and for a worker's counters.
    #[inline]
    pub(crate) fn prefetch(&self, worker: WorkerId) {
        self.list.prefetch();
        for shard in self.shards {
            shard.prefetch(worker.0);
        }
    }
}
