//! Normalization of request paths, and detection of ambiguous ones.
//!
//! A path is examined in two ways before it is routed:
//!
//! * [`normal`] removes dot segments. The result is matched against routes and sent upstream; everything else stays byte for
//!   byte. Paths that are only useful for being read in two ways are rejected: `%00`, overlong UTF-8, and dot segments
//!   delimited by `%2f`, `%5c` or a backslash.
//! * [`readings`] returns the other paths that a recipient may see if it treats `%2f`, `%5c` and `\` as slashes, decodes
//!   escaped letters, or merges repeated slashes. Routing looks up all of them. If one leads to another route, the request
//!   is rejected, so a protected prefix can't be reached by another spelling. If all lead to the same route, as with
//!   `/projects/group%2fname`, the path is forwarded unchanged.

use std::borrow::Cow;

use super::Reject;
use super::number::hex_digit;
use crate::reason::Reason;

/// Returns the length of the path in a target, before the query.
#[inline]
pub fn len(path_and_query: &[u8]) -> usize {
    first_of(b"???", path_and_query).unwrap_or(path_and_query.len())
}

/// Returns the path (without query) with its dot segments removed (RFC 3986 §5.2.4), otherwise byte for byte.
///
/// A dot may also be written `%2e`, which is equivalent (RFC 3986 §6.2.2.2). An empty path becomes `/` (RFC 9110 §4.2.3);
/// `*` and malformed escapes are kept.
///
/// # Errors
/// 400 for `%00` (`nul-in-path`), overlong UTF-8 in escapes (`overlong-utf8`), and dot segments delimited by `%2f`, `%5c`
/// or `\` (`hidden-dot-segment`).
#[inline]
pub fn normal(path: &[u8]) -> Result<Cow<'_, [u8]>, Reject> {
    if path.is_empty() {
        return Ok(Cow::Borrowed(b"/"));
    }
    match first_of(b".%\\", path) {
        None => Ok(Cow::Borrowed(path)),
        Some(first) => normal_from(path, first),
    }
}

/// Returns the paths other than `normal` that a recipient may see in `typed`, or in the `normal` path that is sent to it.
///
/// A reading has escaped slashes and unreserved characters (RFC 3986 §2.3) decoded and backslashes replaced by slashes, or
/// repeated slashes merged, or both; then dot segments are removed. The result is empty for nearly every path.
#[inline]
pub fn readings(typed: &[u8], normal: &[u8]) -> Vec<Vec<u8>> {
    if first_of(b"%\\\\", typed).is_none() && !has_repeated_slash(typed) {
        return Vec::new();
    }
    other_readings(typed, normal)
}

#[cold]
fn other_readings(typed: &[u8], normal: &[u8]) -> Vec<Vec<u8>> {
    let mut readings: Vec<Vec<u8>> = Vec::new();
    // Removing dot segments before or after merging slashes gives different results (`/a//../b`: `/a/b` or `/b`), so the
    // typed path has readings that the normal one no longer shows.
    for path in [typed, normal] {
        let decoded = decoded(path);
        let merged = [merge_slashes(path), merge_slashes(&decoded)].map(Cow::into_owned);
        for seen in merged.into_iter().chain([decoded]) {
            let seen = match has_dot_segment(&seen) {
                true => remove_dots(&seen),
                false => seen,
            };
            if seen != normal && !readings.contains(&seen) {
                readings.push(seen);
            }
        }
    }
    readings
}

/// Returns the path with `\`, `%5c` and `%2f` replaced by slashes and escaped unreserved characters decoded.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut seen = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(&byte) = rest.first() {
        let (shown, len) = match escaped(rest) {
            Some(b'/' | b'\\') => (b'/', 3),
            Some(plain) if plain.is_ascii_alphanumeric() || b"-._~".contains(&plain) => (plain, 3),
            _ if byte == b'\\' => (b'/', 1),
            _ => (byte, 1),
        };
        seen.push(shown);
        rest = &rest[len..];
    }
    seen
}

/// Returns the path with each run of slashes merged into one; copies only if there is such a run.
#[inline]
pub fn merge_slashes(path: &[u8]) -> Cow<'_, [u8]> {
    if !has_repeated_slash(path) {
        return Cow::Borrowed(path);
    }
    let mut merged = path.to_vec();
    merged.dedup_by(|a, b| *a == b'/' && *b == b'/');
    Cow::Owned(merged)
}

/// Returns the offset of the first byte of the path that is one of these.
#[inline]
fn first_of(&[a, b, c]: &[u8; 3], path: &[u8]) -> Option<usize> {
    // A vectorized search costs more to set up than the loop over a few bytes.
    if path.len() < 16 {
        path.iter()
            .position(|&byte| byte == a || byte == b || byte == c)
    } else {
        memchr::memchr3(a, b, c, path)
    }
}

