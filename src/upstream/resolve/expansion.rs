//! Derives the endpoints of a pool from those of the configuration: each address of a name is an endpoint of its own.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::record::{LookupName, Resolutions, ResolvedAddress};
use crate::config::spec::{EndpointAddress, EndpointSpec, NamedAddress, VersionSpec};

/// The largest weight of an endpoint.
const MOST_WEIGHT: u64 = 1000;

/// An endpoint of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolEndpoint {
    /// Address and weight of the endpoint.
    pub spec: EndpointSpec,
    /// Endpoints of a larger tier are used only while none of a smaller one is usable.
    pub(crate) tier: u16,
    /// Another address of the same machine, which is tried when the first one fails.
    pub(crate) alternative: Option<SocketAddr>,
}

impl PoolEndpoint {
    /// An endpoint as the configuration has it.
    pub(crate) fn literal(spec: &EndpointSpec) -> Self {
        Self {
            spec: spec.clone(),
            tier: 0,
            alternative: None,
        }
    }
}

/// The endpoints of a version with `resolutions`; `None` if it names no host or service, so that the endpoints of the
/// configuration are used.
///
/// A name that has not been looked up, which happens only outside a running proxy, stands for one endpoint without an address.
/// An address that occurs twice is one endpoint, with the weight of the first mention.
pub fn expand(version: &VersionSpec, resolutions: &Resolutions) -> Option<Vec<PoolEndpoint>> {
    let names = |e: &EndpointSpec| LookupName::of(&e.address).is_some();
    if !version.endpoints.iter().any(names) {
        return None;
    }
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for spec in &version.endpoints {
        let found = LookupName::of(&spec.address).and_then(|name| resolutions.get(&name));
        let Some(found) = found else {
            all.push(PoolEndpoint::literal(spec));
            continue;
        };
        all.extend(resolved(spec, found));
    }
    all.retain(|endpoint| match endpoint.spec.address.socket() {
        Some(address) => seen.insert((endpoint.spec.scheme, address)),
        None => true,
    });
    Some(all)
}

/// The endpoints that the addresses of one name stand for.
fn resolved(spec: &EndpointSpec, found: &[ResolvedAddress]) -> Vec<PoolEndpoint> {
    let endpoint = |found: &ResolvedAddress, port: u16, name: &str, weight: u32, tier: u16| {
        let address = EndpointAddress::Resolved(Box::new(NamedAddress {
            address: SocketAddr::new(found.ip, port),
            name: name.to_owned(),
        }));
        PoolEndpoint {
            spec: EndpointSpec {
                scheme: spec.scheme,
                address,
                weight,
            },
            tier,
            alternative: None,
        }
    };
    match &spec.address {
        EndpointAddress::Name(name, port) => {
            if let Some(both) = loopback(found) {
                let mut only = endpoint(both, *port, name, spec.weight, 0);
                only.alternative = Some((Ipv6Addr::LOCALHOST, *port).into());
                return vec![only];
            }
            let each = found.iter();
            each.map(|found| endpoint(found, *port, name, spec.weight, 0))
                .collect()
        }
        EndpointAddress::Srv(name) => {
            let tiers: BTreeSet<u16> = found.iter().map(|found| found.priority).collect();
            let tier = |found: &ResolvedAddress| {
                let rank = tiers
                    .iter()
                    .position(|priority| *priority == found.priority);
                // There are at most 65,536 priorities.
                rank.and_then(|rank| u16::try_from(rank).ok()).unwrap_or(0)
            };
            let host = domain_of(name);
            let each = found.iter().zip(weights(found, spec.weight));
            each.filter_map(|(found, weight)| {
                // Port 0 is nowhere to connect to.
                let port = found.port.filter(|port| *port > 0)?;
                Some(endpoint(found, port, host, weight, tier(found)))
            })
            .collect()
        }
        _ => Vec::new(),
    }
}

/// The IPv4 address if the name stands for this machine, by both of its addresses. Usually an application listens on one of them
/// only, so they are one endpoint.
fn loopback(found: &[ResolvedAddress]) -> Option<&ResolvedAddress> {
    let ip = |ip: IpAddr| found.iter().find(|found| found.ip == ip);
    let (v4, _) = ip(Ipv4Addr::LOCALHOST.into()).zip(ip(Ipv6Addr::LOCALHOST.into()))?;
    (found.len() == 2).then_some(v4)
}

/// The domain that offers a service: the name without its leading labels `_service._protocol`. A certificate must have this name,
/// which is in the configuration, rather than the target of a record (RFC 6125 section 6.2.1).
pub(crate) fn domain_of(service: &str) -> &str {
    let mut rest = service;
    while let Some((label, after)) = rest.split_once('.')
        && label.starts_with('_')
    {
        rest = after;
    }
    rest
}

/// The weights of endpoints, from those of SRV records, multiplied by `times`.
///
/// They keep their proportions, and are scaled down where the largest would exceed 1000. A record of weight 0 gets the smallest
/// weight: RFC 2782 gives it "a very small chance of being selected" beside others.
fn weights(found: &[ResolvedAddress], times: u32) -> Vec<u32> {
    let wanted = |found: &ResolvedAddress| u64::from(found.weight) * u64::from(times);
    let most = found.iter().map(wanted).max().unwrap_or(0);
    let weight = |found| match most {
        // All weights are 0, and so equal.
        0 => u64::from(times),
        1..=MOST_WEIGHT => wanted(found).max(1),
        _ => (wanted(found) * MOST_WEIGHT / most).max(1),
    };
    // The quotient is at most 1000.
    found
        .iter()
        .map(|found| u32::try_from(weight(found)).unwrap_or(1000))
        .collect()
}

#[cfg(test)]
#[path = "expansion_tests.rs"]
mod tests;
