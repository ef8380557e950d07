//! Dot segments, and what hides behind escapes.
//!
//! Two things are asked of a path before it is routed:
//!
//! * [`normal`]: the path with its dot segments removed. This is what is matched and what goes upstream; all else stays byte for byte.
//!   Refused is what only serves to be read in two ways: `%00`, overlong UTF-8, and dot segments behind `%2f`, `%5c` or a backslash.
//! * [`readings`]: the paths that a recipient may see instead, if it takes `%2f`, `%5c` and `\` for slashes, undoes escapes of
//!   letters, or merges repeated slashes. Routing looks all of them up: when one leads to another route, the request is
//!   refused, so that nothing behind a guarded prefix is reached by another spelling; when all lead to the same (as with
//!   `/projects/group%2fname`), the path passes untouched.

use std::borrow::Cow;

use super::Reject;
use super::number::hex_digit;

/// The path (without query) with its dot segments removed (RFC 3986 §5.2.4, also where the dots are written `%2e`), otherwise byte for byte.
/// An empty path is `/`; `*` stays. Malformed escapes stay as they are.
///
/// # Errors
/// 400 for `%00` (`nul-in-path`), overlong UTF-8 in escapes (`overlong-utf8`), and dot segments that are delimited by `%2f`, `%5c` or `\` (`hidden-dot-segment`).
#[inline]
pub fn normal(path: &[u8]) -> Result<Cow<'_, [u8]>, Reject> {
    if path.is_empty() {
        return Ok(Cow::Borrowed(b"/"));
    }
    match memchr::memchr3(b'.', b'%', b'\\', path) {
        None => Ok(Cow::Borrowed(path)),
        Some(first) => normal_from(path, first),
    }
}

/// The paths other than `normal` that recipients may see in `typed`, or in the `normal` path that is sent to them: with
/// escapes of slashes and unreserved characters (RFC 3986 §2.3) decoded and backslashes taken for slashes, with repeated
/// slashes merged, or both; with dot segments removed after that. Empty for nearly every path.
#[inline]
pub fn readings(typed: &[u8], normal: &[u8]) -> Vec<Vec<u8>> {
    if memchr::memchr2(b'%', b'\\', typed).is_none() && !has_repeated_slash(typed) {
        return Vec::new();
    }
    other_readings(typed, normal)
}

#[cold]
fn other_readings(typed: &[u8], normal: &[u8]) -> Vec<Vec<u8>> {
    let mut readings: Vec<Vec<u8>> = Vec::new();
    // The client may mean the path as typed, and the recipient gets the normal one: dot segments and repeated slashes don't
    // come out alike when they are removed in another order.
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

/// The path with `\`, `%5c` and `%2f` as slashes and escapes of unreserved characters undone.
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

/// The path with each run of slashes as one; copied only where there is such a run.
#[inline]
pub fn merge_slashes(path: &[u8]) -> Cow<'_, [u8]> {
    if !has_repeated_slash(path) {
        return Cow::Borrowed(path);
    }
    let mut merged = path.to_vec();
    merged.dedup_by(|a, b| *a == b'/' && *b == b'/');
    Cow::Owned(merged)
}

/// Not short-circuited, so that it takes a few vector instructions.
#[inline]
fn has_repeated_slash(path: &[u8]) -> bool {
    let next = path.get(1..).unwrap_or_default();
    let pairs = path.iter().zip(next);
    pairs.fold(false, |any, (&a, &b)| any | ((a == b'/') & (b == b'/')))
}

/// The byte that an escape at the start of `text` stands for.
#[inline]
fn escaped(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', high, low, ..] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
        _ => None,
    }
}

/// As [`normal`], for a path whose first dot, per cent sign or backslash stands at `first`.
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
            return Err(Reject::bad("nul-in-path"));
        }
        // The first byte of a sequence, and the greatest second byte that makes it longer than it need be.
        let overlong = match byte {
            0xc0 | 0xc1 => 0xbf,
            0xe0 => 0x9f,
            0xf0 => 0x8f,
            0xf8 => 0x87,
            0xfc => 0x83,
            _ => continue,
        };
        if escaped(rest).is_some_and(|next| (0x80..=overlong).contains(&next)) {
            return Err(Reject::bad("overlong-utf8"));
        }
    }
    Ok(())
}

/// Refuses dot segments whose delimiters are not both plain slashes (or the path's ends).
fn check_hidden(path: &[u8]) -> Result<(), Reject> {
    for segment in path.split(|&b| b == b'/') {
        let mut rest = segment;
        let mut divided = false;
        loop {
            let (part, after) = until_hidden_slash(rest);
            divided |= after.is_some();
            if divided && dots(part).is_some() {
                return Err(Reject::bad("hidden-dot-segment"));
            }
            match after {
                Some(after) => rest = after,
                None => break,
            }
        }
    }
    Ok(())
}

/// What stands before the first `%2f`, `%5c` or `\`, and what after it.
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

/// 1 for `.`, 2 for `..`, each dot also as `%2e`; else none.
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
    // A dot segment begins after a slash with a dot or its escape: most paths with a dot have it elsewhere.
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
    // What precedes the first slash: nothing, in an origin-form path.
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
