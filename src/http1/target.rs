//! Request targets (RFC 9112 §3.2).

use super::{Method, Reject, Span, Version, authority};

/// A request target, taken apart. Spans are counted like `target`'s.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Of an absolute-form target.
    pub authority: Option<Span>,
    pub path_and_query: Span,
}

/// Takes the target apart: origin-form, absolute-form (http and https), or `*`.
///
/// # Errors
/// 405 `connect` for CONNECT; 400 for any other authority-form, `*` without OPTIONS, a fragment, a bad authority.
#[inline]
pub(super) fn split(buf: &[u8], target: Span, method: Method) -> Result<Parts, Reject> {
    let text = target.of(buf);
    if method == Method::Connect {
        return Err(Reject {
            status: 405,
            reason: "connect",
        });
    }
    if memchr::memchr(b'#', text).is_some() {
        return Err(Reject::bad("fragment-in-target"));
    }
    if text.first() == Some(&b'/') {
        return Ok(Parts {
            authority: None,
            path_and_query: target,
        });
    }
    split_rare(buf, target, method)
}

#[cold]
fn split_rare(buf: &[u8], target: Span, method: Method) -> Result<Parts, Reject> {
    let text = target.of(buf);
    if text == b"*" {
        return match method {
            Method::Options => Ok(Parts {
                authority: None,
                path_and_query: target,
            }),
            _ => Err(Reject::bad("bad-target")),
        };
    }
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| {
            text.len() >= scheme.len() && text[..scheme.len()].eq_ignore_ascii_case(scheme)
        })
        .ok_or(Reject::bad("bad-target"))?;
    let start = target.start as usize + scheme.len();
    let rest = &text[scheme.len()..];
    let end = start + memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let host = Span::new(start, end);
    authority::check(host.of(buf))?;
    Ok(Parts {
        authority: Some(host),
        path_and_query: Span::new(end, target.end as usize),
    })
}

/// What the bytes where a version belongs are, when they aren't `HTTP/1.0` or `HTTP/1.1`.
/// `None`: a beginning of a version that may yet be well-formed.
pub(super) fn refuse_version(text: &[u8]) -> Option<Reject> {
    const FORM: &[u8; 8] = b"HTTP/d.d";
    for (i, &want) in FORM.iter().enumerate() {
        let fits = match text.get(i) {
            None => return None,
            Some(b) if want == b'd' => b.is_ascii_digit(),
            Some(&b) => b == want,
        };
        if !fits {
            return Some(Reject::bad("bad-version"));
        }
    }
    Some(Reject {
        status: 505,
        reason: "version",
    })
}

/// HTTP/1's minor version as httparse says it.
#[inline]
pub(super) fn version(minor: Option<u8>) -> Version {
    match minor {
        Some(0) => Version::H10,
        _ => Version::H11,
    }
}
