//! The proxy's element in `Via`.

use crate::http1::HttpVersion;

/// The elements that a listener adds to `Via` (RFC 9110 §7.6.3): received protocol version and
/// pseudonym. Rendered once for each version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    h10: Box<str>,
    h11: Box<str>,
    h2: Box<str>,
}

impl Via {
    /// Renders the elements. `pseudonym` has to be a token.
    pub(crate) fn new(pseudonym: &str) -> Self {
        let element = |version| format!("{version} {pseudonym}").into();
        Self {
            h10: element("1.0"),
            h11: element("1.1"),
            h2: element("2.0"),
        }
    }

    /// The element for a request received over HTTP/1.
    #[inline]
    pub(crate) fn http1(&self, version: HttpVersion) -> &str {
        match version {
            HttpVersion::H10 => &self.h10,
            HttpVersion::H11 => &self.h11,
        }
    }

    /// The element for a request received over HTTP/2.
    #[inline]
    pub(crate) fn http2(&self) -> &str {
        &self.h2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_names_the_received_protocol_and_the_pseudonym() {
        let via = Via::new("edge");
        assert_eq!(via.http1(HttpVersion::H10), "1.0 edge");
        assert_eq!(via.http1(HttpVersion::H11), "1.1 edge");
        assert_eq!(via.http2(), "2.0 edge");
    }
}
