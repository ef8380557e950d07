//! `[service.NAME.mirror]`: copies of requests for a version that isn't trusted yet.

use std::time::Duration;

use super::share::Share;
use crate::index::VersionIx;

/// The requests that are copied, the target of the copies, and the parts of responses that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorSpec {
    /// The version that gets the copies, as an index into [`ServiceSpec::versions`](super::spec::ServiceSpec::versions).
    /// Requests that this version serves anyway aren't copied.
    pub to: VersionIx,
    /// Share of the service's requests that are copied. Default 100 %.
    pub share: Share,
    /// Methods of the requests that are copied, in upper case. Default GET and HEAD.
    pub methods: Vec<String>,
    /// Parts that are compared between the response to a request and the response to its copy. Default the status.
    pub diff: Vec<MirrorDiff>,
    /// Largest request body that is copied, and largest response body that is compared; 1 KiB to 16 MiB. Default 64 KiB.
    pub body_bytes: usize,
    /// Largest number of copies in flight, 1 to 10,000. Default 64. Further requests aren't copied.
    pub requests: u32,
    /// Time for a copy, from its connection to the end of its response; at least 1 ms. Default 10 s.
    pub timeout: Duration,
    /// Whether copies carry `Authorization`, `Proxy-Authorization` and `Cookie`. Default `false`.
    pub credentials: bool,
    /// Whether the JSON bodies of responses that differ are kept and shown, without secrets. Default `false`.
    pub bodies: bool,
}

/// A part of two responses that is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MirrorDiff {
    /// `status`: the status code.
    Status,
    /// `header:NAME`: the values of a header field; the name is in lower case.
    Header(String),
    /// `json`: the values in two JSON bodies, by path.
    Json,
}

impl std::fmt::Display for MirrorDiff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status => f.write_str("status"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Json => f.write_str("json"),
        }
    }
}

impl MirrorSpec {
    /// A mirror to this version with the defaults.
    pub fn to(version: VersionIx) -> Self {
        Self {
            to: version,
            share: Share(Share::WHOLE),
            methods: vec!["GET".to_owned(), "HEAD".to_owned()],
            diff: vec![MirrorDiff::Status],
            body_bytes: 64 * 1024,
            requests: 64,
            timeout: Duration::from_secs(10),
            credentials: false,
            bodies: false,
        }
    }

    /// Whether JSON bodies are compared.
    pub fn compares_json(&self) -> bool {
        self.diff.contains(&MirrorDiff::Json)
    }
}
