//! The configuration as the rest of the program sees it: valid types only.
//!
//! Whoever holds a [`Spec`] need not check anything: names resolve, shares add up, units are
//! applied, defaults are filled in. [`super::lower`] is the only maker of one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::policy::Policies;

/// A share of a service's traffic in steps of 0.001 %, from 0 to [`Share::WHOLE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(pub u32);

impl Share {
    /// 100 %: one hundred thousand steps of 0.001 %.
    pub const WHOLE: u32 = 100_000;

    /// The share as a ratio in `[0, 1]`.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE)
    }
}

/// One whole, valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Worker threads; `None` means one for each core that the process may use.
    pub workers: Option<usize>,
    /// Where the admin API listens, if anywhere besides the control socket.
    pub admin: Option<Admin>,
    /// Directory for keys, journal, history and the control socket; `None` means the default.
    pub state_dir: Option<PathBuf>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// Ceilings of the proxy as a whole.
    pub limits: ProxyLimits,
    /// Listeners in file order; names are unique.
    pub listeners: Vec<ListenerSpec>,
    /// Services in file order; names are unique.
    pub services: Vec<ServiceSpec>,
}

/// `admin = "…"` or `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// TCP addresses and Unix sockets.
    pub listen: Vec<Bind>,
    /// File that holds the bearer token for writes over TCP.
    pub token_file: Option<PathBuf>,
    /// Names that clients may use for the API, beside addresses and this machine's names.
    pub hosts: Vec<HostPattern>,
}

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Time between failing readiness and closing the listeners. Default 0s.
    pub delay: Duration,
    /// Longest time that requests in flight get. Default 30s.
    pub deadline: Duration,
}

/// `[limits]`: of the proxy as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyLimits {
    /// Largest request head in bytes. Default 32 KiB; more is 431.
    pub header_bytes: usize,
    /// Most header fields in a request. Default 100; more is 431.
    pub headers: usize,
    /// Longest request target in bytes. Default 8 KiB; more is 414.
    pub target_bytes: usize,
    /// Largest request body in bytes; `None` = unlimited; more is 413.
    pub body_bytes: Option<u64>,
    /// Longest time for a whole request head. Default 10s; later is 408.
    pub header_timeout: Duration,
    /// Longest silence inside a request body. Default 30s; later is 408.
    pub body_timeout: Duration,
    /// Longest time that a kept-alive connection may be idle. Default 60s.
    pub keepalive_timeout: Duration,
    /// Longest TLS handshake. Default 5s.
    pub handshake_timeout: Duration,
    /// Most downstream connections of the whole process; `None` = unlimited.
    pub connections: Option<usize>,
    /// Most concurrent streams of one HTTP/2 connection. Default 128.
    pub streams: u32,
    /// Whether field names with `_` are let through. Default false: 400.
    pub underscores: bool,
}

/// One bound address with its protocols and certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSpec {
    /// `[listen.NAME]`; `listen = "…"` is named `default`.
    pub name: String,
    /// Where it is bound.
    pub bind: Bind,
    /// HTTP/1.1 offered.
    pub h1: bool,
    /// HTTP/2 offered: by ALPN over TLS, by prior knowledge on clear text.
    pub h2: bool,
    /// Answer every request with a redirect to https.
    pub redirect_https: bool,
    /// Peers that are believed in what they say about the client (`Forwarded`, `X-Forwarded-*` and the like).
    pub trusted_proxies: Vec<IpNet>,
    /// Repeated slashes in a path become one, for routing and upstream. Default false: 400 where they would reach another route.
    pub merge_slashes: bool,
    /// The name that requests are given in `Via`; none leaves it out. Default `cutover`.
    pub via: Option<String>,
    /// Certificates; empty means clear text.
    pub certs: Vec<Cert>,
}

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `:8080`: every address of the machine, IPv6 and IPv4.
    Any(u16),
    /// `127.0.0.1:8080`, `[::1]:8080`.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// `[[listen.NAME.cert]]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cert {
    /// Server names, exact or `*.example.com`, lower case. Empty: taken from the certificate.
    pub sni: Vec<String>,
    /// PEM chain.
    pub cert: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// PEM of the authorities whose client certificates are demanded.
    pub client_ca: Option<PathBuf>,
}

/// An application as its users see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// `[service.NAME]`.
    pub name: String,
    /// Hosts it answers for; empty = any.
    pub hosts: Vec<HostPattern>,
    /// Paths it answers for; empty = any.
    pub paths: Vec<PathPattern>,
    /// Index into `versions`.
    pub stable: usize,
    /// Canary shares: index into `versions` (never `stable`), share; in file order. Together at most 100 %.
    pub split: Vec<(usize, Share)>,
    /// Cohort, if splits follow users.
    pub cohort: Option<CohortSpec>,
    /// Rules in file order.
    pub rules: Vec<RuleSpec>,
    /// How endpoints are chosen.
    pub balance: Balance,
    /// Time limits.
    pub timeouts: Timeouts,
    /// What protects requests.
    pub policies: Policies,
    /// What `balance = "hash"` hashes; never empty.
    pub hash_by: Vec<CohortKey>,
    /// Constant labels on this service's metrics, sorted by name.
    pub labels: Vec<(String, String)>,
    /// Versions in file order; at least one.
    pub versions: Vec<VersionSpec>,
}

