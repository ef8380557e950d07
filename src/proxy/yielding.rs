//! Which version a request goes to, when the one that is decided is down: its share goes to another.

use super::Worker;
use super::headers::{Fields, Request};
use crate::routing::Why;
use crate::snapshot::Service;

/// The version that is decided by rules, cohort and split; one that is wholly down yields to stable, stable to the canaries that have a
/// share, then to the fallback. When nobody is well the decided one keeps it. Strict rules never yield.
pub fn version<F: Fields>(worker: &Worker, service: &Service, request: &Request<'_, F>) -> usize {
    let decision = worker.decide(service, request);
    let mut strict = false;
    if let Why::Rule(rule) = decision.why {
        service.rule_hits.hit(worker.id, rule);
        strict = service.strict_rules[rule];
    }
    if strict || worker.is_well(service, decision.version) {
        return decision.version;
    }
    instead(worker, service, decision.version).unwrap_or(decision.version)
}

/// Who takes over for a version that is down.
fn instead(worker: &Worker, service: &Service, down: usize) -> Option<usize> {
    let split = &service.routing.split;
    let well = |version: &usize| *version != down && worker.is_well(service, *version);
    let stable = Some(split.stable()).filter(well);
    let canary = || {
        let sharing = (0..service.versions.len())
            .filter(|v| split.share(*v).0 > 0)
            .filter(well);
        sharing.max_by_key(|v| split.share(*v))
    };
    stable
        .or_else(canary)
        .or_else(|| service.policies.fallback.filter(well))
}