/// Whether the path contains `//`. Without an early exit, the loop becomes a few vector instructions.
#[inline]
fn has_repeated_slash(path: &[u8]) -> bool {
    let next = path.get(1..).unwrap_or_default();
    let pairs = path.iter().zip(next);
    pairs.fold(false, |any, (&a, &b)| any | ((a == b'/') & (b == b'/')))
}

/// Returns the byte that `text` starts with in percent-encoding (RFC 3986 §2.1), if it does.
#[inline]
fn escaped(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', high, low, ..] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
        _ => None,
    }
}

/// Implements [`normal`] for a path whose first dot, percent sign or backslash is at `first`.
fn normal_from(path: &[u8], first: usize) -> Result<Cow<'_, [u8]>, Reject> {
    if let Some(at) = memchr::memchr2(b'%', b'\\', &path[first..]) {
        check_escapes(&path[first + at..])?;
        check_hidden(path)?;
    }
    if has_dot_segment(path) {
        Ok(Cow::Owned(remove_dots(path)))
    } else {
        Ok(Cow::Borrowed(path))
    }
}

fn check_escapes(mut rest: &[u8]) -> Result<(), Reject> {
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = &rest[at..];
        let Some(byte) = escaped(rest) else {
            rest = &rest[1..];
            continue;
        };
        rest = &rest[3..];
        if byte == 0 {
            return Err(Reject::bad(Reason::NulInPath));
        }
        // By the first byte of a UTF-8 sequence: the greatest second byte with which it encodes a character that has a
        // shorter encoding (RFC 3629 §10). 0xf8 and 0xfc start sequences of five and six bytes, which old decoders accept.
        let overlong = match byte {
            0xc0 | 0xc1 => 0xbf,
            0xe0 => 0x9f,
            0xf0 => 0x8f,
            0xf8 => 0x87,
            0xfc => 0x83,
            _ => continue,
        };
        if escaped(rest).is_some_and(|next| (0x80..=overlong).contains(&next)) {
            return Err(Reject::bad(Reason::OverlongUtf8));
        }
    }
    Ok(())
}

/// Rejects dot segments that are delimited by an escaped slash or a backslash on either side.
fn check_hidden(path: &[u8]) -> Result<(), Reject> {
    for segment in path.split(|&b| b == b'/') {
        let mut rest = segment;
        let mut has_hidden_slash = false;
        loop {
            let (part, after) = until_hidden_slash(rest);
            has_hidden_slash |= after.is_some();
            if has_hidden_slash && dots(part).is_some() {
                return Err(Reject::bad(Reason::HiddenDotSegment));
            }
            match after {
                Some(after) => rest = after,
                None => break,
            }
        }
    }
    Ok(())
}

/// Splits `text` at the first `%2f`, `%5c` or `\`; `None` if there is none.
fn until_hidden_slash(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'%', b'\\', &text[at..]) {
        at += found;
        let len = match escaped(&text[at..]) {
            _ if text[at] == b'\\' => 1,
            Some(b'/' | b'\\') => 3,
            _ => {
                at += 1;
                continue;
            }
        };
        return (&text[..at], Some(&text[at + len..]));
    }
    (text, None)
}

/// Returns the number of dots of a dot segment, each of which may be written `%2e`; `None` for other segments.
#[inline]
fn dots(segment: &[u8]) -> Option<u8> {
    if segment.is_empty() || segment.len() > 6 {
        return None;
    }
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] => rest,
            [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
    }
    (count <= 2).then_some(count)
}

fn has_dot_segment(path: &[u8]) -> bool {
    // A dot segment starts with `.` or `%` after a slash. In most paths with a dot it is elsewhere, so this rarely goes on
    // to look at a whole segment.
    memchr::memchr2_iter(b'.', b'%', path)
        .filter(|&at| at > 0 && path[at - 1] == b'/')
        .any(|at| {
            let end = memchr::memchr(b'/', &path[at..]).map_or(path.len(), |n| at + n);
            dots(&path[at..end]).is_some()
        })
}

#[cold]
fn remove_dots(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path.split(|&b| b == b'/').peekable();
    // The part before the first slash, which is empty in an origin-form path, is no segment to be removed.
    out.extend_from_slice(segments.next().unwrap_or_default());
    let root = out.len();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment) {
            Some(count) => {
                if count == 2 {
                    let parent = memchr::memrchr(b'/', &out[root..]).unwrap_or(0);
                    out.truncate(root + parent);
                }
                if last {
                    out.push(b'/');
                }
            }
            None => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
