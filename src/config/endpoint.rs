//! Endpoints: protocol, address and weight.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An endpoint of the configuration: an address that serves a version, or a name that stands for several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSpec {
    /// Protocol towards the endpoint. Default [`Scheme::Http`].
    pub scheme: Scheme,
    /// Address of the endpoint.
    pub address: EndpointAddress,
    /// Load-balancing weight relative to the other endpoints of the version, 1 to 1000. Default 1.
    pub weight: u32,
}

/// Protocol towards an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 in clear text: `host:port`, `http://host[:80]`, `unix:/path`.
    Http,
    /// HTTP/2 or HTTP/1.1 over TLS, negotiated by ALPN: `https://host[:443]`.
    Https,
    /// HTTP/2 in clear text by prior knowledge: `h2c://host:port`.
    H2c,
}

/// Address of an endpoint. Ports are never 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// A literal IP address and a port.
    Ip(SocketAddr),
    /// A host name in lower case, whose addresses (A and AAAA) are endpoints of their own, and a port.
    Name(String, u16),
    /// The name of a service in lower case, whose SRV records (RFC 2782) name hosts and ports.
    Srv(String),
    /// An address of a name. Only endpoints at run time have it, not the configuration.
    Resolved(Box<NamedAddress>),
    /// A Unix socket, with an absolute path of at most 107 bytes.
    Unix(PathBuf),
}

/// An address that a name has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedAddress {
    /// The address and the port.
    pub address: SocketAddr,
    /// The name for TLS and `Host`: the host, or the domain of the service.
    pub name: String,
}

impl EndpointAddress {
    /// The address to connect to. `None` for a Unix socket, and for a name, which has to be looked up.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Resolved(named) => Some(named.address),
            Self::Name(..) | Self::Srv(_) | Self::Unix(_) => None,
        }
    }

    /// Whether this is an address that a name has.
    pub fn is_resolved(&self) -> bool {
        matches!(self, Self::Resolved(_))
    }

    /// The authority of requests without a `Host`, and of health checks.
    pub fn authority(&self) -> String {
        match self {
            // A path is not a valid host.
            Self::Unix(_) => "localhost".to_owned(),
            // A name that ends with a dot is absolute in DNS. Servers know their names without it.
            Self::Resolved(named) => {
                let name = named.name.trim_end_matches('.');
                format!("{name}:{}", named.address.port())
            }
            Self::Srv(name) => name.clone(),
            Self::Ip(_) | Self::Name(..) => self.to_string(),
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Resolved(named) => write!(f, "{}", named.address),
            Self::Srv(name) => write!(f, "srv:{name}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for EndpointSpec {
    /// Writes the endpoint as in the configuration, without its weight: `10.0.0.1:80`, `h2c://10.0.0.1:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Http => write!(f, "{}", self.address),
            Scheme::Https => write!(f, "https://{}", self.address),
            Scheme::H2c => write!(f, "h2c://{}", self.address),
        }
    }
}
