//! `query.NAME`: the values of all query parameters of that name. Each is compared as sent, and also decoded if it
//! contains an escape.

use super::super::{RequestView, extract};
use super::attribute::Attribute;

pub(super) struct Query<'a>(pub(super) &'a str);

impl Attribute for Query<'_> {
    const LOOKUP_COST: usize = 200;

    fn any_value(&self, request: &impl RequestView, mut see: impl FnMut(&[u8]) -> bool) -> bool {
        extract::any_parameter(request, self.0.as_bytes(), |raw| {
            see(raw) || (extract::is_encoded(raw) && see(&extract::decoded(raw)))
        })
    }
}
