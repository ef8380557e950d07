//! The location of a redirect. Pure, so that `explain` shows what the data path sends.

use crate::config::template::{Placeholder, Template};

/// The parts of the request that a location may repeat.
#[derive(Clone, Copy, Debug)]
pub struct RedirectSource<'a> {
    /// Whether the client uses TLS.
    pub secure: bool,
    /// The host, without port; empty if there is none.
    pub host: &'a str,
    /// The path, after `rewrite`.
    pub path: &'a [u8],
    /// The query with its question mark; empty if there is none.
    pub query: &'a [u8],
}

/// The value of `location`; `None` if it needs a host and the request has none, as HTTP/1.0 allows.
pub fn location(to: &Template, from: &RedirectSource<'_>) -> Option<String> {
    let location = to.render(|placeholder, out| {
        let value: &[u8] = match placeholder {
            Placeholder::Scheme if from.secure => b"https",
            Placeholder::Scheme => b"http",
            Placeholder::Host if from.host.is_empty() => return None,
            Placeholder::Host => from.host.as_bytes(),
            // `OPTIONS *` is about the server as a whole.
            Placeholder::Path if from.path == b"*" => b"/",
            Placeholder::Path => from.path,
            Placeholder::Query => from.query,
            // The configuration allows no other placeholders here.
            _ => b"",
        };
        out.extend_from_slice(value);
        Some(())
    });
    Some(String::from_utf8_lossy(&location?).into_owned())
}
