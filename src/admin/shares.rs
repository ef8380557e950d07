//! The shares of a service's versions: desired by the configuration, and effective at this moment.

use crate::config::spec::{self, Share};
use crate::index::VersionIx;
use crate::routing::effective_shares;
use crate::snapshot::Service;

/// The shares that the configuration asks for, by version. The stable version gets what the split leaves.
pub(crate) fn desired(service: &spec::ServiceSpec) -> Vec<Share> {
    let mut shares = vec![Share(0); service.versions.len()];
    for (version, share) in &service.split {
        shares[version.0] = *share;
    }
    let taken: u32 = shares.iter().map(|share| share.0).sum();
    // A service that answers its requests itself may have no versions.
    if let Some(stable) = shares.get_mut(service.stable.0) {
        *stable = Share(Share::WHOLE.saturating_sub(taken));
    }
    shares
}

/// The shares of traffic in effect, by version: after the gate, and after failover from versions that are down or
/// drained. Requests that a rule or a session decides don't count, as in any split. The sum is below the whole if some
/// requests are answered with 503.
pub(super) fn effective(service: &Service) -> Vec<Share> {
    let pools: Vec<_> = { service.versions.iter() }
        .map(|v| v.pool.counts())
        .collect();
    let answers = |version: VersionIx| service.routing.version_answers(version);
    let is_usable = |version: VersionIx| answers(version) || pools[version.0].usable > 0;
    let split = &service.routing.split;
    let mut shares = effective_shares(split, service.policies.fallback, is_usable);
    for (version, pool) in VersionIx::enumerate(&pools) {
        // A version without usable endpoints keeps its share if no version can take over and its endpoints are tried in panic
        // mode. With all of them drained there is nothing to try.
        if pool.eligible == 0 && !answers(version) {
            shares[version.0] = Share(0);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config;
    use crate::snapshot::fixtures::compiled;
    use crate::snapshot::{Keys, Previous, Snapshot};
    use crate::telemetry::Telemetry;
    use crate::upstream::Registry;
    use crate::upstream::endpoint::flag;

    fn snapshot(split: &str) -> Snapshot {
        let file = format!(
            "listen = \"127.0.0.1:80\"\n[service.shop]\nstable = \"v1\"\nfallback = \"v3\"\nsplit = {{ {split} }}\n\
             versions.v1 = [\"a:1\", \"a:2\"]\nversions.v2 = [\"b:1\"]\nversions.v3 = [\"c:1\"]\n"
        );
        let spec = config::parse(&file, "test.toml").unwrap();
        Snapshot::build(1, Arc::new(spec), &Registry::new(), &Telemetry::new(1))
    }

    fn raise(snapshot: &Snapshot, version: VersionIx, flags: u32) {
        for member in &snapshot.services[0].versions[version].pool.members {
            member.endpoint.state.raise(flags);
        }
    }

    fn percents(shares: &[Share]) -> Vec<u32> {
        shares.iter().map(|s| s.0 * 100 / Share::WHOLE).collect()
    }

    #[test]
    fn a_version_that_is_down_or_drained_is_taken_over() {
        let snapshot = snapshot("v2 = \"25%\"");
        let effective = || percents(&effective(&snapshot.services[0]));
        assert_eq!(percents(&desired(&snapshot.spec.services[0])), [75, 25, 0]);
        assert_eq!(effective(), [75, 25, 0]);
        raise(&snapshot, VersionIx(1), flag::DOWN);
        assert_eq!(effective(), [100, 0, 0], "stable takes over");
        raise(&snapshot, VersionIx(0), flag::DRAINING);
        assert_eq!(effective(), [0, 0, 100], "the fallback does");
        raise(&snapshot, VersionIx(2), flag::EJECTED);
        assert_eq!(
            effective(),
            [0, 25, 0],
            "the canary is tried in panic, the rest is answered 503"
        );
        assert_eq!(percents(&desired(&snapshot.spec.services[0])), [75, 25, 0]);
    }

    #[test]
    fn the_gate_holds_a_share_back() {
        let before = snapshot("v2 = \"0%\"");
        let file = "listen = \"127.0.0.1:80\"\n[service.shop]\nstable = \"v1\"\ncheck = \"/\"\nsplit = { v2 = \"25%\" }\n\
                    versions.v1 = [\"a:1\"]\nversions.v2 = [\"b:1\"]\n";
        let spec = Arc::new(config::parse(file, "test.toml").unwrap());
        let previous = Previous::Generation(&before);
        let next = compiled(&spec, previous, false, (&Keys::new(), 0));
        assert_eq!(percents(&desired(&next.spec.services[0])), [75, 25]);
        assert_eq!(percents(&effective(&next.services[0])), [100, 0]);
    }
}
