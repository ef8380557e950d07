//! Why a request failed or was answered by the proxy itself.
//!
//! The codecs reject messages for these reasons and the proxy answers and counts by them, so they are below both.

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
        /// A challenge of an ACME authority was answered.
        AcmeChallenge "acme-challenge",
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
        /// The connection has no valid header of the PROXY protocol, or its sender may not send one.
        ProxyProtocol "proxy-protocol",
        /// The header of the PROXY protocol did not arrive in time.
        ProxyProtocolTimeout "proxy-protocol-timeout",
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
        /// The try was cancelled, because another one of the same request had a response before it (`hedge`).
        Hedged "hedged",
        /// The process is shutting down, or the endpoint's drain period ended.
        Shutdown "shutdown",
        /// The proxy panicked.
        Panic "panic",
        /// The endpoint speaks HTTP/2, which has no `Upgrade` (RFC 9113 §8.6), and doesn't accept WebSockets by extended CONNECT.
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

        // Malformed messages.
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
        /// CONNECT for another `:protocol` than WebSocket.
        ConnectProtocol "connect-protocol",
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
    }
}
