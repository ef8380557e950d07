//! What a service does so that nobody's request is lost: checks, ejection, limits, retries, sessions, drain.

use std::path::PathBuf;
use std::time::Duration;

/// Everything of `[defaults.X]` and `[service.NAME.X]` that protects requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// Active checks; `None`: endpoints are taken to be well.
    pub health: Option<HealthPolicy>,
    /// Passive removal.
    pub outlier: Outlier,
    /// Ceilings of each version.
    pub limits: Limits,
    /// Another try.
    pub retry: Retry,
    /// How long the old may take to finish.
    pub drain: DrainPolicy,
    /// Sessions that stay.
    pub sticky: Option<Sticky>,
    /// A failed idempotent canary request gets one try on stable.
    pub shield: bool,
    /// Index into the versions: takes over when everything that has a share is down.
    pub fallback: Option<usize>,
    /// Sessions begun on a version may finish there for so long after the split moved away.
    pub finish_sessions: Option<Duration>,
}

/// `[service.NAME.health]`, or `check = "/ready"` for the probe alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// What is asked.
    pub probe: Probe,
    /// From one check to the next, of each endpoint; each is moved by up to a tenth at random. Default 2s.
    pub interval: Duration,
    /// Longest wait for an answer. Default 1s.
    pub timeout: Duration,
    /// Passes in a row after which an endpoint that was down is up. Default 2. A new one is up after its first.
    pub rise: u32,
    /// Failures in a row after which an endpoint that was up is down. Default 3.
    pub fall: u32,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/path`: GET; 200 to 399 passes.
    Http(String),
    /// `tcp`: a connection opens.
    Tcp,
    /// `grpc` or `grpc:SERVICE`: `grpc.health.v1.Health/Check` answers SERVING.
    Grpc(String),
}

impl HealthPolicy {
    /// With defaults for all but the probe.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// `[service.NAME.outlier]`
#[derive(Clone, Debug, PartialEq)]
pub struct Outlier {
    /// So many 5xx in a row eject; 0 = never. Default 5.
    pub consecutive_5xx: u32,
    /// So many failures of the gateway kind (connect, reset, timeout, 502, 503, 504) in a row eject; 0 = never. Default 3.
    pub consecutive_gateway: u32,
    /// An endpoint whose success rate is so many standard deviations below the pool's mean is ejected; 0 = never. Default 1.9
    /// (Envoy's). Judged with at least 5 endpoints and 100 requests each in an interval.
    pub success_rate_stdev: f64,
    /// How often success rates are judged. Default 10s.
    pub interval: Duration,
    /// First ejection; the n-th in a row is n times as long. Default 30s.
    pub eject: Duration,
    /// Longest ejection. Default 5m.
    pub eject_max: Duration,
    /// Most of a pool that may be ejected, in thousandths; always at least one endpoint stays. Default 500 (50 %).
    pub max_ejected: u32,
    /// Below this many thousandths of usable endpoints all are used. Default 500 (50 %); 0 = never.
    pub panic: u32,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 3,
            success_rate_stdev: 1.9,
            interval: Duration::from_secs(10),
            eject: Duration::from_secs(30),
            eject_max: Duration::from_secs(300),
            max_ejected: 500,
            panic: 500,
        }
    }
}

/// `[service.NAME.limits]`: of each version, all workers together. 0 = no ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections to its endpoints. Default 1024.
    pub connections: u32,
    /// Requests that wait for a connection. Default 1024.
    pub pending: u32,
    /// Requests in flight. Default 1024.
    pub requests: u32,
    /// Retries of answers in flight (what never got an answer is bound by the budget alone). Default 3.
    pub retries: u32,
    /// Requests that one connection carries. Default 0.
    pub requests_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            pending: 1024,
            requests: 1024,
            retries: 3,
            requests_per_connection: 0,
        }
    }
}

/// `[service.NAME.retry]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all, the first included, 1 to 10. Default 2.
    pub tries: u32,
    /// What is tried again. Default connect, reset, 502, 503, 504.
    pub on: RetryOn,
    /// `methods = "idempotent"` (default) or `"all"`. A request that was provably never sent is always tried again.
    pub all_methods: bool,
    /// Retries may be so many thousandths of the service's requests. Default 200 (20 %).
    pub budget: u32,
    /// Longest wait for the head of one try's answer; `None`: only `timeouts.first_byte`.
    pub per_try: Option<Duration>,
    /// Bytes of a request's body that are kept for another try. Default 64 KiB.
    pub body_bytes: usize,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 2,
            on: RetryOn {
                connect: true,
                reset: true,
                timeout: false,
                statuses: vec![502, 503, 504],
            },
            all_methods: false,
            budget: 200,
            per_try: None,
            body_bytes: 64 * 1024,
        }
    }
}

/// What is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryOn {
    /// `connect`: no connection.
    pub connect: bool,
    /// `reset`: it broke before its answer.
    pub reset: bool,
    /// `timeout`: no answer within first_byte or per_try. (504 in the list says the same.)
    pub timeout: bool,
    /// Answers with these statuses.
    pub statuses: Vec<u16>,
}

/// `[service.NAME.drain]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainPolicy {
    /// Requests in flight on an endpoint that goes away get so long. Default 30s.
    pub requests: Duration,
    /// Streams and tunnels get so long. Default 5m.
    pub streams: Duration,
}

impl Default for DrainPolicy {
    fn default() -> Self {
        Self {
            requests: Duration::from_secs(30),
            streams: Duration::from_secs(300),
        }
    }
}

/// `[service.NAME.sticky]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// The cookie's name. Default `cutover`.
    pub cookie: String,
    /// `to = "endpoint"` (default) rather than `"version"`.
    pub to_endpoint: bool,
    /// A session that was not seen for so long is forgotten. Default 30m.
    pub idle: Duration,
    /// The longest life of a session. Default 8h.
    pub max_life: Duration,
    /// File with the key, at least 32 bytes; `None`: one kept in the state directory.
    pub key_file: Option<PathBuf>,
}

impl Sticky {
    /// With defaults for all but what a session stays on.
    pub fn new(to_endpoint: bool) -> Self {
        Self {
            cookie: "cutover".to_owned(),
            to_endpoint,
            idle: Duration::from_secs(30 * 60),
            max_life: Duration::from_secs(8 * 60 * 60),
            key_file: None,
        }
    }
}
