//! `cookie.NAME`: the values of all cookies of that name, compared as sent.

use super::super::{RequestView, extract};
use super::attribute::Attribute;

pub(super) struct Cookie<'a>(pub(super) &'a str);

impl Attribute for Cookie<'_> {
    const LOOKUP_COST: usize = 400;

    fn any_value(&self, request: &impl RequestView, see: impl FnMut(&[u8]) -> bool) -> bool {
        extract::any_cookie(request, self.0.as_bytes(), see)
    }
}
