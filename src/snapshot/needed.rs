//! What requests to a service need, for the CPU to be asked for it as soon as they are routed.

use super::Service;
use crate::prefetch::PrefetchList;

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
        service.routing.add_to(&mut list);
        list.add_start(&*service.versions, 256);
        list.add(&*service.metrics);
        let mut endpoints = [usize::MAX; MOST * MOST];
        let mut free = endpoints.iter_mut();
        for version in service.versions.iter().take(MOST) {
            list.add(&*version.metrics);
            list.add_start(&*version.load, 256);
            list.add_start(&*version.pool.members, 64);
            for member in version.pool.members.iter().take(MOST) {
                let endpoint = &*member.endpoint;
                list.add_start(endpoint, 128);
                list.add(&endpoint.load.active);
                list.add_start(&*endpoint.shards, 128);
                if let Some(slot) = free.next() {
                    *slot = endpoint.slot;
                }
            }
        }
        Self {
            list,
            slot: service.slot,
            endpoints,
        }
    }

    /// Asks for the memory that all workers share.
    #[inline]
    pub(crate) fn prefetch(&self) {
        self.list.prefetch();
    }
}
