//! `method`: the request method, which is case-sensitive (RFC 9110 section 9.1).

use super::super::RequestView;
use super::attribute::Attribute;

pub(super) struct Method;

impl Attribute for Method {
    const LOOKUP_COST: usize = 5;

    fn any_value(&self, request: &impl RequestView, mut see: impl FnMut(&[u8]) -> bool) -> bool {
        see(request.method())
    }
}
