//! The validated configuration that the rest of the program reads.
//!
//! A [`Spec`] is returned only for a file without errors, so its users need no further checks: names
//! are resolved to indices, shares add up to at most 100 %, units are converted and defaults are filled in. A field's
//! documentation gives its unit, the accepted range and the default where it has one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::access_log::AccessLogSpec;
use super::acme::AcmeSpec;
use super::actions::{Actions, HeaderEdits};
use super::client_limit::ClientLimits;
pub use super::condition::{Condition, Conditions, Pattern, Subject};
pub use super::endpoint::{EndpointAddress, EndpointSpec, NamedAddress, Scheme};
use super::flag::FlagSpec;
use super::fleet::FleetSpec;
use super::mirror::MirrorSpec;
use super::policy::Policies;
use super::rollout::{GoalSpec, RolloutSpec, RolloutSubject};
pub use super::share::{PathPattern, Share};
use super::trace::TraceSpec;
pub use super::transport::{ClientAuth, ProxyProtocol, TlsMinimum, UpstreamTls};
use crate::index::{FlagIx, RuleIx, ServiceIx, VersionIx};

/// A complete, valid configuration.
///
/// Only [`crate::config`] makes one, of a text without errors, so readers may rely on what the checks guarantee: names are unique,
/// indices are in bounds, and shares add up to at most 100 %. It is a plain value that says nothing about the state of the process.
/// A snapshot is compiled of it, and shares it by an `Arc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Number of worker threads, 1 to 1024. Default `None`: one for each core that the process may use.
    pub workers: Option<usize>,
    /// Additional listeners of the admin API. Default `None`: the API is served on the control socket only.
    pub admin: Option<Admin>,
    /// Directory for the control and handover sockets and the proxy's own sticky key. Default `None`: `$STATE_DIRECTORY`,
    /// else the user's XDG state directory, else `/var/lib/cutover`.
    pub state_dir: Option<PathBuf>,
    /// Timing of a graceful shutdown.
    pub shutdown: Shutdown,
    /// Limits towards clients, across all listeners.
    pub limits: ProxyLimits,
    /// The access log. Default `None`: requests aren't logged.
    pub access_log: Option<AccessLogSpec>,
    /// The export of traces. Default `None`: trace context is passed on unchanged.
    pub trace: Option<TraceSpec>,
    /// Certificates that the proxy obtains itself. Default `None`: no listener names any.
    pub acme: Option<AcmeSpec>,
    /// How names of endpoints are looked up.
    pub dns: DnsSpec,
    /// The fleet that this proxy belongs to. Default `None`: none.
    pub fleet: Option<FleetSpec>,
    /// Edits of header fields for all services, and for responses that belong to none: `[defaults.headers]`.
    pub headers: HeaderEdits,
    /// Listeners in file order; names are unique.
    pub listeners: Vec<ListenerSpec>,
    /// Services in file order; names are unique.
    pub services: Vec<ServiceSpec>,
}

impl Spec {
    /// Whether any version's endpoints are told the clients' addresses by the PROXY protocol.
    pub fn announces_clients(&self) -> bool {
        let mut versions = self.services.iter().flat_map(|service| &service.versions);
        versions.any(|version| version.proxy_protocol.is_some())
    }

    /// The service with this name.
    pub fn service(&self, name: &str) -> Option<ServiceIx> {
        let index = self.services.iter().position(|s| s.name == name);
        index.map(ServiceIx)
    }
}

indexed_by!(ServiceIx: ServiceSpec);

/// Listeners of the admin API: `admin = "…"` or `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// TCP addresses and Unix sockets to listen on; none overlaps another listener.
    pub listen: Vec<Bind>,
    /// File with the bearer token (RFC 6750) for writes over TCP, and for reads on an address that isn't loopback.
    /// Default `None`: these are refused.
    pub token_file: Option<PathBuf>,
    /// Host names accepted in requests to the API, beside `localhost`, the listener's address and this machine's
    /// names; any other `Host` is refused against DNS rebinding. Default empty.
    pub hosts: Vec<HostPattern>,
}

