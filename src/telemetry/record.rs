//! The request record: everything known about one request when it ends.
//!
//! The data path fills a [`RequestRecord`] while it serves a request, and hands it over exactly once. Metrics, outlier
//! detection, retry budgets and logs read the record; nothing else counts requests. The record borrows from the request
//! head and from the snapshot, so filling it copies no text.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

pub use super::flags::{FlagSet, RequestFlags};
use super::trace::request::RequestTrace;
pub use super::words::{
    Chosen, EjectionOutcome, EjectionReason, FlagState, Limit, MirrorOutcome, OrderOutcome, Origin,
    Protocol, RetryReason, RollbackReason, SpanOutcome,
};
use crate::http1::Method;
use crate::index::{EndpointIx, RuleIx, VersionIx};
pub use crate::reason::Reason;

/// A failure: its origin and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The side that caused it.
    pub origin: Origin,
    /// The reason.
    pub reason: Reason,
}

/// One try of a request, on an endpoint or on a version that had no usable endpoint.
#[derive(Clone, Debug, Default)]
pub struct TryRecord<'a> {
    /// The version, and its index in the service.
    pub version: (&'a str, VersionIx),
    /// The endpoint, and its index in the pool; `None` if the version had no usable endpoint.
    pub endpoint: Option<(&'a str, EndpointIx)>,
    /// The status that counts for the version: that of its response, or 502 or 504 for a failure without one. `None` if
    /// the try says nothing about the version.
    pub status: Option<u16>,
    /// Whether outlier detection has counted this try already, when the response head arrived.
    pub noted: bool,
    /// `grpc-status`, if the request is a gRPC call.
    pub grpc_status: Option<u8>,
    /// Why the try failed, if it did.
    pub failure: Option<Failure>,
    /// Time from the start of the try to the response head.
    pub first_byte: Option<Duration>,
    /// Time from the start of the try to its end. The first try starts when the request head has been read.
    pub took: Duration,
}

/// Durations of the phases of a request; zero for a phase that did not occur.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Waiting until the limits allow a connection or an HTTP/2 stream.
    pub queued: Duration,
    /// Opening connections, including TLS.
    pub connect: Duration,
    /// From the end of the request head to the final response head.
    pub first_byte: Option<Duration>,
    /// From the end of the request head to the end of the exchange.
    pub total: Duration,
}

/// Everything known about one request when it ends.
///
/// It borrows from the request's head and its snapshot, so it can't outlive them: the counters, the access log, its followers and
/// the spans copy what they need at once, on the worker.
#[derive(Debug)]
pub struct RequestRecord<'a> {
    /// ID of the request: `x-request-id`.
    pub id: &'a [u8],
    /// The listener.
    pub listener: &'a str,
    /// Address of the peer; loopback for a Unix socket.
    pub peer: IpAddr,
    /// Address of the client: the peer's, or the one that a trusted proxy reports.
    pub client: IpAddr,
    /// The protocol that the client speaks.
    pub protocol: Protocol,
    /// The method.
    pub method: Method,
    /// The method as sent. Like `host` and `path`, empty if no head could be read.
    pub method_text: &'a [u8],
    /// The host, in lower case, without port.
    pub host: &'a str,
    /// The path as forwarded upstream, without the query.
    pub path: &'a [u8],
    /// Whether this is a gRPC call over HTTP/2, by its content type.
    pub grpc: bool,
    /// The service; empty if no route matched.
    pub service: &'a str,
    /// How the version was chosen.
    pub chosen: Option<Chosen>,
    /// Index of the match rule that matched, even if its version failed over to another.
    pub rule: Option<RuleIx>,
    /// The flags of the service; `None` if it has none, or the request isn't forwarded.
    pub flags: Option<RequestFlags<'a>>,
    /// The first try, kept inline because most requests have no other.
    first: Option<TryRecord<'a>>,
    /// Further tries.
    rest: Vec<TryRecord<'a>>,
    /// A try that ran beside the first one (`hedge`) and didn't serve the request.
    pub lost_second: Option<Box<TryRecord<'a>>>,
    /// The status sent to the client; [`CLIENT_GONE`] if it left before it got one.
    pub status: u16,
    /// Why the proxy responded itself, if it did.
    pub local_reply: Option<Reason>,
    /// Why the request failed, if it did.
    pub failure: Option<Failure>,
    /// The error that caused the failure, with its chain of sources.
    pub cause: Option<Box<dyn Error + Send + Sync>>,
    /// Bytes read of the request body.
    pub bytes_received: u64,
    /// Bytes sent of the response body.
    pub bytes_sent: u64,
    /// Durations of the request's phases.
    pub times: Times,
    /// The trace that the request belongs to, if the configuration has `[trace]`.
    pub(crate) trace: Option<Box<RequestTrace>>,
    /// Whether stable answered after a canary had failed.
    pub shielded: bool,
    /// Whether the exchange became a tunnel.
    pub tunnel: bool,
}

