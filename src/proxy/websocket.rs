//! The checks of the WebSocket opening handshake that a proxy has to make (RFC 6455 §4).
//!
//! After a 101 the proxy relays bytes without parsing them. If an endpoint could be made to answer
//! 101 without really switching protocols, a client could send it further requests through the
//! tunnel, past the proxy's routing (request smuggling). So the request has to be a valid handshake,
//! and the 101 has to prove that the endpoint understood it.

use aws_lc_rs::digest;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::error::LocalReply;
use super::headers::{Fields, Request};
use crate::http1::lists::has_element;
use crate::http1::{Method, Reject};
use crate::reason::Reason;

/// The protocol version that RFC 6455 defines; no later one exists.
const VERSION: &[u8] = b"13";

/// Fields of a 426 response: the supported version (RFC 6455 §4.4) and the protocol to use
/// (RFC 9110 §15.5.22).
pub(crate) const REQUIRED: [(&str, &str); 3] = [
    ("sec-websocket-version", "13"),
    ("upgrade", "websocket"),
    ("connection", "upgrade"),
];

/// The field of a request with the key that the 101 has to answer (RFC 6455 §11.3.1).
pub(crate) const KEY: &str = "sec-websocket-key";

/// The field of a 101 that answers it (RFC 6455 §11.3.3).
pub(crate) const ACCEPT: &str = "sec-websocket-accept";

/// Appended to a key before it is hashed (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Length of a key: 16 bytes in base64.
const KEY_LEN: usize = 24;

/// Length of `Sec-WebSocket-Accept`: a SHA-1 digest in base64.
const ACCEPT_LEN: usize = 28;

/// Padded base64 (RFC 4648 §4). Non-zero trailing bits are accepted, because some clients send
/// them and servers don't check.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The reply to a WebSocket request that isn't a valid handshake: 426 for an unsupported version,
/// else 400. `None` for a valid handshake and for any other request.
pub(crate) fn refusal<F: Fields>(request: &Request<'_, F>) -> Option<LocalReply> {
    if !is_websocket(request.upgrade?) {
        return None;
    }
    let version = sole(&request.fields, "sec-websocket-version", |v| v == VERSION);
    let key = sole(&request.fields, KEY, valid_key);
    match (request.method, version, key) {
        (_, Some(false), _) => Some(LocalReply::refuse(Reject {
            status: 426,
            reason: Reason::WebsocketVersion,
        })),
        (Method::Get, Some(true), Some(true)) => None,
        _ => Some(LocalReply::refuse(Reject::bad(Reason::WebsocketHandshake))),
    }
}

/// Whether a 101 with these fields completes the handshake. `switched_to` is its `Upgrade` value.
/// Always true for protocols other than WebSocket, which define no proof to check.
pub(crate) fn completes<F: Fields>(
    request: &Request<'_, F>,
    switched_to: Option<&[u8]>,
    answer: &impl Fields,
) -> bool {
    if !switched_to.is_some_and(is_websocket) {
        return true;
    }
    let mut matches = None;
    request.fields.any(KEY, &mut |key| {
        matches = sole(answer, ACCEPT, |accept| accepts(key, accept));
        true
    });
    matches == Some(true)
}

/// Whether an `Upgrade` value names WebSocket, in any case.
///
/// In a request the field is a list of protocols (RFC 9110 §7.8), and a handshake only has to
/// include the keyword (RFC 6455 §4.1 item 5 and §4.2.1 item 3). In a 101 the value has to be the
/// keyword alone; the caller has compared it with an element of the request's list, so it has no
/// comma here.
pub(crate) fn is_websocket(upgrade: &[u8]) -> bool {
    has_element(upgrade, b"websocket")
}

/// Whether the only value of a field passes; `None` if the field is absent. A repeated field fails.
fn sole(fields: &impl Fields, name: &str, passes: impl Fn(&[u8]) -> bool) -> Option<bool> {
    let mut result = None;
    fields.any(name, &mut |value| {
        result = Some(result.is_none() && passes(value));
        false
    });
    result
}

/// Whether `key` is 16 bytes in base64 (RFC 6455 §4.1 item 7).
pub(crate) fn valid_key(key: &[u8]) -> bool {
    let mut bytes = [0; 18];
    key.len() == KEY_LEN && BASE64.decode_slice(key, &mut bytes) == Ok(16)
}

/// The key of a handshake that the proxy begins itself, from 16 random bytes.
pub(crate) fn key_of(nonce: u128) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    // 16 bytes are 24 characters, padding included.
    let encoded = BASE64.encode_slice(nonce.to_be_bytes(), &mut key);
    debug_assert_eq!(encoded, Ok(KEY_LEN));
    key
}

/// The answer to the key of a request.
pub(crate) fn accept_for<F: Fields>(request: &Request<'_, F>) -> Option<String> {
    let mut answer = None;
    request.fields.any(KEY, &mut |key| {
        answer = Some(String::from_utf8_lossy(&accept_of(key)).into_owned());
        true
    });
    answer
}

/// Whether `accept` is the answer to `key`.
pub(crate) fn accepts(key: &[u8], accept: &[u8]) -> bool {
    accept == accept_of(key)
}

/// The answer to a key: the base64 of SHA-1(`key` + [`GUID`]) (RFC 6455 §4.2.2 item 5.4).
pub(crate) fn accept_of(key: &[u8]) -> [u8; ACCEPT_LEN] {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    let mut accept = [0; ACCEPT_LEN];
    // 20 bytes are 28 characters, padding included.
    let encoded = BASE64.encode_slice(context.finish(), &mut accept);
    debug_assert_eq!(encoded, Ok(ACCEPT_LEN));
    accept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn websocket_may_be_one_of_several_protocols() {
        for upgrade in [
            "websocket",
            "WebSocket",
            "foo/2, websocket",
            "websocket,foo",
        ] {
            assert!(is_websocket(upgrade.as_bytes()), "{upgrade}");
        }
        for upgrade in ["", "foo", "websocket/13", "websockets", "web socket"] {
            assert!(!is_websocket(upgrade.as_bytes()), "{upgrade}");
        }
    }

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

    #[test]
    fn a_key_of_our_own_is_valid() {
        assert_eq!(key_of(0), *b"AAAAAAAAAAAAAAAAAAAAAA==");
        let sample = key_of(u128::from_be_bytes(*b"the sample nonce"));
        assert_eq!(sample, *b"dGhlIHNhbXBsZSBub25jZQ==");
        assert!(valid_key(&key_of(u128::MAX)));
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
