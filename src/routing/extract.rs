//! Finds cookies and query parameters in a request without copying it.
//!
//! * A cookie is a `name=value` pair between semicolons in any `Cookie` field (RFC 6265 section 4.2). Names are
//!   case-sensitive. White space around name and value is dropped, quotes are part of the value.
//! * A query parameter is a `name=value` pair between ampersands, as in `application/x-www-form-urlencoded`. Without `=`
//!   its value is empty. Names are compared after decoding: see [`decoded`].

use std::borrow::Cow;

use super::RequestView;

/// Calls `see` with the value of each cookie named `name` until it returns `true`; returns whether it did.
pub(crate) fn any_cookie(
    request: &(impl RequestView + ?Sized),
    name: &[u8],
    mut see: impl FnMut(&[u8]) -> bool,
) -> bool {
    request.any_field("cookie", &mut |field| {
        let mut rest = field;
        loop {
            let end = memchr::memchr(b';', rest);
            let pair = end.map_or(rest, |end| &rest[..end]).trim_ascii_start();
            // Most cookies have another name, and are passed over without a look for the end of theirs.
            if pair.starts_with(name) {
                let (key, value) = split_pair(pair);
                if key.trim_ascii_end() == name && see(value.trim_ascii()) {
                    return true;
                }
            }
            match end {
                Some(end) => rest = &rest[end + 1..],
                None => return false,
            }
        }
    })
}

/// Calls `see` with the raw value of each query parameter named `name` until it returns `true`; returns whether it did.
pub(crate) fn any_parameter(
    request: &(impl RequestView + ?Sized),
    name: &[u8],
    mut see: impl FnMut(&[u8]) -> bool,
) -> bool {
    let query = request.query().unwrap_or_default();
    query.split(|b| *b == b'&').any(|pair| {
        let (key, value) = split_pair(pair);
        (key == name || (is_encoded(key) && *decoded(key) == *name)) && see(value)
    })
}

/// The parts before and after the first `=`.
fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'=', pair) {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, b""),
    }
}

/// Whether [`decoded`] may differ from `raw`.
pub(super) fn is_encoded(raw: &[u8]) -> bool {
    memchr::memchr2(b'%', b'+', raw).is_some()
}

/// Decodes a name or value of a query: `%xx` is a byte, `+` a space. A `%` without two hex digits stands for itself. Copies
/// only if there is something to decode.
pub(super) fn decoded(raw: &[u8]) -> Cow<'_, [u8]> {
    if !is_encoded(raw) {
        return Cow::Borrowed(raw);
    }
    let hex = |at: usize| raw.get(at).and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(byte) = raw.get(at) {
        at += 1;
        out.push(match (byte, hex(at), hex(at + 1)) {
            (b'+', ..) => b' ',
            (b'%', Some(high), Some(low)) => {
                at += 2;
                (high * 16 + low) as u8
            }
            _ => *byte,
        });
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    fn all(find: impl FnOnce(&mut dyn FnMut(&[u8]) -> bool) -> bool) -> Vec<String> {
        let mut seen = Vec::new();
        let stopped = find(&mut |v| {
            seen.push(String::from_utf8_lossy(v).into_owned());
            false
        });
        assert!(!stopped);
        seen
    }

    #[test]
    fn cookies_by_exact_name_over_all_fields() {
        let request = Fake::get("/")
            .with("cookie", "uid=1; Uid=2;uid = 3 ;xuid=4; uid; uid=a=b")
            .with("x-cookie", "uid=5")
            .with("cookie", "\tuid=\"6\"");
        let seen = all(|see| any_cookie(&request, b"uid", see));
        assert_eq!(seen, ["1", "3", "", "a=b", "\"6\""]);
        assert!(any_cookie(&request, b"uid", |v| v == b"3"));
    }

    #[test]
    fn parameters_by_name_raw_values() {
        let request = Fake::get("/?a=1&b=2&a&a=%20x+&%61=3&aa=4&=5&a=b=c");
        let seen = all(|see| any_parameter(&request, b"a", see));
        assert_eq!(seen, ["1", "", "%20x+", "3", "b=c"]);
        assert_eq!(
            all(|see| any_parameter(&Fake::get("/"), b"a", see)),
            [""; 0]
        );
    }

    #[test]
    fn decoding_leaves_what_is_not_encoded() {
        for (raw, plain) in [
            ("abc", "abc"),
            ("a+b%20c", "a b c"),
            ("%41%4a%4A", "AJJ"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%4g", "%zz%4g"),
            ("%%41", "%A"),
            ("%2541", "%41"),
        ] {
            assert_eq!(*decoded(raw.as_bytes()), *plain.as_bytes(), "{raw}");
        }
    }
}
