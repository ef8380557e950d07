//! Classification of header fields by name.
//!
//! Every field of every head is classified once, so the lookup is written for speed: first by length, then by bytes, and
//! a name without a class of its own costs a few instructions. The word-at-a-time functions below serve the same purpose.

/// A field that the proxy treats specially. All others are `Other` and are forwarded byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the others are the fields of that name")]
pub enum FieldId {
    Other,
    Host,
    Connection,
    KeepAlive,
    ProxyConnection,
    TransferEncoding,
    ContentLength,
    Te,
    Trailer,
    Upgrade,
    Http2Settings,
    Expect,
    Forwarded,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    /// Any other field that describes the client to the next hop: `X-Forwarded-*`, `X-Forwarded`, `X-Real-IP`,
    /// `Front-End-Https`; and `X-Flags`, the flags that a proxy has decided on.
    ClientInfo,
    XRequestId,
    Via,
    MaxForwards,
    Cookie,
    SetCookie,
    ContentType,
    Authorization,
    Date,
    GrpcStatus,
    ProxyAuthenticate,
    ProxyAuthorization,
}

impl FieldId {
    /// Classifies a field name, ignoring case (RFC 9110 §5.1).
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        match Self::by_length(name) {
            Self::Other if has_forwarding_prefix(name) => Self::ClientInfo,
            id => id,
        }
    }

    /// Looks up the exact names.
    ///
    /// More than 60 lines because it is a table: one arm for each length, with the names of that length. An arm compares
    /// at most three names, and the first byte rejects most of them.
    #[inline]
    fn by_length(name: &[u8]) -> Self {
        match name.len() {
            2 => one(name, b"te", Self::Te),
            3 => one(name, b"via", Self::Via),
            4 => two(name, (b"host", Self::Host), (b"date", Self::Date)),
            6 => two(name, (b"cookie", Self::Cookie), (b"expect", Self::Expect)),
            7 => match two(
                name,
                (b"upgrade", Self::Upgrade),
                (b"trailer", Self::Trailer),
            ) {
                Self::Other => one(name, b"x-flags", Self::ClientInfo),
                id => id,
            },
            9 => two(
                name,
                (b"forwarded", Self::Forwarded),
                (b"x-real-ip", Self::ClientInfo),
            ),
            10 => match two(
                name,
                (b"connection", Self::Connection),
                (b"keep-alive", Self::KeepAlive),
            ) {
                Self::Other => one(name, b"set-cookie", Self::SetCookie),
                id => id,
            },
            11 => two(
                name,
                (b"grpc-status", Self::GrpcStatus),
                (b"x-forwarded", Self::ClientInfo),
            ),
            12 => match two(
                name,
                (b"content-type", Self::ContentType),
                (b"x-request-id", Self::XRequestId),
            ) {
                Self::Other => one(name, b"max-forwards", Self::MaxForwards),
                id => id,
            },
            13 => one(name, b"authorization", Self::Authorization),
            14 => two(
                name,
                (b"content-length", Self::ContentLength),
                (b"http2-settings", Self::Http2Settings),
            ),
            15 => two(
                name,
                (b"x-forwarded-for", Self::XForwardedFor),
                (b"front-end-https", Self::ClientInfo),
            ),
            16 => two(
                name,
                (b"x-forwarded-host", Self::XForwardedHost),
                (b"proxy-connection", Self::ProxyConnection),
            ),
            17 => two(
                name,
                (b"transfer-encoding", Self::TransferEncoding),
                (b"x-forwarded-proto", Self::XForwardedProto),
            ),
            18 => one(name, b"proxy-authenticate", Self::ProxyAuthenticate),
            19 => one(name, b"proxy-authorization", Self::ProxyAuthorization),
            _ => Self::Other,
        }
    }

    /// Whether the field is hop-by-hop even if `Connection` does not name it (RFC 9110 §7.6.1).
    ///
    /// `Trailer` is among them because the encoder announces the forwarded trailers itself; `Proxy-Authenticate` and
    /// `Proxy-Authorization` because they concern the proxy next to the client (RFC 9110 §11.7).
    #[inline]
    pub fn is_hop_by_hop(self) -> bool {
        const HOP: u32 = 1 << FieldId::Connection as u32
            | 1 << FieldId::KeepAlive as u32
            | 1 << FieldId::ProxyConnection as u32
            | 1 << FieldId::TransferEncoding as u32
            | 1 << FieldId::Te as u32
            | 1 << FieldId::Trailer as u32
            | 1 << FieldId::Upgrade as u32
            | 1 << FieldId::Http2Settings as u32
            | 1 << FieldId::ProxyAuthenticate as u32
            | 1 << FieldId::ProxyAuthorization as u32;
        HOP >> self as u32 & 1 == 1
    }

    /// Whether the field must not be forwarded in trailers (RFC 9110 §6.5.1).
    ///
    /// That is every field with a class but `grpc-status`: they concern framing, routing, the connection, credentials or
    /// cookies, or are written by the proxy.
    pub fn is_forbidden_in_trailers(self) -> bool {
        self.is_hop_by_hop() || !matches!(self, Self::Other | Self::GrpcStatus)
    }
}

