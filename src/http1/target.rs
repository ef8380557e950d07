//! Request targets (RFC 9112 §3.2).

use super::{HttpVersion, Method, Reject, Span, authority};

const FRAGMENT: Reject = Reject::bad("fragment-in-target");

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
    check_characters(&buf[end..target.end as usize])?;
    Ok(Parts {
        authority: Some(host),
        path_and_query: Span::new(end, target.end as usize),
    })
}

/// Checks the characters of a path with its query, in either protocol.
///
/// Allowed is what RFC 3986 §3.3 and §3.4 allow, and what the URL Standard tells browsers to leave unescaped beyond that:
/// `[ ] \ ^ { | }` in path and query, and the backtick in the query. Percent signs need not begin an escape.
/// Refused are `#`, `"`, `<`, `>`, a backtick in the path, white space, controls, and all bytes above 0x7e, which
/// recipients decode in different ways.
///
/// # Errors
/// 400 `fragment-in-target` if the first such character is `#`, else 400 `bad-target`.
#[inline]
pub(crate) fn check_characters(path_and_query: &[u8]) -> Result<(), Reject> {
    let (blocks, rest) = path_and_query.as_chunks::<16>();
    let suspects = blocks.iter().any(has_suspect)
        || match path_and_query.last_chunk() {
            // Overlaps the blocks, which costs less than going byte by byte.
            Some(last) => has_suspect(last),
            None => rest.iter().copied().any(is_suspect),
        };
    if suspects {
        find_refused(path_and_query)
    } else {
        Ok(())
    }
}

/// Whether a byte isn't allowed everywhere.
#[inline]
fn is_suspect(byte: u8) -> bool {
    // `"` and `#` differ in one bit, as do `<` and `>`. Not short-circuited, so that a block takes a few vector instructions.
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
fn find_refused(path_and_query: &[u8]) -> Result<(), Reject> {
    let mut in_query = false;
    for &byte in path_and_query {
        match byte {
            b'#' => return Err(FRAGMENT),
            b'`' if in_query => {}
            byte if is_suspect(byte) => return Err(Reject::bad("bad-target")),
            byte => in_query |= byte == b'?',
        }
    }
    Ok(())
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
                        _ => Reject::bad("bad-target"),
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