/// How names of endpoints are looked up: `[dns]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSpec {
    /// Addresses of name servers, asked in this order. Default empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
}

/// Timing of a graceful shutdown: `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Time between failing `/readyz` and closing the listeners, for load balancers to notice. Default 0 s.
    pub delay: Duration,
    /// Grace period for requests in flight after the listeners are closed. Default 30 s.
    pub deadline: Duration,
}

/// Limits towards clients, across all listeners: `[limits]`.
///
/// Not to be confused with [`Limits`](super::policy::Limits), which apply towards the endpoints of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyLimits {
    /// Maximum size of a request head in bytes, 1 KiB to 1 MiB. Default 32 KiB. A larger one is answered 431 (RFC 6585
    /// section 5).
    pub header_bytes: usize,
    /// Maximum number of header fields in a request, 1 to 256. Default 100. More are answered 431.
    pub headers: usize,
    /// Maximum length of a request target in bytes, 128 B to 1 MiB. Default 8 KiB. A longer one is answered 414 (RFC 9110
    /// section 15.5.15).
    pub target_bytes: usize,
    /// Maximum size of a request body in bytes. Default `None`: unlimited. A larger one is answered 413 (RFC 9110
    /// section 15.5.14).
    pub body_bytes: Option<u64>,
    /// Time allowed for a complete request head, at least 1 ms. Default 10 s. A slower one is answered 408 (RFC 9110
    /// section 15.5.9).
    pub header_timeout: Duration,
    /// Longest pause in a request body, and how far the body may fall behind 240 bytes/s; at least 1 ms. Default 30 s.
    /// A slower one is answered 408.
    pub body_timeout: Duration,
    /// Longest time that a downstream connection may be idle, between requests or before the first; at least 1 ms.
    /// Default 60 s.
    pub keepalive_timeout: Duration,
    /// Time allowed for a TLS handshake, at least 1 ms. Default 5 s.
    pub handshake_timeout: Duration,
    /// Maximum number of downstream connections of the process, 1 to 100,000,000. Default `None`: half of the limit of open
    /// files, which leaves the other half to upstream connections.
    pub connections: Option<usize>,
    /// Maximum number of concurrent streams on a downstream HTTP/2 connection, 1 to 10,000; sent as
    /// `SETTINGS_MAX_CONCURRENT_STREAMS` (RFC 9113 section 6.5.2). Default 128.
    pub streams: u32,
    /// Whether field names with `_` are accepted. Default `false`: they are answered 400, because an upstream that maps
    /// field names to CGI variables can't tell `_` from `-`.
    pub underscores: bool,
}

/// A listener: a bound address with its protocols and certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSpec {
    /// Name from `[listen.NAME]`; the listener of `listen = "…"` is named `default`.
    pub name: String,
    /// Address to bind; it doesn't overlap that of another listener.
    pub bind: Bind,
    /// Whether HTTP/1.1 is accepted. Default `true`; at least one of `h1` and `h2` is.
    pub h1: bool,
    /// Whether HTTP/2 is accepted: negotiated by ALPN (RFC 7301) over TLS, by prior knowledge (RFC 9113 section 3.3) in
    /// clear text. Default `true`.
    pub h2: bool,
    /// Whether every request is answered with a 308 redirect to https. Default `false`; never with certificates.
    pub redirect_https: bool,
    /// Networks of peers whose `Forwarded`, `X-Forwarded-*` and similar fields are trusted. Default empty: the fields are
    /// removed or replaced.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether repeated slashes in a path are merged into one, for routing and towards the upstream. Default `false`: such
    /// a path is answered 400 where merging would lead to another route.
    pub merge_slashes: bool,
    /// Pseudonym that requests get in `Via` (RFC 9110 section 7.6.3); `None` adds no `Via`. Default `cutover`.
    pub via: Option<String>,
    /// Limits of a single client. Default `None`: no limits.
    pub client_limits: Option<ClientLimits>,
    /// Names of the services whose requests are accepted. Default `None`: all.
    pub services: Option<Vec<String>>,
    /// Whether every connection must begin with a header of the PROXY protocol, version 1 or 2, which names the client.
    /// Default `false`.
    pub proxy_protocol: bool,
    /// Networks of the peers that may send such a header. Default empty: every peer.
    pub proxy_sources: Vec<IpNet>,
    /// Permissions to connect, if it is a Unix socket.
    pub access: SocketAccess,
    /// Certificates, selected by SNI. Default empty: the listener speaks clear text. Those that the proxy obtains come last.
    pub certs: Vec<Cert>,
    /// The oldest version of TLS that is accepted. Default [`TlsMinimum::V12`].
    pub tls_min: TlsMinimum,
    /// Names whose certificates the proxy obtains for this listener: `acme`. Default empty.
    pub acme: Vec<String>,
    /// Hosts for which challenges of an ACME authority are answered, on any listener.
    pub challenge_hosts: Vec<String>,
}

