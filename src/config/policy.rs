//! Resilience policies of a service: health checks, outlier detection, limits, retries, drain and sticky sessions.
//!
//! Like [`spec`](super::spec), these types hold validated values only. Each table can be written under `[defaults]` and
//! overridden key by key under `[service.NAME]`; the defaults given here apply where neither sets a key. Shares that
//! need no finer steps are stored in thousandths (`50%` is 500).

use crate::index::VersionIx;
use std::path::PathBuf;
use std::time::Duration;

use super::client_limit::ClientLimits;
use super::rollout::Quantile;

/// All resilience policies of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// Active health checks. Default `None`: endpoints count as healthy.
    pub health: Option<HealthPolicy>,
    /// Outlier detection (passive health checks).
    pub outlier: Outlier,
    /// Limits towards the endpoints of each version (circuit breakers).
    pub limits: Limits,
    /// Retries of failed requests.
    pub retry: Retry,
    /// Grace periods for work on endpoints, versions and listeners that are removed.
    pub drain: DrainPolicy,
    /// Sticky sessions. Default `None`: off.
    pub sticky: Option<Sticky>,
    /// Whether stable answers an idempotent request that a canary failed. Default `false`.
    pub shield: bool,
    /// The version that gets the traffic when every version with a share is down, as an index into
    /// [`ServiceSpec::versions`](super::spec::ServiceSpec::versions). Default `None`.
    pub fallback: Option<VersionIx>,
    /// How long sessions that began on a version may continue there after the split has moved away, at least 1 s. Default
    /// `None`: sessions follow the split.
    pub finish_sessions: Option<Duration>,
    /// Second tries of idempotent requests that take long. Default `None`: there are none.
    pub hedge: Option<Hedge>,
    /// Waiting for an endpoint instead of failing. Default `None`: requests fail at once.
    pub wait: Option<WaitPolicy>,
    /// How many requests a single client may send to the service; never with connections. Default `None`: no limit.
    pub client_limits: Option<ClientLimits>,
}

/// Active health checks: `[service.NAME.health]`, or `check = "/ready"` for the probe alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// The request or connection that checks an endpoint.
    pub probe: Probe,
    /// Time between two checks of an endpoint, with up to 10 % of random jitter; at least 10 ms. Default 2 s.
    pub interval: Duration,
    /// Time allowed for the response, at least 1 ms. Default 1 s.
    pub timeout: Duration,
    /// Number of consecutive passes that bring an endpoint back up, 1 to 1000. Default 2. A new endpoint is up after its
    /// first pass.
    pub rise: u32,
    /// Number of consecutive failures that take an endpoint down, 1 to 1000. Default 3.
    pub fall: u32,
}

/// The request of a health check, and the condition under which it passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/path`: a GET passes with a status from 200 to 399.
    Http(String),
    /// `tcp`: passes once a connection is open.
    Tcp,
    /// `grpc` or `grpc:SERVICE`: passes if `grpc.health.v1.Health/Check` answers `SERVING`. The string is the service's name,
    /// empty for the server as a whole (gRPC Health Checking Protocol).
    Grpc(String),
}

