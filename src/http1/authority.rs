//! The authority of a request: `host`, `host:port`, `[v6]`, `[v6]:port` (RFC 9110 §7.2, RFC 3986 §3.2).
//!
//! [`check`] accepts less than RFC 3986 does: anything that other recipients are known to read differently is rejected, because
//! the host decides about routing.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

use super::Reject;
use super::fields::has_uppercase;
use super::number::hex_digit;
use crate::reason::Reason;

const BAD: Reject = Reject::bad(Reason::BadHost);

/// Checks an authority: a host (a name, an IPv4 address or a bracketed IPv6 address) and an optional port, 0 to 65535.
///
/// A port may be empty after its colon (RFC 3986 §3.2.3). User information is rejected, as RFC 9110 §4.2.4 recommends
/// for `http` URIs; so are a comma, which would make it a list of hosts, and IPv6 zones and `IPvFuture`.
///
/// # Errors
/// 400 `bad-host`; RFC 9112 §3.2 requires a 400 for an invalid `Host`.
pub fn check(authority: &[u8]) -> Result<(), Reject> {
    let port = match authority {
        [b'[', rest @ ..] => {
            let end = memchr::memchr(b']', rest).ok_or(BAD)?;
            check_v6(&rest[..end])?;
            match &rest[end + 1..] {
                [] => return Ok(()),
                [b':', port @ ..] => port,
                _ => return Err(BAD),
            }
        }
        _ => {
            let end = name_end(authority);
            match &authority[end..] {
                _ if end == 0 => return Err(BAD),
                [] => return Ok(()),
                [b':', port @ ..] => port,
                _ => return Err(BAD),
            }
        }
    };
    check_port(port)
}

/// Splits an authority that passed [`check`] into its host, including the brackets of an IPv6 address, and its port.
pub fn split(authority: &[u8]) -> (&[u8], Option<u16>) {
    // A last colon inside the brackets of an IPv6 address, which then end the authority, separates no port.
    // From the end a port is a few bytes away, nearer than the set-up of a vectored search is worth.
    let colon = match authority.iter().rposition(|&b| b == b':') {
        Some(colon) if authority[colon..].last() != Some(&b']') => colon,
        _ => return (authority, None),
    };
    let digits = &authority[colon + 1..];
    let port = (!digits.is_empty()).then(|| {
        digits.iter().fold(0u16, |n, &b| {
            n.wrapping_mul(10)
                .wrapping_add(u16::from(b.wrapping_sub(b'0')))
        })
    });
    (&authority[..colon], port)
}

/// The host of an authority, in lower case, without port and trailing dot. Allocates only if it contains upper case.
pub(crate) fn host(authority: &[u8]) -> Cow<'_, str> {
    let (host, _) = split(authority);
    let host = std::str::from_utf8(host).unwrap_or_default();
    let host = host.strip_suffix('.').unwrap_or(host);
    if has_uppercase(host.as_bytes()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Longest authority that is remembered: a name of the DNS (RFC 1035 §2.3.4) and a port.
const MAX_KNOWN: usize = 255 + 6;

/// The last valid `Host`, and the host in it. Most requests name the same one as the request before them, and are then spared
/// its check.
#[derive(Clone, Default)]
pub(super) struct KnownHost {
    authority: Vec<u8>,
    host: String,
}

/// Not shown, because it says nothing about the head that was parsed last.
impl fmt::Debug for KnownHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownHost")
    }
}

impl KnownHost {
    /// Checks an authority as [`check`] does, and remembers it.
    ///
    /// # Errors
    /// 400 `bad-host`.
    #[inline]
    pub(super) fn check(&mut self, authority: &[u8]) -> Result<(), Reject> {
        if self.is(authority) {
            return Ok(());
        }
        self.learn(authority)
    }

    fn learn(&mut self, authority: &[u8]) -> Result<(), Reject> {
        check(authority)?;
        if authority.len() <= MAX_KNOWN {
            self.authority.clear();
            self.authority.extend_from_slice(authority);
            self.host.clear();
            self.host.push_str(&host(authority));
        }
        Ok(())
    }

    /// Whether this is the authority that was checked last. An empty one is never valid.
    #[inline]
    fn is(&self, authority: &[u8]) -> bool {
        self.authority == authority && !authority.is_empty()
    }

    /// The host of a valid authority, as [`host`] returns it.
    #[inline]
    pub(super) fn host<'a>(&'a self, authority: &'a [u8]) -> Cow<'a, str> {
        match self.is(authority) {
            true => Cow::Borrowed(&self.host),
            false => host(authority),
        }
    }
}