impl ListenerSpec {
    /// A clear-text listener with defaults for everything but its name and address.
    pub fn new(name: impl Into<String>, bind: Bind) -> Self {
        Self {
            name: name.into(),
            bind,
            h1: true,
            h2: true,
            redirect_https: false,
            trusted_proxies: Vec::new(),
            merge_slashes: false,
            via: Some("cutover".to_owned()),
            client_limits: None,
            services: None,
            proxy_protocol: false,
            proxy_sources: Vec::new(),
            access: SocketAccess::default(),
            certs: Vec::new(),
            tls_min: TlsMinimum::V12,
            acme: Vec::new(),
            challenge_hosts: Vec::new(),
        }
    }
}

/// Group and mode of the file of a Unix socket. To connect, a user needs the right to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketAccess {
    /// The permission bits, at most `0o777`. Default `None`: as the umask says.
    pub mode: Option<u32>,
    /// Name or number of the group. Default `None`: that of the process.
    pub group: Option<String>,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `:8080`: every IPv4 and IPv6 address of the machine. Port 0 lets the kernel choose a port.
    Any(u16),
    /// `127.0.0.1:8080`, `[::1]:8080`: one address.
    Tcp(SocketAddr),
    /// `unix:/path`: a Unix socket, with an absolute path of at most 107 bytes.
    Unix(PathBuf),
}

/// A certificate of a listener: `[[listen.NAME.cert]]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cert {
    /// Server names (RFC 6066 section 3) that get this certificate, exact or `*.example.com`, in lower case. Default empty:
    /// the names in the certificate.
    pub sni: Vec<String>,
    /// PEM file with the certificate chain, the server's own certificate first.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// PEM file with certificate authorities; clients present a certificate that one of them issued. Default `None`: client
    /// certificates aren't requested.
    pub client_ca: Option<PathBuf>,
    /// Whether clients may do without a certificate. Only with `client_ca`; default [`ClientAuth::Required`].
    pub client_auth: ClientAuth,
    /// Whether the proxy obtains the certificate itself. The file, named by both `cert` and `key`, may then be missing.
    pub acme: bool,
}

