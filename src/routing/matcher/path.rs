//! `path`: the normalised path, without the query.

use super::super::RequestView;
use super::attribute::Attribute;

pub(super) struct Path;

impl Attribute for Path {
    const LOOKUP_COST: usize = 10;

    fn any_value(&self, request: &impl RequestView, mut see: impl FnMut(&[u8]) -> bool) -> bool {
        see(request.path())
    }
}