/// The set of classes that occur in a head.
///
/// Most lookups are for fields that are absent; this answers them without a search.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownFields(u32);

impl KnownFields {
    /// Adds a class.
    #[inline]
    pub fn add(&mut self, id: FieldId) {
        self.0 |= 1 << id as u32;
    }

    /// Whether the set contains this class.
    #[inline]
    pub fn has(self, id: FieldId) -> bool {
        self.0 >> id as u32 & 1 == 1
    }
}

/// Whether a name contains `_`. Examines eight bytes at a time, because every field is checked.
#[inline]
pub(crate) fn has_underscore(name: &[u8]) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    // After the xor, a byte is zero where the name has `_`. The second line is the classic test for a zero byte (Hacker's
    // Delight §6-1): false positives only occur above a true one, which does not matter here.
    let hit = |bytes: &[u8; 8]| {
        let word = u64::from_ne_bytes(*bytes) ^ (LOW * b'_' as u64);
        word.wrapping_sub(LOW) & !word & (LOW << 7) != 0
    };
    let (words, rest) = name.as_chunks::<8>();
    if words.iter().any(hit) {
        return true;
    }
    match name.last_chunk::<8>() {
        // The last eight bytes overlap the words above, which is cheaper than a byte-wise loop over the rest.
        Some(last) => hit(last),
        None => rest.contains(&b'_'),
    }
}

/// Whether a text contains a letter A to Z. Examines eight bytes at a time, as [`has_underscore`] does.
#[inline]
pub(crate) fn has_uppercase(text: &[u8]) -> bool {
    let hit = |bytes: &[u8; 8]| {
        let word = u64::from_ne_bytes(*bytes);
        lower(word) != word
    };
    let (words, rest) = text.as_chunks::<8>();
    if words.iter().any(hit) {
        return true;
    }
    match text.last_chunk::<8>() {
        Some(last) => hit(last),
        None => rest.iter().any(u8::is_ascii_uppercase),
    }
}

/// Whether `typed` equals `want`, which must be in lower case, ignoring case.
///
/// Compares eight bytes at a time, because one lookup compares the name of every field.
#[inline]
pub(crate) fn is_named(typed: &[u8], want: &[u8]) -> bool {
    if typed.len() != want.len() {
        return false;
    }
    let same = |typed: &[u8; 8], want: &[u8; 8]| {
        lower(u64::from_ne_bytes(*typed)) == u64::from_ne_bytes(*want)
    };
    match (typed.last_chunk(), want.last_chunk()) {
        // Names differ at the end more often than at the start (`x-forwarded-…`), so the last word is compared first. It
        // overlaps the others, which is cheaper than a byte-wise loop over the rest.
        (Some(typed_end), Some(want_end)) => {
            let words = typed.as_chunks().0.iter().zip(want.as_chunks().0);
            same(typed_end, want_end) && words.into_iter().all(|(typed, want)| same(typed, want))
        }
        _ => match (halves(typed), halves(want)) {
            (Some(typed), Some(want)) => same(&typed, &want),
            _ => typed.eq_ignore_ascii_case(want),
        },
    }
}

