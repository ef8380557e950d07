//! `tls.client.subject`: the subject of the client's certificate. A client without a certificate, or with an empty subject, has no value.

use super::super::RequestView;
use super::attribute::Attribute;

pub(super) struct ClientSubject;

impl Attribute for ClientSubject {
    const LOOKUP_COST: usize = 20;

    fn any_value(&self, request: &impl RequestView, mut see: impl FnMut(&[u8]) -> bool) -> bool {
        let certificate = request.certificate();
        let value = certificate.map(|certificate| certificate.subject.as_bytes());
        value.is_some_and(|value| !value.is_empty() && see(value))
    }
}
