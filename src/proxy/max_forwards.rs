//! Requests that may go no further (RFC 9110 §7.6.2).

use super::error::LocalReply;
use super::headers::{Fields, Request};
use crate::http1::{Method, Reject};

/// The proxy's own answer to a request whose `Max-Forwards` is 0.
#[inline]
pub(super) fn final_answer<F: Fields>(request: &Request<'_, F>) -> Option<LocalReply> {
    if request.hops_left()? > 0 {
        return None;
    }
    let status = match request.method {
        Method::Options => 200,
        // To echo a request back tells scripts what the browser keeps from them.
        _ => 405,
    };
    Some(LocalReply::refuse(Reject {
        status,
        reason: "max-forwards",
    }))
}