/// A service: an application as its users see it, with its routes, versions and policies.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// Name from `[service.NAME]`.
    pub name: String,
    /// Hosts whose requests this service takes, without duplicates. Default empty: every host.
    pub hosts: Vec<HostPattern>,
    /// Paths whose requests this service takes, without duplicates. Default empty: every path.
    pub paths: Vec<PathPattern>,
    /// The version that gets the rest of the split, as an index into `versions`. Defaults to the only version.
    pub stable: VersionIx,
    /// Shares of the canaries, as indices into `versions` (never `stable`), in file order. They add up to at most 100 %.
    /// Default empty: stable gets everything.
    pub split: Vec<(VersionIx, Share)>,
    /// The version or flag whose share follows the rollout (`split = { v2 = "rollout" }`). A version is listed in `split` with
    /// 0 %. Default `None`.
    pub rolling: Option<RolloutSubject>,
    /// The plan of rollouts. Default `None`; always present if `rolling` is.
    pub rollout: Option<RolloutSpec>,
    /// Business events that are counted per version, in file order. Default empty.
    pub goals: Vec<GoalSpec>,
    /// How requests are assigned to users when they are split. Default `None`: the split counts requests.
    pub cohort: Option<CohortSpec>,
    /// Match rules in file order; the first that matches decides, before session, cohort and split.
    pub rules: Vec<RuleSpec>,
    /// Flags for the application, sorted by name; at most [`FLAGS`](super::flag::FLAGS). Default empty; not empty only with a
    /// cohort.
    pub flags: Vec<FlagSpec>,
    /// Copies of requests for another version. Default `None`.
    pub mirror: Option<MirrorSpec>,
    /// Maximum size of a request body in bytes; `None` is unlimited. Default: that of [`ProxyLimits`].
    pub body_bytes: Option<u64>,
    /// Actions of the proxy on the service's requests. An answer doesn't apply to preview hosts and rules with a version.
    pub actions: Actions,
    /// Load-balancing policy within a version. Default [`Balance::LeastRequest`].
    pub balance: Balance,
    /// Timeouts towards the endpoints.
    pub timeouts: Timeouts,
    /// Health checks, outlier detection, limits, retries, drain and sticky sessions.
    pub policies: Policies,
    /// Request attributes that `balance = "hash"` hashes; the first present one is used. Never empty; default the
    /// client's address.
    pub hash_by: Vec<CohortKey>,
    /// Constant labels on this service's metrics, as pairs of name and value sorted by name. Default empty.
    pub labels: Vec<(String, String)>,
    /// Versions in file order; at least one, unless the service has an answer.
    pub versions: Vec<VersionSpec>,
}

impl ServiceSpec {
    /// The version with this name.
    pub fn version(&self, name: &str) -> Option<VersionIx> {
        let index = self.versions.iter().position(|v| v.name == name);
        index.map(VersionIx)
    }

    /// The version that follows the rollout.
    pub fn rolling_version(&self) -> Option<VersionIx> {
        match self.rolling? {
            RolloutSubject::Version(version) => Some(version),
            RolloutSubject::Flag(_) => None,
        }
    }

    /// The flag that follows the rollout.
    pub fn rolling_flag(&self) -> Option<FlagIx> {
        match self.rolling? {
            RolloutSubject::Flag(flag) => Some(flag),
            RolloutSubject::Version(_) => None,
        }
    }

    /// The share that `split` gives to a version; 0 % for stable.
    pub fn share(&self, version: VersionIx) -> Share {
        let canary = self.split.iter().find(|(v, _)| *v == version);
        canary.map_or(Share(0), |(_, share)| *share)
    }
}

indexed_by!(VersionIx: VersionSpec, Share);
indexed_by!(RuleIx: RuleSpec);
indexed_by!(FlagIx: FlagSpec);

/// A pattern for the host of a request, in lower case and without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `shop.example.com`: this name or address. IPv6 addresses keep their brackets (RFC 3986 section 3.2.2).
    Exact(String),
    /// `*.example.com`, stored as `.example.com`: one or more labels in place of the star.
    Suffix(String),
}

/// How a request is assigned to a user, so that a split moves users: `[service.NAME.cohort]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CohortSpec {
    /// Request attributes that identify a user, in order of preference: the first present one is used. Never empty.
    pub by: Vec<CohortKey>,
    /// Salt of the hash that maps users to `[0, 1)`; services with equal salts give a user the same point. Default: the
    /// service's name.
    pub salt: String,
}

/// A request attribute that identifies a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CohortKey {
    /// `cookie:NAME`: the value of a cookie.
    Cookie(String),
    /// `header:NAME`: the value of a header field; the name is in lower case.
    Header(String),
    /// `query:NAME`: the value of a query parameter.
    Query(String),
    /// `ip`: the client's address.
    Ip,
}

