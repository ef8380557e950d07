//! Request methods.

/// Request methods, closed for metrics.
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
    /// A token that isn't registered here; passed on as typed, the label `other`.
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

    /// The method of that name. Methods are case-sensitive: `get` is `Other`.
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

    /// The label by which metrics know it: its name, or `other`.
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

    /// Whether it asks for no change (RFC 9110 §9.2.1).
    #[inline]
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// Whether several equal requests mean the same as one (RFC 9110 §9.2.2).
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
