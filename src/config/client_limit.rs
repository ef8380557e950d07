//! Limits of single clients: `client_limits` of a listener, a service or a match rule.

use std::fmt;
use std::time::Duration;

/// The limits of one client: `client_limits = { requests = "100/s" }`. At least one of the two is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// The property that tells clients apart. Default [`ClientKey::Ip`].
    pub by: ClientKey,
    /// The rate of requests. Default `None`: no limit.
    pub requests: Option<RequestRate>,
    /// Maximum number of open connections of one address, 1 to 1,000,000. Default `None`: no limit. Only on a listener.
    pub connections: Option<u32>,
}

/// The property that tells clients apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientKey {
    /// `ip`: the client's address; of an IPv6 address the first 64 bits, because a subscriber gets at least that range.
    #[default]
    Ip,
    /// `header:NAME`: the value of a header field, whose name is in lower case. Requests without it count by address.
    Header(String),
}

/// A rate of requests with its burst: `requests = "100/s"`, `burst = 200`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRate {
    /// Number of requests in a period, 1 to 1,000,000.
    pub requests: u32,
    /// The period.
    pub per: RatePeriod,
    /// Number of requests that may come at once, 1 to 1,000,000. Default: as many as in a period.
    pub burst: u32,
}

words! {
    /// The period of a rate.
    pub enum RatePeriod {
        /// A second.
        Second "s",
        /// A minute.
        Minute "m",
        /// An hour.
        Hour "h",
    }
}

impl RatePeriod {
    /// The length of the period.
    pub fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        })
    }
}

impl RequestRate {
    /// The time after which a client that has used up its burst may send as many requests at once again.
    pub fn time_to_refill(&self) -> Duration {
        let seconds =
            self.per.length().as_secs() * u64::from(self.burst) / u64::from(self.requests);
        Duration::from_secs(seconds)
    }
}

impl fmt::Display for RequestRate {
    /// Writes the rate as in the configuration, without its burst: `100/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, self.per)
    }
}

impl fmt::Display for ClientKey {
    /// Writes the key as in the configuration: `ip`, `header:x-api-key`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => f.write_str("ip"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}
