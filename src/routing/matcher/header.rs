//! `header.NAME`: the values of all fields of that name. A field line is one value, also where it holds a list.

use super::super::RequestView;
use super::attribute::Attribute;

pub(super) struct Header<'a>(pub(super) &'a str);

impl Attribute for Header<'_> {
    const LOOKUP_COST: usize = 150;

    fn any_value(&self, request: &impl RequestView, mut see: impl FnMut(&[u8]) -> bool) -> bool {
        request.any_field(self.0, &mut see)
    }
}
