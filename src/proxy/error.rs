//! Failures of an exchange. For each of them, this decides in one place who caused it, what the
//! client is told, and which status counts for the version.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use super::body::UploadError;
use super::wire::{PumpError, WireError};
use crate::http1::Reject;
use crate::telemetry::record::{Failure, Origin, Reason};
use crate::upstream::ConnectError;
use crate::upstream::limits::Limit;
use crate::upstream::tls_failure::tls_error;

/// Why an exchange ended without a complete response.
#[derive(Debug)]
pub enum ExchangeError {
    /// The client sent a malformed body, or a request that can't be expressed upstream.
    Malformed(Reject),
    /// The client closed its connection or reset its stream, with the error if there was one.
    ClientGone(Option<WireError>),
    /// The client sent its body too slowly.
    BodyTimeout,
    /// The client read so slowly that its download was ended in favour of waiting requests.
    ClientSlow,
    /// The body exceeds `body_bytes`.
    BodyTooLarge,
    /// The version has no endpoint to try.
    NoEndpoint,
    /// The response had this status and was dropped, because another try follows.
    Status(u16),
    /// A limit of the version was reached.
    Limit(Limit),
    /// `timeouts.total` passed while the request waited for a connection slot.
    QueueTimeout,
    /// A WebSocket was requested, and the endpoint speaks HTTP/2 without extended CONNECT. Doesn't
    /// count for the version, since any client could cause it.
    NoUpgrade,
    /// No connection could be opened.
    Connect(ConnectError),
    /// The upstream failed before or during its response.
    Upstream(WireError),
    /// No response head within `timeouts.first_byte`.
    FirstByteTimeout,
    /// No response head within `timeouts.total`.
    TotalTimeout,
    /// The response made no progress for `timeouts.idle`.
    IdleTimeout,
    /// The process is shutting down, or the endpoint's grace period has ended.
    Shutdown,
}

/// A failed try.
#[derive(Debug)]
pub(crate) struct AttemptError {
    /// The failure.
    pub error: ExchangeError,
    /// Whether the head of a response has gone to the client, so that the failure can only be signalled by
    /// cutting the connection or stream.
    pub answered: bool,
}

/// The failure of an upload whose cause is the client. A sink error of the upstream is handled by
/// both phases themselves; the one that arrives here comes from the client's connection.
pub(super) fn client_side(error: UploadError) -> ExchangeError {
    match error {
        UploadError::TooLarge => ExchangeError::BodyTooLarge,
        UploadError::Pump(PumpError::Source(WireError::Bad(reject))) => {
            ExchangeError::Malformed(reject)
        }
        UploadError::Pump(PumpError::Source(error) | PumpError::Sink(error)) => {
            ExchangeError::ClientGone(Some(error))
        }
    }
}

impl From<ExchangeError> for AttemptError {
    fn from(error: ExchangeError) -> Self {
        Self {
            error,
            answered: false,
        }
    }
}

/// A response that the proxy makes itself: a status, and a reason in `x-cutover-reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// Status of the reply: 200, or 400 to 599.
    pub status: u16,
    /// The value of `x-cutover-reason`.
    pub reason: Reason,
    /// The value of `retry-after` in seconds.
    pub retry_after: Option<u32>,
}

impl LocalReply {
    /// No route matches host and path.
    pub const NO_ROUTE: Self = Self::new(404, Reason::NoRoute);
    /// Another reading of the path (`%2f` as `/`, `\` as `/`) would match another route, which could
    /// bypass the route that guards a prefix.
    pub const AMBIGUOUS_PATH: Self = Self::new(400, Reason::AmbiguousPath);
    /// The version has no endpoint to try.
    pub const NO_ENDPOINT: Self = Self::new(503, Reason::NoEndpoint);
    /// The certificate of the connection doesn't cover the host (RFC 9110 §15.5.20).
    pub const MISDIRECTED: Self = Self::new(421, Reason::Misdirected);
    /// The reply needs the host of the request, and there is none.
    pub const MISSING_HOST: Self = Self::new(400, Reason::MissingHost);
    /// The head didn't arrive within `limits.header_timeout`.
    pub const HEADER_TIMEOUT: Self = Self::new(408, Reason::HeaderTimeout);

    const fn new(status: u16, reason: Reason) -> Self {
        Self {
            status,
            reason,
            // Limits, drained endpoints and exhausted descriptors are often gone in a moment.
            retry_after: if status == 503 { Some(1) } else { None },
        }
    }