fn check_port(port: &[u8]) -> Result<(), Reject> {
    let mut value: u32 = 0;
    for &byte in port {
        if !byte.is_ascii_digit() {
            return Err(BAD);
        }
        value = value * 10 + u32::from(byte - b'0');
        if value > 65535 {
            return Err(BAD);
        }
    }
    Ok(())
}

fn check_v6(address: &[u8]) -> Result<(), Reject> {
    std::str::from_utf8(address)
        .ok()
        .and_then(|text| text.parse::<Ipv6Addr>().ok())
        .map(drop)
        .ok_or(BAD)
}

/// Returns the length of the `reg-name` at the start of `text`.
#[inline]
fn name_end(text: &[u8]) -> usize {
    let mut end = 0;
    loop {
        end += text[end..]
            .iter()
            .position(|&b| !is_name_byte(b))
            .unwrap_or(text.len() - end);
        if text.get(end) != Some(&b'%') || !is_escape(&text[end..]) {
            return end;
        }
        end += 3;
    }
}

fn is_escape(text: &[u8]) -> bool {
    // An escaped control character, delimiter or non-ASCII byte is rejected: recipients that decode it before they look
    // at the host would see a different one.
    match (
        text.get(1).copied().and_then(hex_digit),
        text.get(2).copied().and_then(hex_digit),
    ) {
        (Some(high), Some(low)) => is_name_byte(high << 4 | low),
        _ => false,
    }
}

/// Whether `byte` may be part of a `reg-name` (RFC 3986 §3.2.2), except for the comma and the percent sign.
#[inline]
fn is_name_byte(byte: u8) -> bool {
    const NAME: [bool; 256] = {
        let mut table = [false; 256];
        let mut i = 0;
        while i < 256 {
            table[i] = matches!(i as u8,
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
                | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=');
            i += 1;
        }
        table
    };
    NAME[byte as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones_and_their_parts() {
        for (authority, host, port) in [
            ("a", "a", None),
            ("shop.example.com", "shop.example.com", None),
            ("shop.example.com.", "shop.example.com.", None),
            ("shop.example.com:80", "shop.example.com", Some(80)),
            ("shop.example.com:", "shop.example.com", None),
            ("a_b.c~d:0", "a_b.c~d", Some(0)),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[::1]:8080", "[::1]", Some(8080)),
            ("[2001:db8::1:2]:", "[2001:db8::1:2]", None),
            ("ex%61mple", "ex%61mple", None),
        ] {
            assert_eq!(check(authority.as_bytes()), Ok(()), "{authority}");
            assert_eq!(split(authority.as_bytes()), (host.as_bytes(), port));
        }
    }

    #[test]
    fn a_host_is_normalised() {
        assert_eq!(host(b"Shop.Example.com:8080"), "shop.example.com");
        assert_eq!(host(b"shop.example.com."), "shop.example.com");
        assert_eq!(host(b"[::1]:80"), "[::1]");
    }

    #[test]
    fn a_known_host_is_that_of_the_last_valid_authority() {
        let mut known = KnownHost::default();
        let long = "a".repeat(MAX_KNOWN + 1);
        for authority in [
            "A.example:80",
            "A.example:80",
            "b",
            "",
            "a b",
            &long,
            "b.:1",
            "b",
        ] {
            let authority = authority.as_bytes();
            assert_eq!(known.check(authority), check(authority));
            let is_remembered = check(authority).is_ok() && authority.len() <= MAX_KNOWN;
            assert_eq!(known.is(authority), is_remembered);
            for other in [authority, b"", b"A.example:80", b"b"] {
                assert_eq!(known.host(other), host(other));
            }
        }
    }

    #[test]
    fn bad_ones() {
        for authority in [
            "",
            ":",
            ":80",
            "a:b",
            "a:-1",
            "a:+1",
            "a:65536",
            "a:080000000000",
            "a:80:80",
            "a:80a",
            "user@a",
            "u:p@a",
            "a/b",
            "/",
            "a,b",
            "a, b",
            "a b",
            "a\t",
            "a?b",
            "a#b",
            "a\\b",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:x",
            "[]",
            "[1.2.3.4]",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "a%",
            "a%4",
            "a%00",
            "a%2f",
            "a%zz",
            "a\"b",
            "<a>",
            "a%40b",
            "\u{e9}.com",
            "a\u{7f}",
            "http://a",
        ] {
            assert_eq!(check(authority.as_bytes()), Err(BAD), "{authority:?}");
        }
    }
}
