//! One health check of an endpoint: the request, and whether the response passes.
//!
//! A check uses a connection of its own, so that it also tests whether the endpoint accepts connections. It runs on the control
//! thread and uses general-purpose HTTP clients, because its speed doesn't matter.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;

use super::connect::{self, ConnectError, OpenedConnection};
use super::endpoint::Endpoint;
use super::tls_failure::explain;
use crate::config::policy::Probe;
use crate::config::spec::Scheme;
use crate::net::Stream;

const AGENT: &str = "cutover-health";
/// `SERVING` of `grpc.health.v1.HealthCheckResponse`.
const SERVING: u8 = 1;
/// Most bytes of a gRPC response that are read. A valid one has seven.
const MAX_RESPONSE: usize = 1024;

/// Why a check failed.
#[derive(Debug)]
pub enum CheckFailure {
    /// The time limit passed.
    Timeout,
    /// The connection could not be opened.
    Connect(ConnectError),
    /// The connection failed before the response was complete.
    Broken(String),
    /// The status was not in 200..=399, or not 200 for gRPC.
    Status(u16),
    /// The gRPC response was not SERVING.
    NotServing(String),
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer in time"),
            Self::Connect(error @ (ConnectError::Io(_) | ConnectError::Tls(_))) => {
                write!(f, "no connection: {error}")
            }
            Self::Connect(error) => write!(f, "no connection: {}", error.reason()),
            Self::Broken(error) => write!(f, "broken: {error}"),
            Self::Status(status) => write!(f, "answered {status}"),
            Self::NotServing(what) => write!(f, "not serving: {what}"),
        }
    }
}

/// A failure with all causes of the error, the root cause last.
fn broken(error: impl Error + 'static) -> CheckFailure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let explained = cause.downcast_ref().and_then(explain);
        let cause_text = explained.unwrap_or_else(|| cause.to_string());
        // Some errors repeat their cause in their own text.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    CheckFailure::Broken(text)
}

/// Checks `endpoint` on a new connection, within `limit`.
///
/// # Errors
/// The reason why the check failed.
pub async fn check(
    endpoint: &Endpoint,
    probe: &Probe,
    limit: Duration,
) -> Result<(), CheckFailure> {
    let asked = async {
        let opened = connect::open(endpoint, limit).await;
        let opened = opened.map_err(CheckFailure::Connect)?;
        match probe {
            Probe::Tcp => Ok(()),
            Probe::Http(path) if opened.h2 => over_h2(endpoint, opened.stream, path).await,
            Probe::Http(path) => over_h1(endpoint, opened.stream, path).await,
            Probe::Grpc(service) => over_grpc(endpoint, opened, service).await,
        }
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(result) => result,
        Err(_) => Err(CheckFailure::Timeout),
    }
}

async fn over_h1(endpoint: &Endpoint, stream: Stream, path: &str) -> Result<(), CheckFailure> {
    let request = Request::get(path)
        .header(http::header::HOST, &*endpoint.authority)
        .header(http::header::USER_AGENT, AGENT)
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(broken)?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = shaken.await.map_err(broken)?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // With `connection: close` the connection may end in the same poll as the response arrives.
        _ = &mut connection => answer.await,
    };
    passes(answer.map_err(broken)?.status())
}

fn passes(status: StatusCode) -> Result<(), CheckFailure> {
    match status.as_u16() {
        200..=399 => Ok(()),
        status => Err(CheckFailure::Status(status)),
    }
}

async fn over_h2(endpoint: &Endpoint, stream: Stream, path: &str) -> Result<(), CheckFailure> {
    let request = Request::get(uri(endpoint, path))
        .header(http::header::USER_AGENT, AGENT)
        .body(())
        .map_err(broken)?;
    let look = async |answer: Response<h2::RecvStream>| passes(answer.status());
    ask_h2(stream, request, None, look).await
}

