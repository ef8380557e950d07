//! Requests whose `Max-Forwards` is used up (RFC 9110 §7.6.2).

use super::error::LocalReply;
use super::headers::{Fields, Request};
use crate::http1::{Method, Reject};
use crate::reason::Reason;

/// The local reply to an OPTIONS or TRACE request whose `Max-Forwards` is 0, which must not be
/// forwarded.
#[inline]
pub(super) fn final_answer<F: Fields>(request: &Request<'_, F>) -> Option<LocalReply> {
    if request.hops_left()? > 0 {
        return None;
    }
    let status = match request.method {
        Method::Options => 200,
        // TRACE would echo the request, which shows scripts the cookies and credentials that the
        // browser hides from them (cross-site tracing).
        _ => 405,
    };
    Some(LocalReply::refuse(Reject {
        status,
        reason: Reason::MaxForwards,
    }))
}
