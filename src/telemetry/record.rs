//! The request record: everything known about one request when it ends.
//!
//! The data path fills a [`RequestRecord`] while a request is served and hands it over exactly once. Metrics, outlier
//! detection, retry budgets and logs read the record; nothing else counts requests. It borrows from the request's head
//! and from the snapshot, so filling it costs stores, not copies.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

pub use super::words::{
    Chosen, EjectionOutcome, EjectionReason, Limit, Origin, Protocol, Reason, RetryReason,
};
use crate::http1::Method;

/// A failure: who caused it, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Who caused it.
    pub origin: Origin,
    /// Why.
    pub reason: Reason,
}

/// One try of a request: an endpoint that was asked, or a version that had none.
#[derive(Clone, Debug, Default)]
pub struct TryRecord<'a> {
    /// The version, and its index in the service.
    pub version: (&'a str, usize),
    /// The endpoint, and its index in the pool; `None` where the version had no endpoint to ask.
    pub endpoint: Option<(&'a str, usize)>,
    /// The status that counts for the version: its response's, or the 502 or 504 that its failure amounts to. `None`
    /// where the try says nothing about the version.
    pub status: Option<u16>,
    /// Outlier detection has heard of it already, when its response's head arrived.
    pub noted: bool,
    /// `grpc-status` of a gRPC call.
    pub grpc_status: Option<u8>,
    /// What failed.
    pub failure: Option<Failure>,
    /// Time from the try's beginning to the response's head.
    pub first_byte: Option<Duration>,
    /// Time from the try's beginning (the request's head read, for the first one) to its end.
    pub took: Duration,
}

/// How long the parts of a request took; zero where a part did not happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Waiting for a connection or an HTTP/2 stream that the limits allow.
    pub queued: Duration,
    /// Opening connections, TLS included.
    pub connect: Duration,
    /// From the request's head read to the final response's head.
    pub first_byte: Option<Duration>,
    /// From the request's head read to the end.
    pub total: Duration,
}

/// Everything known about one request when it ends.
#[derive(Debug)]
pub struct RequestRecord<'a> {
    /// `x-request-id`.
    pub id: &'a [u8],
    /// The listener.
    pub listener: &'a str,
    /// The peer's address; loopback for a Unix socket.
    pub peer: IpAddr,
    /// The client: the peer, or the client that a trusted proxy names.
    pub client: IpAddr,
    /// The protocol that the client speaks.
    pub protocol: Protocol,
    /// The method's class.
    pub method: Method,
    /// The method as sent; empty where no head could be read, as the next two.
    pub method_text: &'a [u8],
    /// The host, in lower case and without port.
    pub host: &'a str,
    /// The path as it goes upstream, without the query.
    pub path: &'a [u8],
    /// A gRPC call over HTTP/2, by its content type.
    pub grpc: bool,
    /// The service; empty where no route matched.
    pub service: &'a str,
    /// How the version was chosen.
    pub chosen: Option<Chosen>,
    /// Index of the match rule that matched, also where its version failed over.
    pub rule: Option<usize>,
    /// The first try. Most requests have no other.
    first: Option<TryRecord<'a>>,
    /// Further tries.
    rest: Vec<TryRecord<'a>>,
    /// The status that the client was told; 499 where it left before it was told any.
    pub status: u16,
    /// Set where the proxy answered by itself.
    pub local_reply: Option<Reason>,
    /// What failed, if the request failed.
    pub failure: Option<Failure>,
    /// The error behind the failure, with its sources.
    pub cause: Option<Box<dyn Error + Send + Sync>>,
    /// Bytes of the request's body that were read.
    pub bytes_received: u64,
    /// Bytes of the response's body that were sent.
    pub bytes_sent: u64,
    /// How long its parts took.
    pub times: Times,
    /// Stable answered for a canary.
    pub shielded: bool,
    /// It became a tunnel.
    pub tunnel: bool,
}

/// The status that stands for a client that left before it was told one.
pub const CLIENT_GONE: u16 = 499;

impl<'a> RequestRecord<'a> {
    /// A request of which only this is known yet.
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
            first: None,
            rest: Vec::new(),
            status: CLIENT_GONE,
            local_reply: None,
            failure: None,
            cause: None,
            bytes_received: 0,
            bytes_sent: 0,
            times: Times::default(),
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

    /// The try that is under way or ended last.
    #[inline]
    pub fn last_try(&self) -> Option<&TryRecord<'a>> {
        self.rest.last().or(self.first.as_ref())
    }

    /// As [`Self::last_try`], to be filled.
    #[inline]
    pub fn last_try_mut(&mut self) -> Option<&mut TryRecord<'a>> {
        self.rest.last_mut().or(self.first.as_mut())
    }

    /// Every try, in order.
    pub fn tries(&self) -> impl Iterator<Item = &TryRecord<'a>> {
        self.first.iter().chain(&self.rest)
    }

    /// The status that metrics count: what the client was told, or the 502 or 504 that a response amounts to that the
    /// upstream broke off.
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
                version: (version, 0),
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