/// Combines the first four and the last four bytes of a name of four to eight bytes, which cover it; `None` if shorter.
#[inline]
fn halves(name: &[u8]) -> Option<[u8; 8]> {
    let (first, last) = (name.first_chunk()?, name.last_chunk()?);
    let mut both = [0; 8];
    both[..4].copy_from_slice(first as &[u8; 4]);
    both[4..].copy_from_slice(last as &[u8; 4]);
    Some(both)
}

/// Converts the letters A to Z among eight bytes to lower case.
#[inline]
fn lower(word: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    // With the high bits cleared, the additions can't carry into the next byte. The high bit of `from_a` is then set for
    // bytes from A on, that of `past_z` for bytes after Z, and `!word` excludes bytes above ASCII.
    let seven = word & (LOW * 0x7f);
    let from_a = seven + LOW * u64::from(0x80 - b'A');
    let past_z = seven + LOW * u64::from(0x7f - b'Z');
    let upper = (from_a ^ past_z) & !word & (LOW << 7);
    word | upper >> 2
}

/// Whether a name starts with `x-forwarded-`, ignoring case.
#[inline]
fn has_forwarding_prefix(name: &[u8]) -> bool {
    const PREFIX: &[u8; 12] = b"x-forwarded-";
    match name.first_chunk::<{ PREFIX.len() }>() {
        Some(first) => is(first, PREFIX),
        None => false,
    }
}

#[inline]
fn one<const N: usize>(name: &[u8], want: &[u8; N], id: FieldId) -> FieldId {
    if is(name, want) { id } else { FieldId::Other }
}

#[inline]
fn two<const N: usize>(
    name: &[u8],
    (a, id_a): (&[u8; N], FieldId),
    (b, id_b): (&[u8; N], FieldId),
) -> FieldId {
    if is(name, a) {
        id_a
    } else if is(name, b) {
        id_b
    } else {
        FieldId::Other
    }
}