    /// The reply to a client that may send its next request after `wait` (RFC 6585 §4).
    pub fn too_many_requests(wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self {
            retry_after: Some(u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)),
            ..Self::new(429, Reason::ClientLimit)
        }
    }

    /// The reply to a request that the codec rejected.
    pub fn refuse(reject: Reject) -> Self {
        Self::new(reject.status, reject.reason)
    }

    /// The body, which is one line.
    pub fn text(self) -> &'static str {
        match self.status {
            400 => "bad request\n",
            200 => "answered by the proxy\n",
            404 => "no route for this host and path\n",
            405 => "method not allowed\n",
            408 => "the request did not arrive in time\n",
            413 => "the request body is too large\n",
            414 => "the request target is too long\n",
            417 => "unknown expectation\n",
            421 => "this connection's certificate does not cover the host\n",
            429 => "too many requests\n",
            426 => "this protocol version is not supported\n",
            431 => "the request head is too large\n",
            501 => "not implemented\n",
            502 => "the upstream failed\n",
            503 => "no endpoint can take the request\n",
            504 => "the upstream did not answer in time\n",
            505 => "HTTP version not supported\n",
            _ => "the request was refused\n",
        }
    }

    /// The failure to record for a request that never reached a version. Its origin is the client.
    pub fn failure(self) -> Failure {
        Failure {
            origin: Origin::Client,
            reason: self.reason,
        }
    }
}

impl ExchangeError {
    /// Origin and reason. `answered`: part of a response has gone to the client.
    pub fn failure(&self, answered: bool) -> Failure {
        let (origin, reason) = match self {
            Self::Malformed(reject) => (Origin::Client, reject.reason),
            Self::ClientGone(_) => (Origin::Client, Reason::ClientGone),
            Self::BodyTimeout => (Origin::Client, Reason::BodyTimeout),
            Self::ClientSlow => (Origin::Client, Reason::ClientSlow),
            Self::BodyTooLarge => (Origin::Client, Reason::BodyTooLarge),
            Self::NoEndpoint => (Origin::Upstream, Reason::NoEndpoint),
            Self::Status(_) => (Origin::Upstream, Reason::UpstreamStatus),
            Self::Limit(limit) => (Origin::Proxy, limit.reason()),
            Self::QueueTimeout => (Origin::Proxy, Reason::QueueTimeout),
            Self::NoUpgrade => (Origin::Proxy, Reason::UpstreamNoUpgrade),
            Self::Shutdown => (Origin::Proxy, Reason::Shutdown),
            Self::Connect(error) if error.is_local() => (Origin::Proxy, error.reason()),
            Self::Connect(error) => (Origin::Upstream, error.reason()),
            Self::Upstream(error) => (Origin::Upstream, wire_reason(error, answered)),
            Self::FirstByteTimeout => (Origin::Upstream, Reason::FirstByteTimeout),
            Self::TotalTimeout => (Origin::Upstream, Reason::TotalTimeout),
            Self::IdleTimeout => (Origin::Upstream, Reason::IdleTimeout),
        };
        Failure { origin, reason }
    }

    /// The reply to the client; `None` if it is gone or is to be disconnected without one.
    pub fn answer(&self) -> Option<LocalReply> {
        let reason = self.failure(false).reason;
        let status = match self {
            Self::Malformed(reject) => reject.status,
            Self::ClientGone(_) | Self::ClientSlow | Self::Shutdown => return None,
            Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::Status(status) => *status,
            Self::Limit(_) | Self::NoEndpoint => 503,
            Self::Connect(ConnectError::Unresolved) => 503,
            Self::Connect(error) if error.is_local() => 503,
            Self::Connect(ConnectError::Timeout) => 504,
            Self::Connect(_) | Self::Upstream(_) | Self::NoUpgrade => 502,
            Self::QueueTimeout => 503,
            Self::FirstByteTimeout | Self::TotalTimeout | Self::IdleTimeout => 504,
        };
        Some(LocalReply::new(status, reason))
    }

    /// The status that counts for the version; `None` if the upstream didn't cause the failure.
    pub fn upstream_status(&self) -> Option<u16> {
        (self.failure(false).origin == Origin::Upstream)
            .then(|| self.answer().map(|answer| answer.status))
            .flatten()
    }
}

