//! A version's endpoints, weighted and balanced.

use std::sync::Arc;

use super::{Endpoint, Registry, pick};
use crate::config::spec::{self, Balance};
use crate::telemetry::VersionMetrics;

/// The runtime set of a version's endpoints.
#[derive(Debug)]
pub struct Pool {
    /// In the order of the spec.
    pub members: Vec<Member>,
    /// How they are chosen.
    pub balance: Balance,
    /// Running sums of the weights.
    pub(super) ends: Box<[u64]>,
    pub(super) stride: u64,
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
        let member = |spec: &spec::Endpoint| Member {
            endpoint: registry.endpoint(&service.name, &version.name, spec, metrics),
            weight: spec.weight,
        };
        Self::of(
            version.endpoints.iter().map(member).collect(),
            service.balance,
        )
    }

    /// A pool of these members.
    pub fn of(members: Vec<Member>, balance: Balance) -> Self {
        let ends: Box<[u64]> = members
            .iter()
            .scan(0, |sum, member| {
                *sum += u64::from(member.weight);
                Some(*sum)
            })
            .collect();
        let stride = pick::stride(ends.last().copied().unwrap_or(1));
        Self {
            members,
            balance,
            ends,
            stride,
        }
    }
}
