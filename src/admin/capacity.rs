//! Compares the shares of versions with the weights of their endpoints.

use crate::config::spec::{EndpointSpec, ServiceSpec, Share, VersionSpec};
use crate::upstream::resolve::record::LookupName;

/// Warns of versions whose share is larger than their capacity: the weights of their endpoints, relative to those of the version
/// that has the most. Such endpoints get more requests each than those of a version that is sized for all traffic. Versions that
/// name hosts or services are left out, because their endpoints come and go.
pub(crate) fn warnings(service: &ServiceSpec, shares: &[Share]) -> Vec<String> {
    let weights: Vec<Option<u64>> = service.versions.iter().map(weight).collect();
    let most = weights.iter().copied().flatten().max().unwrap_or(0);
    let versions = service.versions.iter().zip(&weights).zip(shares);
    versions
        .filter_map(|((version, weight), share)| Some((version, (*weight)?, share)))
        .filter(|(_, weight, share)| u64::from(share.0) * most > weight * u64::from(Share::WHOLE))
        .map(|(version, weight, share)| {
            format!(
                "{} gets {share} of the traffic, but the weights of its endpoints are {weight} of {most} that the largest version has",
                version.name
            )
        })
        .collect()
}

/// The sum of the weights of a version's endpoints; `None` if it depends on what names stand for.
fn weight(version: &VersionSpec) -> Option<u64> {
    let weight = |e: &EndpointSpec| match LookupName::of(&e.address) {
        Some(_) => None,
        None => Some(u64::from(e.weight)),
    };
    version.endpoints.iter().map(weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_share_above_the_weights_is_a_warning() {
        let file = "listen = \":80\"\n[service.shop]\nstable = \"v1\"\nversions = { v1 = [\"10.0.0.1:1 weight=3\", \"10.0.0.1:2\"], v2 = [\"10.0.0.2:1\"], v3 = [\"b:1\"] }\n";
        let spec = config::parse(file, "t.toml").unwrap();
        let warned = |v2: u32| {
            // The third has as many endpoints as its name has addresses.
            let shares = [Share(Share::WHOLE - v2), Share(v2), Share(Share::WHOLE)];
            warnings(&spec.services[0], &shares)
        };
        assert!(warned(0).is_empty());
        assert!(warned(25_000).is_empty(), "one of four weights");
        let all = warned(25_001);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].starts_with("v2 gets 25.001%"), "{all:?}");
        assert!(all[0].contains("1 of 4"), "{all:?}");
    }
}
