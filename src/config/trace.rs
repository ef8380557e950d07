//! The export of traces: `[trace]`.

use std::fmt;

use super::share::Share;

/// The receiver of traces, and the traces that are exported: `[trace]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSpec {
    /// Base URL of a receiver of OTLP over HTTP; `/v1/traces` is appended. It may contain credentials.
    pub otlp: String,
    /// Further fields of requests to the receiver.
    pub headers: Vec<ExportField>,
    /// Share of the traces beginning at this proxy that are exported. For a trace that a client has begun, its flag decides.
    /// Default 1 %.
    pub sample: Share,
    /// Requests that are exported whatever `sample` or the client says. Default: all kinds.
    pub always: Vec<TracedKind>,
}

/// A field of requests to the receiver. Its value is a secret, which `Debug` leaves out.
#[derive(Clone, PartialEq, Eq)]
pub struct ExportField {
    /// The name in lower case.
    pub name: String,
    /// The value of the field.
    pub value: String,
}

impl fmt::Debug for ExportField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExportField").field(&self.name).finish()
    }
}

words! {
    /// A kind of requests that is always exported: an entry of `trace.always`.
    pub enum TracedKind {
        /// Requests whose client, or one of whose tries, got a 5xx.
        ServerError "5xx",
        /// Requests that were sent to another version than stable.
        Canary "canary",
    }
}

impl TraceSpec {
    /// The URL of the receiver without parts that may be secret: user information, path and query.
    pub fn receiver(&self) -> String {
        let uri = self.otlp.parse::<http::Uri>().unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        let scheme = uri.scheme_str().unwrap_or("http");
        match uri.port_u16() {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }
    }

    /// Whether requests of a kind are always exported.
    #[inline]
    pub fn keeps(&self, kind: TracedKind) -> bool {
        self.always.contains(&kind)
    }
}
