//! Names that are looked up for endpoints, and the results of lookups.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::spec::EndpointAddress;

/// A name that endpoints refer to, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LookupName {
    /// A host: its A and AAAA records, or its lines in `/etc/hosts`.
    Host(String),
    /// A service: its SRV records (RFC 2782), and the addresses of their targets.
    Service(String),
}

impl LookupName {
    /// The name behind the address of an endpoint; `None` for literal addresses and Unix sockets.
    pub fn of(address: &EndpointAddress) -> Option<Self> {
        match address {
            EndpointAddress::Name(name, _) => Some(Self::Host(name.clone())),
            EndpointAddress::Srv(name) => Some(Self::Service(name.clone())),
            EndpointAddress::Ip(_) | EndpointAddress::Unix(_) | EndpointAddress::Resolved(_) => {
                None
            }
        }
    }
}

impl fmt::Display for LookupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Service(name) => write!(f, "srv:{name}"),
        }
    }
}

/// One address that a lookup found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResolvedAddress {
    /// Priority of a service's record: endpoints of a larger one are used only while none of a smaller one is usable. 0 for a host.
    pub(crate) priority: u16,
    /// The address.
    pub ip: IpAddr,
    /// Port of a service's record; `None` for a host, whose endpoints state their ports.
    pub port: Option<u16>,
    /// Weight of a service's record; 0 for a host.
    pub(crate) weight: u16,
    /// The host that has the address: that of the lookup, or the target of a service's record.
    pub(crate) host: String,
}

/// The addresses of a name, sorted and without duplicates. The order of answers therefore makes no difference.
pub type AddressSet = Arc<[ResolvedAddress]>;

/// The addresses in use of every name that endpoints refer to. A name that isn't in it has not been looked up.
pub type Resolutions = HashMap<LookupName, AddressSet>;

/// The IP version of a query for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Whether an address belongs to it.
    pub(crate) fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }
}

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// At least one address, unless every part failed or has none.
    pub(crate) addresses: Vec<ResolvedAddress>,
    /// Validity of the answer: the smallest TTL of all records on the way, CNAME records included.
    pub(crate) ttl: Duration,
    /// Parts of the lookup that failed while others succeeded, by host and IP version. Their previous addresses stay in use.
    pub(crate) failed: Vec<(String, Family)>,
    /// Why the first of these failed.
    pub(crate) failure: Option<LookupFailure>,
}

/// Why a lookup found no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupFailure {
    /// NXDOMAIN: the name doesn't exist (RFC 8020).
    NoSuchName,
    /// The name exists and has no record of this kind.
    NoRecord,
    /// Every server answered with an error, such as SERVFAIL, or the last one did.
    Server(String),
    /// No server answered in time.
    Timeout,
    /// No server could be reached, or none is configured.
    Unreachable(String),
}

impl fmt::Display for LookupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName => f.write_str("the name doesn't exist (NXDOMAIN)"),
            Self::NoRecord => f.write_str("the name has no address"),
            Self::Server(code) => write!(f, "the name server answered {code}"),
            Self::Timeout => f.write_str("no name server answered in time"),
            Self::Unreachable(error) => write!(f, "no name server could be reached: {error}"),
        }
    }
}
