//! The closed sets of words that request records, metrics, logs and response headers share.
//!
//! `words!` declares each set in one place: an enum, the word of each value, and the functions that print and parse
//! it. The words are part of the interface: alerts and log queries match on them.

/// Declares a closed set of words: an enum with `ALL`, `COUNT`, `as_str`, `parse`, `index` and `Display`.
macro_rules! words {
    ($(#[$outer:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident $word:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// Number of values.
            pub const COUNT: usize = Self::ALL.len();

            /// Returns the word of this value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Returns the value with this word; `None` if there is none.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }

            /// Returns the position in [`Self::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

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
        /// It was ejected.
        Enforced "enforced",
        /// It was not ejected, because `outlier.max_ejected` was reached.
        Overflow "overflow",
    }
}

words! {
    /// Why a request failed or was answered by the proxy itself: the word in `x-cutover-reason`, logs and metrics.
    pub enum Reason {
        // Responses of the proxy that are no failures.
        /// Redirected to https with 308.
        RedirectHttps "redirect-https",
        /// Redirected as `redirect` says.
        Redirect "redirect",
        /// Answered as `respond` says.
        Respond "respond",
        /// No route matches host and path.
        NoRoute "no-route",
        /// The path leads to different routes depending on how a recipient decodes it.
        AmbiguousPath "ambiguous-path",
        /// The certificate of the connection does not cover the host (RFC 9110 §15.5.20).
        Misdirected "misdirected",
        /// `Max-Forwards: 0`: the proxy is the final recipient (RFC 9110 §7.6.2).
        MaxForwards "max-forwards",

        // The client.
        /// The request head did not arrive in time.
        HeaderTimeout "header-timeout",
        /// The request body stalled.
        BodyTimeout "body-timeout",
        /// The request body is larger than `limits.body_bytes`.
        BodyTooLarge "body-too-large",
        /// The client closed or reset the connection.
        ClientGone "client-gone",
        /// The client read its response too slowly while other requests waited.
        ClientSlow "client-slow",
        /// The client sent more requests than `client_limits` allows.
        ClientLimit "client-limit",
        /// The client's address has more connections than `client_limits` allows.
        ClientConnections "client-connections",
        /// The TLS handshake failed.
        TlsHandshake "tls-handshake",
        /// The TLS handshake did not complete in time.
        TlsTimeout "tls-timeout",

        // The proxy.
        /// `limits.connections`.
        LimitConnections "limit-connections",
        /// `limits.pending`.
        LimitPending "limit-pending",
        /// `limits.requests`.
        LimitRequests "limit-requests",
        /// `limits.retries`.
        LimitRetries "limit-retries",
        /// No HTTP/2 stream became free in time.
        LimitStreams "limit-streams",
        /// `wait_pending`.
        LimitWaitPending "limit-wait-pending",
        /// The process ran out of file descriptors or local ports.
        NoDescriptors "no-descriptors",
        /// `timeouts.total` expired while the request waited inside the proxy.
        QueueTimeout "queue-timeout",
        /// The process is shutting down, or the endpoint's drain period ended.
        Shutdown "shutdown",
        /// The proxy panicked.
        Panic "panic",
        /// The endpoint speaks HTTP/2, which has no `Upgrade` (RFC 9113 §8.6).
        UpstreamNoUpgrade "upstream-no-upgrade",

        // The version.
        /// The version has no usable endpoint.
        NoEndpoint "no-endpoint",
        /// The endpoint refused the connection.
        ConnectRefused "connect-refused",
        /// The connection was not established in time.
        ConnectTimeout "connect-timeout",
        /// The connection failed in another way.
        ConnectFailed "connect-failed",
        /// The endpoint's name did not resolve to an address.
        UnresolvedName "unresolved-name",
        /// The TLS handshake with the endpoint failed.
        UpstreamTls "upstream-tls",
        /// The endpoint closed the connection before it responded.
        UpstreamClosed "upstream-closed",
        /// The endpoint closed the connection before the end of its response.
        UpstreamTruncated "upstream-truncated",
        /// The endpoint reset the stream or the connection.
        UpstreamReset "upstream-reset",
        /// The connection broke in another way.
        UpstreamBroken "upstream-broken",
        /// The endpoint sent a malformed response.
        UpstreamMalformed "upstream-malformed",
        /// The endpoint responded with a status that counts as a failure.
        UpstreamStatus "upstream-status",
        /// No response head arrived within `timeouts.first_byte`.
        FirstByteTimeout "first-byte-timeout",
        /// `timeouts.total` expired.
        TotalTimeout "total-timeout",
        /// The response made no progress for `timeouts.idle`.
        IdleTimeout "idle-timeout",

        // Malformed messages, by the reason of the codec's `Reject`.
        /// A malformed message without a more specific reason.
        Malformed "malformed",
        /// `:authority` and `host` differ.
        AuthorityUnlikeHost "authority-unlike-host",
        /// Chunk data not followed by CRLF.
        BadChunkEnd "bad-chunk-end",
        /// Malformed chunk extension.
        BadChunkExtension "bad-chunk-extension",
        /// Malformed chunk size.
        BadChunkSize "bad-chunk-size",
        /// Malformed `content-length`.
        BadContentLength "bad-content-length",
        /// Malformed field name.
        BadFieldName "bad-field-name",
        /// Malformed field value.
        BadFieldValue "bad-field-value",
        /// Malformed host.
        BadHost "bad-host",
        /// Malformed line end.
        BadLineEnd "bad-line-end",
        /// Malformed method.
        BadMethod "bad-method",
        /// Malformed request line.
        BadRequestLine "bad-request-line",
        /// Unknown scheme in the target.
        BadScheme "bad-scheme",
        /// Malformed status.
        BadStatus "bad-status",
        /// Malformed target.
        BadTarget "bad-target",
        /// Malformed trailers.
        BadTrailers "bad-trailers",
        /// Malformed `transfer-encoding`.
        BadTransferEncoding "bad-transfer-encoding",
        /// Malformed `upgrade`.
        BadUpgrade "bad-upgrade",
        /// Malformed HTTP version.
        BadVersion "bad-version",
        /// An invalid WebSocket handshake.
        BadWebsocket "bad-websocket",
        /// LF without CR.
        BareLf "bare-lf",
        /// Too many bytes of chunk extensions.
        ChunkExtensionsTooLarge "chunk-extensions-too-large",
        /// A transfer coding in HTTP/1.0.
        CodingInHttp10 "coding-in-http10",
        /// CONNECT.
        Connect "connect",
        /// `Connection` names a framing field.
        ConnectionNamesFraming "connection-names-framing",
        /// `Connection` names too many fields.
        ConnectionNamesMany "connection-names-many",
        /// More than one `content-length`.
        DuplicateContentLength "duplicate-content-length",
        /// More than one `host`.
        DuplicateHost "duplicate-host",
        /// Empty lines before the request.
        EmptyLines "empty-lines",
        /// Unknown `expect`.
        Expect "expect",
        /// `#` in the target.
        FragmentInTarget "fragment-in-target",
        /// The head is too large.
        HeadTooLarge "head-too-large",
        /// A dot segment delimited by an encoded slash.
        HiddenDotSegment "hidden-dot-segment",
        /// Both `content-length` and `transfer-encoding`.
        LengthAndCoding "length-and-coding",
        /// A body whose length differs from `content-length`.
        LengthMismatch "length-mismatch",
        /// The method is too long.
        MethodTooLong "method-too-long",
        /// No `host`.
        MissingHost "missing-host",
        /// `%00` in the path.
        NulInPath "nul-in-path",
        /// Overlong UTF-8 in the path.
        OverlongUtf8 "overlong-utf8",
        /// The target is too long.
        TargetTooLong "target-too-long",
        /// Too many fields.
        TooManyFields "too-many-fields",
        /// Too many informational responses.
        TooManyInformational "too-many-informational",
        /// Trailers are too large.
        TrailersTooLarge "trailers-too-large",
        /// An upgrade that was not requested.
        UnaskedUpgrade "unasked-upgrade",
        /// `_` in a field name.
        UnderscoreInName "underscore-in-name",
        /// Unknown transfer coding.
        UnknownTransferEncoding "unknown-transfer-encoding",
        /// An unsupported HTTP version.
        Version "version",
        /// An invalid WebSocket handshake from the client.
        WebsocketHandshake "websocket-handshake",
        /// A WebSocket version other than 13.
        WebsocketVersion "websocket-version",
        /// Bytes after the end of a response.
        BeyondFraming "beyond-framing",
        /// DATA after the end of a response.
        SurplusData "surplus-data",
        /// Pseudo-header fields in trailers.
        PseudoInTrailers "pseudo-in-trailers",
    }
}

impl Reason {
    /// Returns the reason with this word of the codec; [`Self::Malformed`] if there is none.
    pub fn of_codec(word: &str) -> Self {
        Self::parse(word).unwrap_or(Self::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_parse_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
            assert_eq!(Reason::ALL[reason.index()], *reason);
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(reason.as_str().bytes().all(plain), "{reason}");
        }
        assert_eq!(Reason::of_codec("never-heard-of"), Reason::Malformed);
    }
}
