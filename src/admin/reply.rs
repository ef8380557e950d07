//! Builds the responses of the admin API, and reads request bodies within limits.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::stream::StreamBody;

/// The error of a request body.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A response.
pub(crate) type AdminResponse = Response<AdminBody>;

/// The body of a response.
pub(crate) enum AdminBody {
    /// The whole body.
    Whole(Full<Bytes>),
    /// Pieces as they become available.
    Stream(StreamBody),
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream(body) => body.size_hint(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }
}

/// Time limit for reading a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a request body of at most `limit` bytes.
///
/// # Errors
/// The response to send instead: the body is too large, was cut off, or did not arrive in time.
pub(super) async fn read_body<B: Body<Error: Into<BodyError>>>(
    body: B,
    limit: usize,
) -> Result<Bytes, AdminResponse> {
    let read = Limited::new(body, limit).collect();
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(cause)) => Err(error(
            StatusCode::BAD_REQUEST,
            &format!("can't read the body: {cause}"),
        )),
        Err(_) => Err(error(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time",
        )),
    }
}

/// Parses a JSON object. (`serde_json` alone takes an array of the values as well.)
///
/// # Errors
/// A message that says what is wrong and what was expected.
pub(super) fn parsed<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, String> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(format!("not an object: expected {expected}"));
    }
    serde_json::from_slice(body).map_err(|invalid| format!("{invalid}: expected {expected}"))
}

/// Plain text.
pub(super) fn text(body: impl Into<Bytes>) -> AdminResponse {
    with(StatusCode::OK, "text/plain; charset=utf-8", body.into())
}

/// A response of this media type that has no length.
pub(super) fn stream(kind: &'static str, body: StreamBody) -> AdminResponse {
    with_body(StatusCode::OK, kind, AdminBody::Stream(body))
}

/// A JSON document.
pub(super) fn document(status: StatusCode, body: &impl Serialize) -> AdminResponse {
    match serde_json::to_vec_pretty(body) {
        Ok(mut json) => {
            json.push(b'\n');
            with(status, "application/json", json.into())
        }
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// An error: a JSON object with the key `error`.
pub(super) fn error(status: StatusCode, message: &str) -> AdminResponse {
    let json = json!({ "error": message }).to_string() + "\n";
    with(status, "application/json", json.into())
}

/// A response with this body, which caches must not store.
pub(super) fn with(status: StatusCode, kind: &'static str, body: Bytes) -> AdminResponse {
    with_body(status, kind, AdminBody::Whole(Full::new(body)))
}

fn with_body(status: StatusCode, kind: &'static str, body: AdminBody) -> AdminResponse {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