fn uri(endpoint: &Endpoint, path: &str) -> String {
    let scheme = match endpoint.spec.scheme {
        Scheme::Https => "https",
        Scheme::Http | Scheme::H2c => "http",
    };
    format!("{scheme}://{}{path}", endpoint.authority)
}

/// Calls `grpc.health.v1.Health/Check`. Over a connection without TLS it assumes HTTP/2 by prior knowledge, since gRPC has
/// no other transport.
async fn over_grpc(
    endpoint: &Endpoint,
    opened: OpenedConnection,
    service: &str,
) -> Result<(), CheckFailure> {
    if !opened.h2 && endpoint.spec.scheme == Scheme::Https {
        return Err(CheckFailure::Broken(
            "HTTP/2 was not agreed on by ALPN".into(),
        ));
    }
    let request = Request::post(uri(endpoint, "/grpc.health.v1.Health/Check"))
        .header(http::header::USER_AGENT, AGENT)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(())
        .map_err(broken)?;
    ask_h2(
        opened.stream,
        request,
        Some(health_request(service)),
        async |a| serving(a).await,
    )
    .await
}

/// Encodes `HealthCheckRequest { service }` as a gRPC message: the flag for no compression, the length, and field 1 with a
/// varint length, unless it is empty.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 6);
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

async fn serving(answer: Response<h2::RecvStream>) -> Result<(), CheckFailure> {
    if answer.status() != StatusCode::OK {
        return Err(CheckFailure::Status(answer.status().as_u16()));
    }
    grpc_status(answer.headers())?;
    let mut body = answer.into_body();
    let mut frame = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(broken)?;
        // An error here means that the stream has ended, which the next read reports.
        let _ = body.flow_control().release_capacity(piece.len());
        frame.extend_from_slice(&piece);
        if frame.len() > MAX_RESPONSE {
            return Err(CheckFailure::NotServing(format!(
                "more than {MAX_RESPONSE} bytes"
            )));
        }
    }
    if let Some(trailers) = body.trailers().await.map_err(broken)? {
        grpc_status(&trailers)?;
    }
    match status_of(&frame) {
        Some(SERVING) => Ok(()),
        Some(status) => Err(CheckFailure::NotServing(format!("status {status}"))),
        None => Err(CheckFailure::NotServing("not a HealthCheckResponse".into())),
    }
}

fn grpc_status(fields: &http::HeaderMap) -> Result<(), CheckFailure> {
    match fields.get("grpc-status").map(|s| s.as_bytes()) {
        None | Some(b"0") => Ok(()),
        Some(code) => {
            let code = String::from_utf8_lossy(code);
            Err(CheckFailure::NotServing(format!("grpc-status {code}")))
        }
    }
}

/// Decodes the status of a `HealthCheckResponse`. An absent field is 0, UNKNOWN. `None` if the message is anything else.
fn status_of(frame: &[u8]) -> Option<u8> {
    let (head, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    match (head[0], message) {
        (0, []) if length == 0 => Some(0),
        (0, [0x08, status]) if length == 2 && *status < 0x80 => Some(*status),
        _ => None,
    }
}

/// Sends one request on a new HTTP/2 connection and passes the response to `look` while the connection is still driven.
async fn ask_h2(
    stream: Stream,
    request: Request<()>,
    body: Option<Bytes>,
    look: impl AsyncFnOnce(Response<h2::RecvStream>) -> Result<(), CheckFailure>,
) -> Result<(), CheckFailure> {
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    let ask = async move {
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(broken)?;
        let sent = sender.send_request(request, body.is_none());
        let (answer, mut upload) = sent.map_err(broken)?;
        if let Some(body) = body {
            upload.send_data(body, true).map_err(broken)?;
        }
        look(answer.await.map_err(broken)?).await
    };
    let mut ask = pin!(ask);
    tokio::select! {
        biased;
        result = &mut ask => result,
        ended = connection => match ended {
            Err(error) => Err(broken(error)),
            // The response may have arrived before the connection ended.
            Ok(()) => ask.await,
        },
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
