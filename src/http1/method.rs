//! Request methods (RFC 9110 §9).

/// Maximum length of a method in bytes.
pub(super) const MAX_METHOD: usize = 32;

/// A request method. The set is closed, so that metrics have a bounded number of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is the method of that name")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Connect,
    /// Any other token. It is forwarded as received; its label is `other`.
    Other,
}

impl Method {
    /// Every method, in declaration order.
    pub const ALL: [Self; 10] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Options,
        Self::Patch,
        Self::Trace,
        Self::Connect,
        Self::Other,
    ];

    /// Returns the method with this name. Names are case-sensitive (RFC 9110 §9.1): `get` is `Other`.
    #[inline]
    pub fn from_bytes(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            b"TRACE" => Self::Trace,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }

    /// Returns the `method` label of metrics: the name, or `other`.
    #[inline]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
            Self::Other => "other",
        }
    }

    /// Whether the method is safe: essentially read-only (RFC 9110 §9.2.1).
    #[inline]
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// Whether several identical requests have the same effect as one (RFC 9110 §9.2.2).
    #[inline]
    pub const fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_properties() {
        // name, method, safe, idempotent
        let table = [
            ("GET", Method::Get, true, true),
            ("HEAD", Method::Head, true, true),
            ("POST", Method::Post, false, false),
            ("PUT", Method::Put, false, true),
            ("DELETE", Method::Delete, false, true),
            ("OPTIONS", Method::Options, true, true),
            ("PATCH", Method::Patch, false, false),
            ("TRACE", Method::Trace, true, true),
            ("CONNECT", Method::Connect, false, false),
        ];
        for (name, method, safe, idempotent) in table {
            assert_eq!(Method::from_bytes(name.as_bytes()), method);
            assert_eq!(method.as_label(), name);
            assert_eq!(method.is_safe(), safe, "{name}");
            assert_eq!(method.is_idempotent(), idempotent, "{name}");
        }
        for (i, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, i);
        }
        for name in ["get", "PURGE", "", "GETT"] {
            let method = Method::from_bytes(name.as_bytes());
            assert_eq!(method, Method::Other);
            assert_eq!(method.as_label(), "other");
            assert!(!method.is_safe() && !method.is_idempotent());
        }
    }
}