/// A match rule, which applies to requests for which all conditions hold: `[[service.NAME.match]]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleSpec {
    /// The conditions. A request matches if any of these alternatives does. Never empty.
    pub when: Vec<Conditions>,
    /// The version that gets the request, as an index into [`ServiceSpec::versions`]. `None` if the rule has an answer, or leaves
    /// the choice to session, cohort and split.
    pub to: Option<VersionIx>,
    /// Whether matched requests never fail over to another version, even if this one is down. Default `false`.
    pub strict: bool,
    /// Actions of the proxy on matched requests.
    pub actions: Actions,
    /// How many of these requests a single client may send; never with connections. Default `None`: no limit.
    pub client_limits: Option<ClientLimits>,
}

words! {
    /// Load-balancing policy: how an endpoint of a version is picked. All of them respect weights.
    #[derive(Default)]
    pub enum Balance {
        #[default]
        LeastRequest "least_request": "Of two random endpoints, the one with fewer requests in flight relative to its weight.",
        RoundRobin "round_robin": "Weighted round robin.",
        PeakEwma "peak_ewma": "Of two random endpoints, the one with the shorter expected wait, as in Finagle.",
        Hash "hash": "Consistent hashing of [`ServiceSpec::hash_by`]: when endpoints change, only their share of the requests moves.",
        Random "random": "Weighted random choice.",
    }
}

/// Timeouts towards the endpoints of a service: `[service.NAME.timeouts]`. Each is at least 1 ms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Time to open a connection, including the TLS handshake. Default 1 s.
    pub connect: Duration,
    /// Time from the end of the request to the head of the response. Default 15 s.
    pub first_byte: Duration,
    /// Time for the whole exchange. It never ends a tunnel, or a response that still makes progress. Default `None`:
    /// unlimited.
    pub total: Option<Duration>,
    /// Longest pause in a response body, in either direction of the proxy, and longest time that an upstream connection is
    /// kept idle. Default 90 s.
    pub idle: Duration,
}

/// A version: one deployed variant of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionSpec {
    /// Name from its key under `versions`.
    pub name: String,
    /// Label shown beside the name, such as a release number (`1.4.2`). Default `None`.
    pub label: Option<String>,
    /// Endpoints in file order, without duplicates. At least one, unless the version has an answer.
    pub endpoints: Vec<EndpointSpec>,
    /// Largest share that a rollout may give the version, above 0. Default `None`: no limit.
    pub max_share: Option<Share>,
    /// Hosts whose requests always go to this version, regardless of the split. No service and no other version uses them.
    /// Default empty.
    pub preview: Vec<HostPattern>,
    /// Time over which a new or recovered endpoint ramps up to its full weight, at least 1 ms. Default `None`: full weight at
    /// once.
    pub slow_start: Option<Duration>,
    /// Actions of the proxy on the version's requests.
    pub actions: Actions,
    /// TLS towards its `https://` endpoints. Default `None`: the system's authorities, and no client certificate.
    pub tls: Option<UpstreamTls>,
    /// The header of the PROXY protocol with which connections to its endpoints begin. Default `None`: none. Never with `h2c://`
    /// endpoints.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl ServiceSpec {
    /// The name of the stable version; empty if the service has no versions.
    pub fn stable_name(&self) -> &str {
        self.versions.get(self.stable.0).map_or("", |v| &v.name)
    }

    /// The header edits of a request that this rule matches and this version gets: the inner ones last, so that they win.
    pub fn header_edits(&self, rule: Option<RuleIx>, version: Option<VersionIx>) -> HeaderEdits {
        let of_version = version.map(|version| &self.versions[version].actions.headers);
        let of_rule = rule.map(|rule| &self.rules[rule].actions.headers);
        let inner = of_version.into_iter().chain(of_rule);
        inner.fold(self.actions.headers.clone(), |outer, inner| {
            outer.then(inner)
        })
    }
}