/// Status recorded for a client that closed its connection before it got a response, as in nginx.
pub const CLIENT_GONE: u16 = 499;

impl<'a> RequestRecord<'a> {
    /// Creates the record of a request whose head has not been read.
    #[inline]
    pub fn new(id: &'a [u8], listener: &'a str, peer: IpAddr, protocol: Protocol) -> Self {
        Self {
            id,
            listener,
            peer,
            client: peer,
            protocol,
            method: Method::Other,
            method_text: b"",
            host: "",
            path: b"",
            grpc: false,
            service: "",
            chosen: None,
            rule: None,
            flags: None,
            first: None,
            rest: Vec::new(),
            lost_second: None,
            status: CLIENT_GONE,
            local_reply: None,
            failure: None,
            cause: None,
            bytes_received: 0,
            bytes_sent: 0,
            times: Times::default(),
            trace: None,
            shielded: false,
            tunnel: false,
        }
    }

    /// Adds a try, which becomes [`Self::last_try`].
    #[inline]
    pub fn begin_try(&mut self, attempt: TryRecord<'a>) {
        if self.first.is_none() {
            self.first = Some(attempt);
        } else {
            self.rest.push(attempt);
        }
    }

    /// Returns the current try, or the last one that ended.
    #[inline]
    pub fn last_try(&self) -> Option<&TryRecord<'a>> {
        self.rest.last().or(self.first.as_ref())
    }

    /// Returns [`Self::last_try`] for modification.
    #[inline]
    pub fn last_try_mut(&mut self) -> Option<&mut TryRecord<'a>> {
        self.rest.last_mut().or(self.first.as_mut())
    }

    /// Returns the only try, if there was exactly one.
    #[inline]
    pub(crate) fn only_try(&self) -> Option<&TryRecord<'a>> {
        let is_alone = self.rest.is_empty() && self.lost_second.is_none();
        self.first.as_ref().filter(|_| is_alone)
    }

    /// Returns all tries in order; [`Self::lost_second`] comes last.
    pub fn tries(&self) -> impl Iterator<Item = &TryRecord<'a>> {
        let lost = self.lost_second.as_deref();
        self.first.iter().chain(&self.rest).chain(lost)
    }

    /// Returns the status that metrics count.
    ///
    /// That is the status sent to the client, unless the upstream broke off its response after the head was forwarded:
    /// then it is the 502 or 504 of the failed try.
    pub fn counted_status(&self) -> u16 {
        let broken_off = |failure: Failure| {
            (failure.origin == Origin::Upstream && self.local_reply.is_none())
                .then(|| self.last_try()?.status)
                .flatten()
        };
        self.failure.and_then(broken_off).unwrap_or(self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RequestRecord<'static> {
        RequestRecord::new(b"id", "http", [127, 0, 0, 1].into(), Protocol::Http11)
    }

    #[test]
    fn tries_stay_in_order() {
        let mut record = record();
        assert!(record.last_try().is_none());
        for version in ["v1", "v2", "v3"] {
            record.begin_try(TryRecord {
                version: (version, VersionIx(0)),
                ..TryRecord::default()
            });
            assert_eq!(record.last_try_mut().map(|t| t.version.0), Some(version));
        }
        let versions: Vec<_> = record.tries().map(|t| t.version.0).collect();
        assert_eq!(versions, ["v1", "v2", "v3"]);
    }

    #[test]
    fn a_response_that_the_upstream_broke_off_counts_as_its_failure() {
        let mut record = record();
        record.status = 200;
        record.begin_try(TryRecord {
            status: Some(502),
            ..TryRecord::default()
        });
        assert_eq!(record.counted_status(), 200);
        let failure = |origin| Failure {
            origin,
            reason: Reason::UpstreamTruncated,
        };
        record.failure = Some(failure(Origin::Upstream));
        assert_eq!(record.counted_status(), 502);
        record.failure = Some(failure(Origin::Client));
        assert_eq!(
            record.counted_status(),
            200,
            "a client that left took what it was told"
        );
    }
}
