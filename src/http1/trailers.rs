//! Trailer sections (RFC 9110 §6.5, RFC 9112 §7.1.2), and which of their fields are forwarded.

use super::{FieldId, Reject};
use crate::reason::Reason;

/// Maximum bytes of a trailer section, including the empty line that ends it.
pub(crate) const MAX_BYTES: usize = 16 * 1024;
/// Maximum number of fields in a trailer section.
pub(crate) const MAX_FIELDS: usize = 64;

/// Rejection of a section beyond these limits.
pub(crate) const TOO_LARGE: Reject = Reject {
    status: 431,
    reason: Reason::TrailersTooLarge,
};

/// One trailer field that may be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer<'b> {
    /// Class of the name.
    pub id: FieldId,
    /// The name, as received.
    pub name: &'b [u8],
    /// The value, without surrounding white space.
    pub value: &'b [u8],
    /// The whole line with its CRLF.
    pub line: &'b [u8],
}

/// Returns the fields of a trailer section that may be forwarded; [`super::DecodeStep::Trailers`] delimits the section.
///
/// A recipient may merge trailers into the header section, so those that would do harm there are omitted (RFC 9110
/// §6.5.1): framing, routing, connection, authentication, cookies, request modifiers and conditions, response control,
/// descriptions of content, fields that the proxy itself writes (`X-Forwarded-*`), and names with `_`.
///
/// # Errors
/// 400 for a malformed section, 431 for one that is too large.
pub fn trailers(section: &[u8]) -> Result<impl Iterator<Item = Trailer<'_>>, Reject> {
    if self::section(section)? != Some(section.len()) {
        return Err(Reject::bad(Reason::BadTrailers));
    }
    // The check above guarantees lines of `name:value CRLF` followed by an empty line, so the slices can't fail.
    let lines = section[..section.len() - 2].split_inclusive(|&b| b == b'\n');
    Ok(lines.filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let name = &line[..colon];
        let id = FieldId::of(name);
        (!is_forbidden_as(id, name)).then(|| Trailer {
            id,
            name,
            value: super::lists::trim(&line[colon + 1..line.len() - 2]),
            line,
        })
    }))
}

/// Returns the length of the non-empty trailer section at the start of `input`; `None` if more bytes are needed.
pub(super) fn section(input: &[u8]) -> Result<Option<usize>, Reject> {
    let window = &input[..input.len().min(MAX_BYTES)];
    let mut slots = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(window, &mut slots) {
        Ok(httparse::Status::Complete((end, _))) => {
            check_lines(&window[..end])?;
            Ok(Some(end))
        }
        Ok(httparse::Status::Partial) if input.len() >= MAX_BYTES => Err(TOO_LARGE),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(TOO_LARGE),
        Err(_) => Err(Reject::bad(Reason::BadTrailers)),
    }
}

/// Rejects a bare LF, which httparse accepts as a line end.
fn check_lines(section: &[u8]) -> Result<(), Reject> {
    let mut ends = memchr::memchr_iter(b'\n', section);
    if ends.all(|at| at > 0 && section[at - 1] == b'\r') {
        Ok(())
    } else {
        Err(Reject::bad(Reason::BareLf))
    }
}

/// Whether a field with this name must not be forwarded in trailers, of HTTP/1 or HTTP/2.
pub(crate) fn is_forbidden(name: &[u8]) -> bool {
    is_forbidden_as(FieldId::of(name), name)
}

fn is_forbidden_as(id: FieldId, name: &[u8]) -> bool {
    /// Fields without a class, in the order of RFC 9110 §6.5.1: content, conditions, response control, authentication,
    /// routing. At the end, fields that applications use for routing or origin checks.
    const OTHERS: [&[u8]; 34] = [
        b"content-encoding",
        b"content-range",
        b"content-language",
        b"content-location",
        b"content-disposition",
        b"range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"max-forwards",
        b"cache-control",
        b"pragma",
        b"age",
        b"expires",
        b"location",
        b"retry-after",
        b"vary",
        b"warning",
        b"www-authenticate",
        b"authentication-info",
        b"proxy-authentication-info",
        b"via",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-real-ip",
        b"x-http-method-override",
        b"x-original-url",
        b"x-rewrite-url",
        b"origin",
        b"set-cookie2",
        b"cookie2",
        b"strict-transport-security",
    ];
    id.is_forbidden_in_trailers()
        || name.contains(&b'_')
        || OTHERS.iter().any(|other| name.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_forwarded() {
        let section = b"grpc-status: 0\r\nContent-Length: 5\r\ntransfer-encoding: chunked\r\nHost: a\r\nGrpc-Message:\t ok \r\n\
            Set-Cookie: a=b\r\ncookie: c\r\nAuthorization: x\r\nConnection: close\r\nTrailer: x\r\nX_Y: z\r\nX-Forwarded-For: 1\r\n\
            Cache-Control: no-store\r\nContent-Type: a/b\r\nServer-Timing:\r\nWWW-Authenticate: x\r\n\r\n";
        let kept: Vec<_> = trailers(section)
            .unwrap()
            .map(|t| (t.id, t.name, t.value, t.line))
            .collect();
        assert_eq!(
            kept,
            [
                (
                    FieldId::GrpcStatus,
                    &b"grpc-status"[..],
                    &b"0"[..],
                    &b"grpc-status: 0\r\n"[..]
                ),
                (
                    FieldId::Other,
                    b"Grpc-Message",
                    b"ok",
                    b"Grpc-Message:\t ok \r\n"
                ),
                (FieldId::Other, b"Server-Timing", b"", b"Server-Timing:\r\n"),
            ]
        );
    }

    #[test]
    fn sections_that_are_not_whole_are_refused() {
        for section in [
            &b""[..],
            b"a: b\r\n",
            b"a: b\r\n\r\nx",
            b"a b\r\n\r\n",
            b"a: b\n\r\n",
            b"\r\n\r\n",
        ] {
            assert!(trailers(section).is_err(), "{}", section.escape_ascii());
        }
        assert_eq!(trailers(b"\r\n").unwrap().count(), 0);
    }
}