/// Which hosts a route takes. Lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `shop.example.com`
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: any number of labels in place of the star.
    Suffix(String),
}

/// Which paths a route takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/login`
    Exact(String),
    /// `/v1/*`, kept as `/v1`: the path itself and everything under it, by whole segments. `/*` is kept as ``.
    Prefix(String),
}

/// `[service.NAME.cohort]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CohortSpec {
    /// The first key that is present in a request decides. Never empty.
    pub by: Vec<CohortKey>,
    /// Mixed into the hash. Default: the service's name.
    pub salt: String,
}

/// What identifies a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CohortKey {
    /// `cookie:NAME`
    Cookie(String),
    /// `header:NAME`, lower case
    Header(String),
    /// `query:NAME`
    Query(String),
    /// `ip`: the client's address
    Ip,
}

/// `[[service.NAME.match]]`: all conditions must hold.
#[derive(Clone, Debug)]
pub struct RuleSpec {
    /// Never empty.
    pub when: Vec<Condition>,
    /// Index into `versions`.
    pub to: usize,
    /// Matched requests never yield to another version.
    pub strict: bool,
}

impl PartialEq for RuleSpec {
    fn eq(&self, other: &Self) -> bool {
        self.to == other.to && self.strict == other.strict && self.when == other.when
    }
}

/// One condition of a rule: any of its patterns must match.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// What is looked at.
    pub subject: Subject,
    /// Never empty.
    pub patterns: Vec<Pattern>,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// `header.NAME`, lower case
    Header(String),
    /// `cookie.NAME`
    Cookie(String),
    /// `query.NAME`
    Query(String),
    /// `path`: as routed, without query
    Path,
    /// `method`
    Method,
    /// `ip`: the client's address
    Ip,
}

/// What a value must look like.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// The same bytes.
    Exact(String),
    /// `*` stands for any run of bytes, `?` for one.
    Glob(String),
    /// `/regex/`, unanchored; size-capped when compiled.
    Regex(regex::bytes::Regex),
    /// Address or network; only for [`Subject::Ip`].
    Net(IpNet),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Glob(a), Self::Glob(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Net(a), Self::Net(b)) => a == b,
            _ => false,
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Power of two choices by requests in flight over weight.
    #[default]
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// By expected wait: exponentially weighted latency times requests in flight; of two chosen at random.
    PeakEwma,
    /// By a hash of the request; few move when endpoints change.
    Hash,
    /// At random, by weight.
    Random,
}

/// `[service.NAME.timeouts]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To open a connection, TLS included. Default 1s.
    pub connect: Duration,
    /// From the request sent to the response's head. Default 15s.
    pub first_byte: Duration,
    /// For the whole exchange; `None` = no limit. Never cuts an upgraded or streaming response that still moves.
    pub total: Option<Duration>,
    /// Longest silence while a response body flows, and longest life of an idle upstream connection. Default 90s.
    pub idle: Duration,
}

/// One deployed variant of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionSpec {
    /// Its key under `versions`.
    pub name: String,
    /// What it is called in dashboards, e.g. `1.4.2`.
    pub label: Option<String>,
    /// Addresses that serve it, in file order; at least one.
    pub endpoints: Vec<EndpointSpec>,
    /// Hosts that reach this version whatever the split says.
    pub preview: Vec<HostPattern>,
    /// A new or recovered endpoint's share rises over this time to its full weight.
    pub slow_start: Option<Duration>,
}

/// One address that serves a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSpec {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Where it is.
    pub address: EndpointAddress,
    /// 1 to 1000. Default 1.
    pub weight: u32,
}

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 in clear text: `host:port`, `http://host:port`, `unix:/path`
    Http,
    /// TLS, HTTP/2 or HTTP/1.1 by ALPN: `https://host:port`
    Https,
    /// HTTP/2 in clear text: `h2c://host:port`
    H2c,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// A literal address.
    Ip(SocketAddr),
    /// A name that the system's resolver knows.
    Name(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(a) => write!(f, "{a}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl std::fmt::Display for EndpointSpec {
    /// As an operator names it: `10.0.0.1:80`, `h2c://10.0.0.1:80`, without weight.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.scheme {
            Scheme::Http => write!(f, "{}", self.address),
            Scheme::Https => write!(f, "https://{}", self.address),
            Scheme::H2c => write!(f, "h2c://{}", self.address),
        }
    }
}