impl HealthPolicy {
    /// Creates a policy with this probe and defaults for everything else.
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

/// Outlier detection, which ejects endpoints that fail live traffic: `[service.NAME.outlier]`.
///
/// The defaults are Envoy's, except for `consecutive_gateway` (5, and not enforced, in Envoy) and `max_ejected` (10 %).
#[derive(Clone, Debug, PartialEq)]
pub struct Outlier {
    /// Number of consecutive 5xx responses that eject an endpoint, 0 to 1,000,000; 0 = never. Default 5.
    pub consecutive_5xx: u32,
    /// Number of consecutive gateway failures (connect, reset, timeout, 502, 503, 504) that eject an endpoint, 0 to
    /// 1,000,000; 0 = never. Default 3.
    pub consecutive_gateway: u32,
    /// Number of standard deviations below the pool's mean success rate at which an endpoint is ejected, 0 to 100; 0 =
    /// never. Default 1.9. Evaluated over endpoints with at least 100 requests in an interval, if there are 5 of them.
    pub success_rate_stdev: f64,
    /// Time between two evaluations of the success rates, at least 1 ms. Default 10 s.
    pub interval: Duration,
    /// Duration of the first ejection, at least 1 ms; the n-th in a row lasts n times as long. Default 30 s.
    pub eject: Duration,
    /// Maximum duration of an ejection, at least `eject`. Default 5 min.
    pub eject_max: Duration,
    /// Maximum part of a pool that may be ejected at a time, in thousandths, 0 to 1000; 0 = none. Otherwise at least one
    /// endpoint may be ejected, and never the last one. Default 500 (50 %).
    pub max_ejected: u32,
    /// Panic threshold: with a smaller part of usable endpoints, in thousandths, all endpoints of the pool are used. 0 to
    /// 1000; 0 = never. Default 500 (50 %).
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

/// Limits towards the endpoints of a version (circuit breakers), shared by all workers: `[service.NAME.limits]`.
///
/// Each ranges from 0 to 100,000,000, where 0 means no limit. The defaults are those of Envoy's circuit breakers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of open connections. Default 1024.
    pub connections: u32,
    /// Maximum number of requests that wait for a connection, or for a stream on one. Default 1024.
    pub pending: u32,
    /// Maximum number of requests in flight. Default 1024.
    pub requests: u32,
    /// Maximum number of retries in flight that follow a failed response. Retries of requests that got no response are
    /// limited by [`Retry::budget`] alone, so that they can leave a dead endpoint at once. Default 3.
    pub retries: u32,
    /// Number of requests after which a connection is closed. Default 0.
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

/// Retries of failed requests: `[service.NAME.retry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Maximum number of attempts, including the first, 1 to 10. Default 2.
    pub tries: u32,
    /// Failures that are retried. Default connect, reset, 502, 503 and 504.
    pub on: RetryOn,
    /// Whether requests with methods that aren't idempotent (RFC 9110 section 9.2.2) are retried too: `methods = "all"`.
    /// Default `false`. A request that provably never reached an endpoint is retried whatever its method.
    pub all_methods: bool,
    /// Retry budget: retries as a part of the service's requests, in thousandths, 0 to 1000; 0 = no retries. Default 200
    /// (20 %), as in Finagle and Envoy.
    pub budget: u32,
    /// Time allowed for the response head of one attempt, at least 1 ms. Default `None`: only
    /// [`Timeouts::first_byte`](super::spec::Timeouts::first_byte) applies.
    pub per_try: Option<Duration>,
    /// Maximum size in bytes of a request body that is buffered for a retry, at most 16 MiB. Default 64 KiB. A request
    /// with a longer body isn't retried.
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

/// Failures that are retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryOn {
    /// `connect`: no connection could be opened.
    pub connect: bool,
    /// `reset`: the connection was closed or reset before the response.
    pub reset: bool,
    /// `timeout`: no response head within `timeouts.first_byte` or `per_try`. A 504 in `statuses` has the same effect.
    pub timeout: bool,
    /// Response statuses, 500 to 599, in ascending order.
    pub statuses: Vec<u16>,
}

/// Grace periods for work that still runs on an endpoint, version or listener that is removed: `[service.NAME.drain]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainPolicy {
    /// Grace period for requests in flight. Default 30 s.
    pub requests: Duration,
    /// Grace period for streams and tunnels. Default 5 min.
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

/// The delay after which an idempotent request without a response head gets a second try on another endpoint: `hedge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedge {
    /// A quantile of the durations of the version's requests over the last minute.
    Quantile(Quantile),
    /// A fixed time, at least 1 ms.
    After(Duration),
}

/// Requests that wait while no endpoint is usable: `wait` and `wait_pending`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitPolicy {
    /// How long a request waits in all, at least 1 ms.
    pub longest: Duration,
    /// Maximum number of requests that wait, 1 to 1,000,000, over all workers. Default 10,000.
    pub pending: u32,
}

/// Sticky sessions, kept in a sealed cookie: `[service.NAME.sticky]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// Name of the cookie. Default `cutover`.
    pub cookie: String,
    /// Whether a session stays on its endpoint (`to = "endpoint"`, the default) or only on its version.
    pub to_endpoint: bool,
    /// Time without a request after which a session expires, at least 1 s. Default 30 min.
    pub idle: Duration,
    /// Maximum lifetime of a session, used or not; at least `idle`. Default 8 h.
    pub max_life: Duration,
    /// File with the key that seals the cookie, 32 to 4096 bytes. Default `None`: a key kept in the state directory.
    pub key_file: Option<PathBuf>,
}

impl Sticky {
    /// Creates a policy that keeps sessions on their endpoint or only on their version, with defaults for everything else.
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
