//! The status of a gRPC call, which ends a response over HTTP 200.

use http::HeaderMap;

use crate::http1::FieldId;
use crate::proxy::headers::Fields;

/// `grpc-status` UNKNOWN: also the status of a call that ended without one.
const UNKNOWN: u8 = 2;

/// The `grpc-status` in a response head: `None` if the response isn't gRPC, `Some(None)` if it is
/// and the status is still to come in the trailers.
pub(super) fn status_in_head(fields: &impl Fields) -> Option<Option<u8>> {
    is_grpc(fields).then(|| fields.first(FieldId::GrpcStatus).map(status_of))
}

/// The final status of a gRPC call. Trailers take precedence over the head; `in_head` is the result
/// of [`status_in_head`].
pub(super) fn outcome(in_head: Option<Option<u8>>, trailers: Option<&HeaderMap>) -> Option<u8> {
    let in_head = in_head?;
    let in_trailers = trailers.and_then(|t| t.get("grpc-status"));
    let status = in_trailers.map(|code| status_of(code.as_bytes()));
    Some(status.or(in_head).unwrap_or(UNKNOWN))
}

/// Whether the content type is gRPC.
pub(crate) fn is_grpc(fields: &impl Fields) -> bool {
    let content = fields.first(FieldId::ContentType);
    content.is_some_and(|t| t.starts_with(b"application/grpc"))
}

fn status_of(text: &[u8]) -> u8 {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(UNKNOWN)
}
