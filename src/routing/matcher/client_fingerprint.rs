//! `tls.client.fingerprint`: the SHA-256 of the client's certificate. A client without a certificate has no value.

use super::super::RequestView;
use super::attribute::Attribute;

pub(super) struct ClientFingerprint;

impl Attribute for ClientFingerprint {
    const LOOKUP_COST: usize = 20;

    fn any_value(&self, request: &impl RequestView, mut see: impl FnMut(&[u8]) -> bool) -> bool {
        let certificate = request.certificate();
        let value = certificate.map(|certificate| certificate.fingerprint.as_bytes());
        value.is_some_and(|value| !value.is_empty() && see(value))
    }
}