/// Whether `name` equals `want`, which must be in lower case, ignoring case.
#[inline]
fn is<const N: usize>(name: &[u8], want: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else {
        return false;
    };
    // The first byte rejects nearly all other names of the same length.
    name[0] | 0x20 == want[0] && is_named(name, want)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, FieldId); 34] = [
        ("Host", FieldId::Host),
        ("Connection", FieldId::Connection),
        ("Keep-Alive", FieldId::KeepAlive),
        ("Proxy-Connection", FieldId::ProxyConnection),
        ("Transfer-Encoding", FieldId::TransferEncoding),
        ("Content-Length", FieldId::ContentLength),
        ("TE", FieldId::Te),
        ("Trailer", FieldId::Trailer),
        ("Upgrade", FieldId::Upgrade),
        ("HTTP2-Settings", FieldId::Http2Settings),
        ("Expect", FieldId::Expect),
        ("Forwarded", FieldId::Forwarded),
        ("X-Forwarded-For", FieldId::XForwardedFor),
        ("X-Forwarded-Proto", FieldId::XForwardedProto),
        ("X-Forwarded-Host", FieldId::XForwardedHost),
        ("X-Forwarded", FieldId::ClientInfo),
        ("X-Forwarded-By", FieldId::ClientInfo),
        ("X-Forwarded-Server", FieldId::ClientInfo),
        ("X-Forwarded-Client-Cert", FieldId::ClientInfo),
        ("X-Forwarded-", FieldId::ClientInfo),
        ("X-Real-IP", FieldId::ClientInfo),
        ("Front-End-Https", FieldId::ClientInfo),
        ("X-Flags", FieldId::ClientInfo),
        ("X-Request-Id", FieldId::XRequestId),
        ("Via", FieldId::Via),
        ("Max-Forwards", FieldId::MaxForwards),
        ("Cookie", FieldId::Cookie),
        ("Set-Cookie", FieldId::SetCookie),
        ("Content-Type", FieldId::ContentType),
        ("Authorization", FieldId::Authorization),
        ("Date", FieldId::Date),
        ("grpc-status", FieldId::GrpcStatus),
        ("Proxy-Authenticate", FieldId::ProxyAuthenticate),
        ("Proxy-Authorization", FieldId::ProxyAuthorization),
    ];

    #[test]
    fn names_are_known_in_any_case() {
        for (name, id) in ALL {
            assert_eq!(FieldId::of(name.as_bytes()), id, "{name}");
            assert_eq!(FieldId::of(name.to_lowercase().as_bytes()), id, "{name}");
            assert_eq!(FieldId::of(name.to_uppercase().as_bytes()), id, "{name}");
        }
    }

    /// The class of a name that isn't in the table.
    fn of_others(name: &[u8]) -> FieldId {
        match name.to_ascii_lowercase().starts_with(b"x-forwarded-") {
            true => FieldId::ClientInfo,
            false => FieldId::Other,
        }
    }

    #[test]
    fn an_uppercase_letter_is_found_at_every_position() {
        for len in 0..40 {
            let text = vec![b'a'; len];
            assert!(!has_uppercase(&text));
            for at in 0..len {
                for (byte, is_upper) in [(b'A', true), (b'Z', true), (b'@', false), (b'[', false)] {
                    let mut text = text.clone();
                    text[at] = byte;
                    assert_eq!(has_uppercase(&text), is_upper, "{len} {at} {byte}");
                }
            }
        }
    }

    #[test]
    fn a_name_that_is_off_by_one_byte_is_other() {
        for (name, _) in ALL {
            for i in 0..name.len() {
                for byte in [b'!', b'~', b'j', b'\r'] {
                    let mut near = name.as_bytes().to_vec();
                    near[i] = byte;
                    assert_eq!(FieldId::of(&near), of_others(&near), "{name} at {i}");
                }
            }
            let longer = format!("{name}x");
            assert_eq!(FieldId::of(longer.as_bytes()), of_others(longer.as_bytes()));
        }
        for other in ["", "a", "accept", "user-agent", "referer", "x", "origin"] {
            assert_eq!(FieldId::of(other.as_bytes()), FieldId::Other, "{other}");
        }
    }

    #[test]
    fn underscores_are_found_wherever_they_stand() {
        for len in 0..40 {
            let plain = vec![b'^'; len];
            assert!(!has_underscore(&plain) && !has_underscore(&vec![0xdf; len]));
            for at in 0..len {
                let mut name = plain.clone();
                name[at] = b'_';
                assert!(has_underscore(&name), "{at} of {len}");
            }
        }
    }

    #[test]
    fn a_name_in_any_case_is_that_name_and_no_other_is() {
        let want = b"az09-`{@[^_~|!azx-forwarded-for";
        for len in 0..want.len() {
            let want = &want[..len];
            assert!(is_named(want, want) && is_named(&want.to_ascii_uppercase(), want));
            assert!(!is_named(&[want, b"a"].concat(), want));
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut typed = want.to_vec();
                    typed[at] = byte;
                    let same = byte.to_ascii_lowercase() == want[at];
                    assert_eq!(is_named(&typed, want), same, "{byte} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn what_ends_at_this_hop() {
        let hop = [
            "Connection",
            "Keep-Alive",
            "Proxy-Connection",
            "Transfer-Encoding",
            "TE",
            "Trailer",
            "Upgrade",
            "HTTP2-Settings",
            "Proxy-Authenticate",
            "Proxy-Authorization",
        ];
        for (name, id) in ALL {
            assert_eq!(id.is_hop_by_hop(), hop.contains(&name), "{name}");
        }
        assert!(!FieldId::Other.is_hop_by_hop());
    }
}
