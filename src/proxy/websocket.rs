//! The WebSocket handshake, as far as a proxy has to check it (RFC 6455 §4).
//!
//! After a 101 the proxy passes bytes that it can't read. Without these checks a client could have an endpoint that ignores
//! `Upgrade` switch by accident, and send it a second request through the tunnel.

use aws_lc_rs::digest;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::error::LocalReply;
use super::headers::{Fields, Request};
use crate::http1::lists::has_element;
use crate::http1::{Method, Reject};

/// The only version that there is.
const VERSION: &[u8] = b"13";

/// What a 426 answer has to name: the version and protocol to use instead (RFC 6455 §4.4, RFC 9110 §15.5.22).
pub(crate) const REQUIRED: [(&str, &str); 3] = [
    ("sec-websocket-version", "13"),
    ("upgrade", "websocket"),
    ("connection", "upgrade"),
];

/// Appended to a key before it is hashed (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Characters of a key.
const KEY_LEN: usize = 24;

/// Characters of the answer to a key.
const ACCEPT_LEN: usize = 28;

/// Base64 as RFC 4648 §4 has it, with padding. Some clients leave random bits in the last character, which no server minds.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Why a request for a WebSocket isn't a valid handshake; `None` for a valid one, and for any other request.
pub(crate) fn refusal<F: Fields>(request: &Request<'_, F>) -> Option<LocalReply> {
    if !is_websocket(request.upgrade?) {
        return None;
    }
    let version = sole(&request.fields, "sec-websocket-version", |v| v == VERSION);
    let key = sole(&request.fields, "sec-websocket-key", valid_key);
    match (request.method, version, key) {
        (_, Some(false), _) => Some(LocalReply::refuse(Reject {
            status: 426,
            reason: "websocket-version",
        })),
        (Method::Get, Some(true), Some(true)) => None,
        _ => Some(LocalReply::refuse(Reject::bad("websocket-handshake"))),
    }
}

/// Whether a 101 with these fields may open the tunnel that the request asked for. Protocols other than WebSocket have no
/// answer that could be checked.
pub(crate) fn completes<F: Fields>(
    request: &Request<'_, F>,
    switched_to: Option<&[u8]>,
    answer: &impl Fields,
) -> bool {
    if !switched_to.is_some_and(is_websocket) {
        return true;
    }
    let mut matches = None;
    request.fields.any("sec-websocket-key", &mut |key| {
        matches = sole(answer, "sec-websocket-accept", |accept| {
            accepts(key, accept)
        });
        true
    });
    matches == Some(true)
}

fn is_websocket(upgrade: &[u8]) -> bool {
    has_element(upgrade, b"websocket")
}

/// Whether the one value of a field passes; `None` without the field. Several values are none that passes.
fn sole(fields: &impl Fields, name: &str, passes: impl Fn(&[u8]) -> bool) -> Option<bool> {
    let mut result = None;
    fields.any(name, &mut |value| {
        result = Some(result.is_none() && passes(value));
        false
    });
    result
}

/// Whether this is the base64 of 16 bytes.
pub(crate) fn valid_key(key: &[u8]) -> bool {
    let mut bytes = [0; 18];
    key.len() == KEY_LEN && BASE64.decode_slice(key, &mut bytes) == Ok(16)
}

/// Whether `accept` is the answer to `key` (RFC 6455 §4.2.2).
pub(crate) fn accepts(key: &[u8], accept: &[u8]) -> bool {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    let mut expected = [0; ACCEPT_LEN];
    BASE64.encode_slice(context.finish(), &mut expected) == Ok(ACCEPT_LEN) && expected == accept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        for key in [
            "dGhlIHNhbXBsZSBub25jZQ==",
            "x3JJHMbDL1EzLkh9GBhXDw==",
            "AAAAAAAAAAAAAAAAAAAAAA==",
            "//////////////////////==",
        ] {
            assert!(valid_key(key.as_bytes()), "{key}");
        }
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZTE=",
            "dGhlIHNhbXBsZSBub25jZTEy",
            "dGhlIHNhbXBsZSBub25j!Q==",
            "dGhlIHNhbXBsZSBub25j-_==",
            "dGhlIHNhbXBsZSBub25jZQ== ",
            "dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ==",
        ] {
            assert!(!valid_key(key.as_bytes()), "{key}");
        }
    }

    /// The example of RFC 6455 §1.3.
    #[test]
    fn an_accept_belongs_to_its_key() {
        let (key, accept) = (b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(accepts(key, accept));
        assert!(!accepts(b"x3JJHMbDL1EzLkh9GBhXDw==", accept));
        assert!(!accepts(key, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo"));
        assert!(!accepts(key, b"S3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!accepts(key, b""));
    }
}
