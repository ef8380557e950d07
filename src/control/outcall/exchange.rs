//! One request and its response on an open connection, over HTTP/1.1 or HTTP/2.

use std::error::Error;
use std::future::{poll_fn, ready};
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Largest response body that is read, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;

/// A response.
#[derive(Debug)]
pub(super) struct OutcallResponse {
    pub status: u16,
    pub headers: HeaderMap,
    /// The body. Empty if only the head was asked for.
    pub body: Bytes,
}

/// The part of a response that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponsePart {
    /// The head. The connection is closed before the body.
    Head,
    /// The whole response, up to [`MAX_BODY_BYTES`] of body.
    Whole,
}

/// Why there is no response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TransferError {
    /// The connection failed before the response was complete, or the peer doesn't speak the protocol.
    Broken(String),
    /// The response body is larger than [`MAX_BODY_BYTES`].
    TooLarge,
}

/// Writes an error with its sources, leaving out those whose text it already contains.
pub(super) fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn broken(error: impl Error + 'static) -> TransferError {
    TransferError::Broken(with_sources(&error))
}

/// Sends a request with a path as its target over HTTP/1.1 and reads the response.
///
/// # Errors
/// See [`TransferError`].
pub(super) async fn over_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    part: ResponsePart,
) -> Result<OutcallResponse, TransferError> {
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(broken)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        read_http1(response, part).await
    };
    let connection = async { connection.await.map_err(broken) };
    drive(answer, connection).await
}

async fn read_http1(
    response: Response<Incoming>,
    part: ResponsePart,
) -> Result<OutcallResponse, TransferError> {
    let (head, body) = response.into_parts();
    let body = match part {
        ResponsePart::Head => Bytes::new(),
        ResponsePart::Whole => match Limited::new(body, MAX_BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(TransferError::TooLarge),
            Err(error) => return Err(TransferError::Broken(with_sources(&*error))),
        },
    };
    Ok(OutcallResponse {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    })
}

/// Sends a request with an absolute URI over HTTP/2 and reads the response.
///
/// # Errors
/// See [`TransferError`].
pub(super) async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    part: ResponsePart,
) -> Result<OutcallResponse, TransferError> {
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    let answer = async move {
        let (head, body) = request.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(broken)?;
        let sent = sender.send_request(Request::from_parts(head, ()), body.is_empty());
        let (response, mut upload) = sent.map_err(broken)?;
        if !body.is_empty() {
            // Bytes beyond the peer's window are buffered, and sent as the window opens.
            upload.send_data(body, true).map_err(broken)?;
        }
        read_http2(response.await.map_err(broken)?, part).await
    };
    let connection = async { connection.await.map_err(broken) };
    drive(answer, connection).await
}

async fn read_http2(
    response: Response<h2::RecvStream>,
    part: ResponsePart,
) -> Result<OutcallResponse, TransferError> {
    let (head, mut stream) = response.into_parts();
    let mut body = BytesMut::new();
    while part == ResponsePart::Whole
        && let Some(piece) = stream.data().await
    {
        let piece = piece.map_err(broken)?;
        if body.len() + piece.len() > MAX_BODY_BYTES {
            return Err(TransferError::TooLarge);
        }
        // An error here means that the stream has ended, which the next read reports.
        let _ = stream.flow_control().release_capacity(piece.len());
        body.extend_from_slice(&piece);
    }
    Ok(OutcallResponse {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.freeze(),
    })
}

/// Polls the connection for as long as the response takes.
async fn drive(
    answer: impl Future<Output = Result<OutcallResponse, TransferError>>,
    connection: impl Future<Output = Result<(), TransferError>>,
) -> Result<OutcallResponse, TransferError> {
    let mut answer = pin!(answer);
    let ended = tokio::select! {
        biased;
        answer = &mut answer => return answer,
        ended = connection => ended,
    };
    // The poll that ended the connection may have completed the response too. After an error nothing more arrives, and waiting
    // for it could last forever.
    match ended {
        Ok(()) => answer.await,
        Err(error) => tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = ready(()) => Err(error),
        },
    }
}
