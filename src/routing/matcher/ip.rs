//! `ip`: the client's address, compared with networks. The value is the address's octets: 4 for IPv4, 16 for IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::super::RequestView;
use super::attribute::Attribute;
use crate::config::spec::Pattern;

pub(super) struct Ip;

impl Attribute for Ip {
    const LOOKUP_COST: usize = 5;

    fn any_value(&self, request: &impl RequestView, mut see: impl FnMut(&[u8]) -> bool) -> bool {
        // A dual-stack socket reports an IPv4 client as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2), which must still
        // match IPv4 networks.
        match request.client().to_canonical() {
            IpAddr::V4(client) => see(&client.octets()),
            IpAddr::V6(client) => see(&client.octets()),
        }
    }

    /// A network that contains a single address has an exact value.
    fn exact_value(&self, pattern: &Pattern) -> Option<Box<[u8]>> {
        match pattern {
            Pattern::Net(net) if net.prefix_len() == net.max_prefix_len() => {
                Some(match net.addr() {
                    IpAddr::V4(client) => client.octets().into(),
                    IpAddr::V6(client) => client.octets().into(),
                })
            }
            _ => None,
        }
    }

    fn matches(&self, pattern: &Pattern, value: &[u8]) -> bool {
        let Pattern::Net(net) = pattern else {
            return false;
        };
        match net {
            IpNet::V4(net) => {
                <[u8; 4]>::try_from(value).is_ok_and(|octets| net.contains(&Ipv4Addr::from(octets)))
            }
            IpNet::V6(net) => <[u8; 16]>::try_from(value)
                .is_ok_and(|octets| net.contains(&Ipv6Addr::from(octets))),
        }
    }
}
