//! The dashboard: static files that are part of the program, served at `/` and below `/dashboard/`.
//!
//! The files contain no data. The page gets everything from the API, with the token where the API asks for it. Its policy allows
//! only scripts and styles of this origin, none of them inline, so that text from the network that the page shows can't run.

use std::io::Write;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::reply::{self, AdminResponse};
use crate::config::load;

/// The Content-Security-Policy of the page. Trusted types forbid that a string becomes markup or a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file as it stands in the repository.
struct Source {
    path: &'static str,
    kind: &'static str,
    body: &'static [u8],
}

macro_rules! source {
    ($path:expr, $kind:expr, $file:literal) => {
        Source {
            path: $path,
            kind: $kind,
            body: include_bytes!(concat!("dashboard/", $file)),
        }
    };
    ($file:literal) => {
        source!(concat!("/dashboard/", $file), SCRIPT, $file)
    };
}

static SOURCES: &[Source] = &[
    source!("/", HTML, "index.html"),
    source!("/dashboard/style.css", STYLE, "style.css"),
    source!("main.js"),
    source!("dom.js"),
    source!("format.js"),
    source!("api.js"),
    source!("stream.js"),
    source!("store.js"),
    source!("charts.js"),
    source!("overview.js"),
    source!("service.js"),
    source!("rollout.js"),
    source!("series.js"),
    source!("actions.js"),
    source!("history.js"),
    source!("explain.js"),
    source!("listeners.js"),
    source!("log.js"),
];

/// A file as it is sent.
struct Asset {
    source: &'static Source,
    gzip: Bytes,
    /// Entity tags of the plain and of the compressed form, which differ (RFC 9110 §8.8.3.3).
    plain_tag: HeaderValue,
    gzip_tag: HeaderValue,
}

/// Compressed when the first page is opened.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| SOURCES.iter().map(Asset::of).collect());

impl Asset {
    fn of(source: &'static Source) -> Self {
        let hash = load::hash(source.body);
        // The hash consists of hex digits.
        let tag = |form: &str| HeaderValue::try_from(format!("\"{hash}{form}\"")).expect("tag");
        Self {
            source,
            gzip: compressed(source.body),
            plain_tag: tag(""),
            gzip_tag: tag("-gzip"),
        }
    }
}

fn compressed(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to a vector does not fail.
    encoder.write_all(body).expect("write to a vector");
    encoder.finish().expect("write to a vector").into()
}

/// Whether a file of the dashboard has this path.
pub(super) fn is_page(path: &str) -> bool {
    SOURCES.iter().any(|source| source.path == path)
}

/// The file with this path; `None` if there is none.
pub(super) fn page(path: &str, request: &HeaderMap) -> Option<AdminResponse> {
    let asset = ASSETS.iter().find(|asset| asset.source.path == path)?;
    let is_packed = accepts_gzip(request);
    let (body, tag) = match is_packed {
        true => (asset.gzip.clone(), &asset.gzip_tag),
        false => (Bytes::from_static(asset.source.body), &asset.plain_tag),
    };
    let mut answer = match is_known(request, tag) {
        true => reply::with(StatusCode::NOT_MODIFIED, asset.source.kind, Bytes::new()),
        false => reply::with(StatusCode::OK, asset.source.kind, body),
    };
    let headers = answer.headers_mut();
    let fixed = [
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (VARY, "accept-encoding"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(ETAG, tag.clone());
    if is_packed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Some(answer)
}

/// Whether the client lists gzip with a weight above zero (RFC 9110 §12.5.3).
fn accepts_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(ACCEPT_ENCODING).iter();
    let codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings
        .map(|coding| coding.split_once(';').unwrap_or((coding, "")))
        .any(|(name, weight)| {
            let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
            name.trim().eq_ignore_ascii_case("gzip")
                && weight.parse().is_ok_and(|weight: f32| weight > 0.0)
        })
}

/// Whether the client has the file with this tag already. The comparison is weak (RFC 9110 §13.1.2).
fn is_known(request: &HeaderMap, tag: &HeaderValue) -> bool {
    let values = request.get_all(IF_NONE_MATCH).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|known| known.trim().trim_start_matches("W/"))
        .any(|known| known == "*" || tag == known)
}

#[cfg(test)]
#[path = "dashboard_tests.rs"]
mod tests;
