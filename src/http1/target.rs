//! Request targets (RFC 9112 §3.2): their forms, and the characters of path and query.

use super::{HttpVersion, Method, Reject, Span, authority};
use crate::reason::Reason;

const FRAGMENT: Reject = Reject::bad(Reason::FragmentInTarget);

/// The parts of a request target, as spans of the head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Authority of an absolute-form target.
    pub authority: Option<Span>,
    pub path_and_query: Span,
}

/// Splits a target in origin-form, absolute-form (http and https) or asterisk-form.
///
/// # Errors
/// 405 `connect` for CONNECT. 400 for any other target in authority-form, `*` with a method other than OPTIONS (RFC 9112
/// §3.2.4), a fragment, or a malformed authority.
#[inline]
pub(super) fn split(buf: &[u8], target: Span, method: Method) -> Result<Parts, Reject> {
    let text = target.of(buf);
    if method == Method::Connect {
        return Err(Reject {
            status: 405,
            reason: Reason::Connect,
        });
    }
    if text.first() == Some(&b'/') {
        check_characters(text)?;
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
    if memchr::memchr(b'#', text).is_some() {
        return Err(FRAGMENT);
    }
    if text == b"*" {
        return match method {
            Method::Options => Ok(Parts {
                authority: None,
                path_and_query: target,
            }),
            _ => Err(Reject::bad(Reason::BadTarget)),
        };
    }
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| {
            text.len() >= scheme.len() && text[..scheme.len()].eq_ignore_ascii_case(scheme)
        })
        .ok_or(Reject::bad(Reason::BadTarget))?;
    let start = target.start as usize + scheme.len();
    let rest = &text[scheme.len()..];
    let end = start + memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let host = Span::new(start, end);
    authority::check(host.of(buf))?;
    check_characters(&buf[end..target.end as usize])?;
    Ok(Parts {
        authority: Some(host),
        path_and_query: Span::new(end, target.end as usize),
    })
}

/// Checks the characters of a path with its query, for HTTP/1 and HTTP/2.
///
/// Allowed are the characters of RFC 3986 §3.3 and §3.4, and those that browsers leave unescaped beyond that, following the
/// URL Standard: `[ ] \ ^ { | }` in path and query, and the backtick in the query. A percent sign need not start an escape.
/// Rejected are `#`, `"`, `<`, `>`, a backtick in the path, white space, control characters, and all bytes above 0x7e,
/// which recipients decode differently.
///
/// # Errors
/// 400 `fragment-in-target` if the first rejected character is `#`, otherwise 400 `bad-target`.
#[inline]
pub fn check_characters(path_and_query: &[u8]) -> Result<(), Reject> {
    let (blocks, rest) = path_and_query.as_chunks::<16>();
    let suspects = blocks.iter().any(has_suspect)
        || match path_and_query.last_chunk() {
            // The last 16 bytes overlap the blocks, which is cheaper than a byte-wise loop over the rest.
            Some(last) => has_suspect(last),
            None => rest.iter().copied().any(is_suspect),
        };
    if suspects {
        find_rejected(path_and_query)
    } else {
        Ok(())
    }
}

/// Whether a byte is rejected in the path, in the query, or in both.
#[inline]
fn is_suspect(byte: u8) -> bool {
    // `"` and `#` differ in one bit, as do `<` and `>`. As i8, bytes above 0x7f are negative, so one comparison finds them
    // together with controls and space. `|` instead of `||` lets a block be checked with a few vector instructions.
    (byte & 0xfe == b'"')
        | (byte & 0xfd == b'<')
        | (byte == b'`')
        | ((byte as i8) <= b' ' as i8)
        | (byte == 0x7f)
}

#[inline]
fn has_suspect(block: &[u8; 16]) -> bool {
    block
        .iter()
        .fold(false, |any, &byte| any | is_suspect(byte))
}

#[cold]
fn find_rejected(path_and_query: &[u8]) -> Result<(), Reject> {
    let mut in_query = false;
    for &byte in path_and_query {
        match byte {
            b'#' => return Err(FRAGMENT),
            b'`' if in_query => {}
            byte if is_suspect(byte) => return Err(Reject::bad(Reason::BadTarget)),
            byte => in_query |= byte == b'?',
        }
    }
    Ok(())
}

/// Returns the rejection of `text`, which is not `HTTP/1.0` or `HTTP/1.1` but stands where a version is expected.
///
/// 505 for another well-formed version (RFC 9112 §2.3), 400 for a malformed one; `None` if more bytes are needed to tell.
pub(super) fn reject_version(text: &[u8]) -> Option<Reject> {
    const FORM: &[u8; 8] = b"HTTP/d.d";
    for (i, &want) in FORM.iter().enumerate() {
        let fits = match text.get(i) {
            None => return None,
            Some(b) if want == b'd' => b.is_ascii_digit(),
            Some(&b) => b == want,
        };
        if !fits {
            return Some(Reject::bad(Reason::BadVersion));
        }
    }
    Some(Reject {
        status: 505,
        reason: Reason::Version,
    })
}

/// Converts the minor version that httparse returns.
#[inline]
pub(super) fn version(minor: Option<u8>) -> HttpVersion {
    match minor {
        Some(0) => HttpVersion::H10,
        _ => HttpVersion::H11,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_query_take_what_browsers_send_and_no_more() {
        let pchar = b"-._~!$&'()*+,;=:@%/";
        for byte in 0..=u8::MAX {
            let everywhere = byte.is_ascii_alphanumeric()
                || pchar.contains(&byte)
                || b"?[]\\^{|}".contains(&byte);
            for len in [1, 7, 15, 16, 17, 40] {
                for at in [0, len / 2, len - 1] {
                    let mut path = vec![b'a'; len];
                    path[at] = byte;
                    let refusal = match byte {
                        b'#' => FRAGMENT,
                        _ => Reject::bad(Reason::BadTarget),
                    };
                    let want = if everywhere { Ok(()) } else { Err(refusal) };
                    assert_eq!(check_characters(&path), want, "{byte:#x} at {at} of {len}");
                    let query = [b"/a?", &path[..]].concat();
                    let want = if byte == b'`' { Ok(()) } else { want };
                    assert_eq!(check_characters(&query), want, "{byte:#x} at {at} of {len}");
                }
            }
        }
    }
}
