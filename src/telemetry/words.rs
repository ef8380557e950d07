//! The closed sets of words that request records, metrics and logs share.

use crate::reason::Reason;

words! {
    /// Which side caused a failure. Only upstream failures count against a version or an endpoint.
    pub enum Origin {
        /// The client: a malformed request, a stalled or late body, a closed connection.
        Client "client",
        /// The proxy: its limits, its file descriptors, its shutdown.
        Proxy "proxy",
        /// The version that the request was sent to.
        Upstream "upstream",
    }
}

words! {
    /// How the version of a request was chosen.
    pub enum Chosen {
        /// By a host that is the preview name of a version.
        Preview "preview",
        /// By a match rule.
        Rule "rule",
        /// By the session that the request belongs to.
        Session "session",
        /// By the user's point in the cohort.
        Cohort "cohort",
        /// By the exact split.
        Split "split",
        /// By failover: the chosen version is down.
        Failover "failover",
    }
}

words! {
    /// The outcome of a request that was selected for a copy: the label `outcome` of `cutover_mirror_requests_total`.
    pub enum MirrorOutcome {
        /// Both responses were the same in all that is compared.
        Same "same",
        /// The responses differed.
        Different "different",
        /// The copy was answered, but there was nothing to compare, or not all of it could be compared.
        Unchecked "unchecked",
        /// The copy got no complete response.
        Failed "failed",
        /// The copy got no complete response in time.
        Timeout "timeout",
        /// Not sent: the version has no endpoint that may be picked.
        Unavailable "unavailable",
        /// Not sent: too many copies were in flight.
        Overflow "overflow",
        /// Not sent: the request's body is too large.
        TooLarge "too-large",
        /// Not sent: the client left, or its request was malformed.
        Abandoned "abandoned",
    }
}

words! {
    /// What became of a span: the label `outcome` of `cutover_trace_spans_total`.
    pub enum SpanOutcome {
        /// The receiver has taken it.
        Exported "exported",
        /// The receiver has refused it.
        Rejected "rejected",
        /// It was never taken: too many waited, or the receiver could not be reached in time.
        Dropped "dropped",
    }
}

words! {
    /// How an order of a certificate ended: the label `outcome` of `cutover_certificate_orders_total`.
    pub enum OrderOutcome {
        /// The authority issued the certificate, and it is stored.
        Issued "issued",
        /// There is no new certificate.
        Failed "failed",
    }
}

words! {
    /// The protocol that the client speaks.
    pub enum Protocol {
        /// HTTP/1.0.
        Http10 "HTTP/1.0",
        /// HTTP/1.1.
        Http11 "HTTP/1.1",
        /// HTTP/2.
        Http2 "HTTP/2.0",
    }
}

words! {
    /// Why an attempt was retried: the `reason` of `cutover_retries_total`.
    pub enum RetryReason {
        /// The connection to the endpoint could not be opened.
        Connect "connect",
        /// The connection broke before the response head.
        Reset "reset",
        /// A reused connection had been closed before it carried the request.
        Stale "stale",
        /// The response was a 502.
        BadGateway "502",
        /// The response was a 503.
        Unavailable "503",
        /// The response was a 504.
        GatewayTimeout "504",
        /// No response head arrived in time.
        Timeout "timeout",
        /// The endpoint refused the HTTP/2 stream (`REFUSED_STREAM`, RFC 9113 §8.7).
        Refused "refused",
        /// Another status that `retry.on` names.
        Status "status",
        /// No response head within the delay of `hedge`: a second try began beside the first.
        Hedge "hedge",
    }
}

words! {
    /// A limit of a version: the `limit` of `cutover_limit_rejections_total`.
    pub enum Limit {
        /// Open connections: none became free within the wait for one.
        Connections "connections",
        /// Requests that wait for a connection, or for a stream on one.
        Pending "pending",
        /// Requests in flight.
        Requests "requests",
        /// Retries in flight.
        Retries "retries",
        /// HTTP/2 streams: none became free within the wait for one.
        Streams "streams",
        /// Requests that wait for a usable endpoint.
        WaitPending "wait_pending",
    }
}

impl Limit {
    /// Returns the reason of a request that this limit refused.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Connections => Reason::LimitConnections,
            Self::Pending => Reason::LimitPending,
            Self::Requests => Reason::LimitRequests,
            Self::Retries => Reason::LimitRetries,
            Self::Streams => Reason::LimitStreams,
            Self::WaitPending => Reason::LimitWaitPending,
        }
    }
}

words! {
    /// The state of a flag for a request: the `state` of `cutover_flag_requests_total`.
    pub enum FlagState {
        /// The application is not told of the flag.
        Off "off",
        /// The application is told of the flag.
        On "on",
    }
}

words! {
    /// Why outlier detection suspects an endpoint: the `reason` of `cutover_ejections_total`.
    pub enum EjectionReason {
        /// `outlier.consecutive_5xx` responses of 500 or above in a row.
        Consecutive5xx "consecutive_5xx",
        /// `outlier.consecutive_gateway` gateway failures in a row.
        ConsecutiveGateway "consecutive_gateway",
        /// A success rate far below that of the pool.
        SuccessRate "success_rate",
    }
}

words! {
    /// Why a rollout lost its share: the `reason` of `cutover_rollbacks_total`.
    pub enum RollbackReason {
        /// The guard: the canary fails more requests than its limits allow.
        Errors "errors",
        /// The guard: the canary is slower than its limits allow.
        Latency "latency",
        /// The guard: the canary has fewer conversions than its limits allow.
        Goal "goal",
        /// An external measurement missed its condition too often.
        Query "query",
        /// A smoke request or a hook failed.
        Check "check",
        /// An operator aborted the rollout.
        Operator "operator",
    }
}

words! {
    /// A step of outlier detection: the `outcome` of `cutover_ejections_total`.
    pub enum EjectionOutcome {
        /// An outlier was found.
        Detected "detected",
        /// The outlier was ejected.
        Enforced "enforced",
        /// The outlier was not ejected, because `outlier.max_ejected` was reached.
        Overflow "overflow",
    }
}
