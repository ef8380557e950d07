//! `tls.client.san`: the subject alternative names of the client's certificate, each with its type, such as `DNS:shop.test`.

use super::super::RequestView;
use super::attribute::Attribute;

pub(super) struct ClientSan;

impl Attribute for ClientSan {
    const LOOKUP_COST: usize = 40;

    fn any_value(&self, request: &impl RequestView, mut see: impl FnMut(&[u8]) -> bool) -> bool {
        let names = request
            .certificate()
            .map_or(&[][..], |certificate| &certificate.san);
        names.iter().any(|name| see(name.as_bytes()))
    }
}
