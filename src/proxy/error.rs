//! Where an exchange broke, what the client is told, and what the version is charged with: decided in one place.

use super::wire::WireError;
use crate::http1::Reject;
use crate::upstream::ConnectError;

/// How an attempt ended without a whole answer.
#[derive(Debug)]
pub enum Broken {
    /// The client's bytes were bad.
    Client(Reject),
    /// The client went away, or its connection broke.
    ClientGone,
    /// The client fell silent in the middle of its body.
    ClientSilent,
    /// The client's body is larger than `limits.body_bytes`.
    TooLarge,
    /// The version has no endpoint that could be asked.
    NoEndpoint,
    /// The answer, this status, was dropped for another attempt.
    Dropped(u16),
    /// A ceiling of the version was reached.
    Limit(&'static str),
    /// A tunnel is asked for, and the endpoint speaks only HTTP/2. Any client can ask: the version isn't charged with it.
    NoUpgrade,
    /// No connection.
    Connect(ConnectError),
    /// The upstream broke before or inside its answer.
    Upstream(WireError),
    /// The upstream didn't begin its answer within `timeouts.first_byte`.
    FirstByte,
    /// The exchange took longer than `timeouts.total`.
    Total,
    /// The response stood still for `timeouts.idle`.
    Idle,
    /// The process is ending and the deadline has passed.
    Shut,
}

/// An answer of our own: short, plain, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 400 to 599.
    pub status: u16,
    /// For `x-cutover-reason`.
    pub reason: &'static str,
}

impl Answer {
    /// No route matches host and path.
    pub const NO_ROUTE: Self = Self {
        status: 404,
        reason: "no-route",
    };
    /// Another spelling of the path leads to another route: what a prefix guards must not be reached by `%2f` or a backslash.
    pub const AMBIGUOUS_PATH: Self = Self {
        status: 400,
        reason: "ambiguous-path",
    };
    /// The version has no endpoint that could be asked.
    pub const NO_ENDPOINT: Self = Self {
        status: 503,
        reason: "no-endpoint",
    };
    /// The request's name isn't one that the connection's certificate covers.
    pub const MISDIRECTED: Self = Self {
        status: 421,
        reason: "misdirected",
    };
    /// A whole head didn't arrive in time.
    pub const HEADER_TIMEOUT: Self = Self {
        status: 408,
        reason: "header-timeout",
    };

    /// For a request that was refused.
    pub fn refuse(reject: Reject) -> Self {
        Self {
            status: reject.status,
            reason: reject.reason,
        }
    }

    /// One line for the body.
    pub fn text(self) -> &'static str {
        match self.status {
            400 => "bad request\n",
            404 => "no route for this host and path\n",
            405 => "method not allowed\n",
            408 => "the request did not arrive in time\n",
            413 => "the request body is too large\n",
            414 => "the request target is too long\n",
            417 => "unknown expectation\n",
            421 => "this connection's certificate does not cover the host\n",
            431 => "the request head is too large\n",
            501 => "not implemented\n",
            502 => "the upstream failed\n",
            503 => "no endpoint can take the request\n",
            504 => "the upstream did not answer in time\n",
            505 => "HTTP version not supported\n",
            _ => "the request was refused\n",
        }
    }
}

impl Broken {
    /// What the client is told, if anything has to be told and can be.
    pub fn answer(&self) -> Option<Answer> {
        let answer = |status, reason| Some(Answer { status, reason });
        match self {
            Self::Client(reject) => Some(Answer::refuse(*reject)),
            Self::ClientGone | Self::Shut => None,
            Self::ClientSilent => answer(408, "body-timeout"),
            Self::TooLarge => answer(413, "body-too-large"),
            Self::Dropped(status) => answer(*status, "upstream-status"),
            Self::Limit(limit) => answer(503, limit),
            Self::NoEndpoint => Some(Answer::NO_ENDPOINT),
            Self::Connect(e) => match e {
                ConnectError::Timeout => answer(504, e.reason()),
                ConnectError::Unresolved => answer(503, e.reason()),
                ConnectError::Io(_) => answer(502, e.reason()),
            },
            Self::Upstream(WireError::Bad(_)) => answer(502, "upstream-malformed"),
            Self::Upstream(WireError::Cut) => answer(502, "upstream-closed"),
            Self::Upstream(WireError::Reset(_)) => answer(502, "upstream-reset"),
            Self::Upstream(WireError::Io(_)) => answer(502, "upstream-broken"),
            Self::NoUpgrade => answer(502, "upstream-no-upgrade"),
            Self::FirstByte => answer(504, "first-byte-timeout"),
            Self::Total => answer(504, "total-timeout"),
            Self::Idle => answer(504, "idle-timeout"),
        }
    }

    /// The status that the version is charged with; `None` where the version has no part in it.
    pub fn charged(&self) -> Option<u16> {
        match self {
            Self::Client(_)
            | Self::ClientGone
            | Self::ClientSilent
            | Self::TooLarge
            | Self::NoUpgrade
            | Self::Shut => None,
            _ => self.answer().map(|a| a.status),
        }
    }

    /// What counts in `cutover_downstream_requests_total`; 499 stands for a client that left.
    pub fn told(&self) -> u16 {
        self.answer().map_or(499, |a| a.status)
    }
}