fn wire_reason(error: &WireError, answered: bool) -> Reason {
    match error {
        WireError::Bad(_) => Reason::UpstreamMalformed,
        WireError::Cut if answered => Reason::UpstreamTruncated,
        WireError::Cut => Reason::UpstreamClosed,
        WireError::Reset(_) => Reason::UpstreamReset,
        WireError::Io(e) if e.kind() == io::ErrorKind::ConnectionReset => Reason::UpstreamReset,
        // With TLS 1.3 an endpoint refuses a client certificate only after the handshake.
        WireError::Io(e) if tls_error(e).is_some() => Reason::UpstreamTls,
        WireError::Io(_) => Reason::UpstreamBroken,
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(reject) => write!(f, "the client sent a malformed body: {reject}"),
            Self::ClientGone(_) => f.write_str("the client closed the connection"),
            Self::BodyTimeout => f.write_str("the client stalled in its request body"),
            Self::ClientSlow => {
                f.write_str("the client read too slowly while the version was full")
            }
            Self::BodyTooLarge => f.write_str("the request body exceeds body_bytes"),
            Self::NoEndpoint => f.write_str("the version has no usable endpoint"),
            Self::Status(status) => write!(f, "the upstream answered {status}"),
            Self::Limit(Limit::WaitPending) => f.write_str("wait_pending reached"),
            Self::Limit(limit) => write!(f, "limits.{limit} reached"),
            Self::QueueTimeout => {
                f.write_str("timeouts.total passed while waiting for a connection")
            }
            Self::NoUpgrade => f.write_str(
                "the HTTP/2 endpoint has not announced that it accepts WebSockets (RFC 8441)",
            ),
            Self::Connect(_) => f.write_str("no connection to the endpoint"),
            Self::Upstream(_) => f.write_str("the upstream failed"),
            Self::FirstByteTimeout => f.write_str("no response within timeouts.first_byte"),
            Self::TotalTimeout => f.write_str("timeouts.total passed"),
            Self::IdleTimeout => f.write_str("the response made no progress for timeouts.idle"),
            Self::Shutdown => f.write_str("the drain deadline passed"),
        }
    }
}

impl Error for ExchangeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Upstream(error) => Some(error),
            Self::ClientGone(error) => error.as_ref().map(|e| e as _),
            _ => None,
        }
    }
}

/// Displays an error and its sources on one line, root cause last.
pub(super) struct Chain<'a>(pub(super) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_error() -> Vec<ExchangeError> {
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        vec![
            ExchangeError::Malformed(Reject::bad(Reason::BadChunkSize)),
            ExchangeError::ClientGone(None),
            ExchangeError::BodyTimeout,
            ExchangeError::ClientSlow,
            ExchangeError::BodyTooLarge,
            ExchangeError::NoEndpoint,
            ExchangeError::Status(503),
            ExchangeError::Limit(Limit::Pending),
            ExchangeError::QueueTimeout,
            ExchangeError::NoUpgrade,
            ExchangeError::Connect(ConnectError::Timeout),
            ExchangeError::Connect(ConnectError::Unresolved),
            ExchangeError::Connect(ConnectError::Io(io(io::ErrorKind::ConnectionRefused))),
            ExchangeError::Connect(ConnectError::Io(io::Error::from_raw_os_error(24))),
            ExchangeError::Upstream(WireError::Cut),
            ExchangeError::Upstream(WireError::Io(io(io::ErrorKind::ConnectionReset))),
            ExchangeError::FirstByteTimeout,
            ExchangeError::TotalTimeout,
            ExchangeError::IdleTimeout,
            ExchangeError::Shutdown,
        ]
    }

    #[test]
    fn only_upstream_failures_count_for_the_version() {
        for error in every_error() {
            let upstream = error.failure(false).origin == Origin::Upstream;
            assert_eq!(error.upstream_status().is_some(), upstream, "{error}");
            assert_eq!(error.failure(true).origin, error.failure(false).origin);
        }
    }

    #[test]
    fn exhausted_descriptors_are_the_proxys() {
        let error = ExchangeError::Connect(ConnectError::Io(io::Error::from_raw_os_error(24)));
        let failure = error.failure(false);
        assert_eq!(failure.origin, Origin::Proxy);
        assert_eq!(failure.reason, Reason::NoDescriptors);
        assert_eq!(error.answer().map(|a| a.status), Some(503));
    }

    #[test]
    fn a_chain_names_the_root_cause_last() {
        let error = ExchangeError::Upstream(WireError::Io(io::Error::other("root")));
        let chain = Chain(&error).to_string();
        assert!(
            chain.starts_with("the upstream failed: ") && chain.ends_with("root"),
            "{chain}"
        );
    }
}
