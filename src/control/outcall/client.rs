//! A small HTTP client: one request on a new connection, `http` or `https`, with a time limit and a bounded response.
//!
//! It follows no redirects: a peer's answer must not determine the target of a hook or of a secret URL. It uses no proxy.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::Full;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::exchange::{self, MAX_BODY_BYTES, OutcallResponse, ResponsePart, TransferError};
use super::url::OutcallUrl;
use crate::control::first_address::first_opened;
use crate::net::keepalive::keep_alive;
use crate::net::{Stream, StreamSocket};
use crate::upstream::resolve::record::LookupFailure;
use crate::upstream::resolve::resolver::addresses_of_host;
use crate::upstream::tls;

/// Time to resolve the name and to open the connection, TLS included, unless the time limit of the call is shorter.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

const AGENT: &str = concat!("cutover/", env!("CARGO_PKG_VERSION"));

/// A request to a URL.
pub(super) struct OutcallRequest {
    pub method: Method,
    pub url: OutcallUrl,
    /// Fields beside `host`, `user-agent`, `connection` and the URL's `authorization`. A field given here replaces one of these.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Time from the resolution of the name to the last byte of the response.
    pub limit: Duration,
}

/// Why a call has no response. `Display` names the peer as `host:port`, and no other part of the URL.
#[derive(Debug)]
pub(super) struct OutcallError {
    peer: String,
    cause: OutcallCause,
}

#[derive(Debug)]
enum OutcallCause {
    Resolve(LookupFailure),
    Connect(io::Error),
    ConnectTimeout(Duration),
    Tls(io::Error),
    Timeout(Duration),
    Transfer(TransferError),
    Request(http::Error),
}

impl OutcallError {
    /// Whether another attempt may help. False if the request is impossible or its response too large.
    pub(super) fn is_transient(&self) -> bool {
        !matches!(
            self.cause,
            OutcallCause::Request(_) | OutcallCause::Transfer(TransferError::TooLarge)
        )
    }
}

impl fmt::Display for OutcallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.peer)?;
        match &self.cause {
            OutcallCause::Resolve(error) => write!(f, "the name can't be resolved: {error}"),
            OutcallCause::Connect(error) => write!(f, "no connection: {error}"),
            OutcallCause::ConnectTimeout(limit) => write!(f, "no connection within {limit:?}"),
            OutcallCause::Tls(error) => write!(f, "TLS handshake failed: {error}"),
            OutcallCause::Timeout(limit) => write!(f, "no complete answer within {limit:?}"),
            OutcallCause::Transfer(TransferError::Broken(why)) => {
                write!(f, "the exchange failed: {why}")
            }
            OutcallCause::Transfer(TransferError::TooLarge) => {
                write!(f, "the answer is larger than {MAX_BODY_BYTES} bytes")
            }
            OutcallCause::Request(error) => write!(f, "the request can't be sent: {error}"),
        }
    }
}

impl std::error::Error for OutcallError {}

/// Sends a request and reads the whole response. A redirect is returned like any other response.
///
/// # Errors
/// See [`OutcallError`].
pub(super) async fn send(request: OutcallRequest) -> Result<OutcallResponse, OutcallError> {
    // Reads the root certificates at the first call of the process, unless a health check has done so.
    let tls = request.url.https.then(tls::http1_tls);
    send_with(request, tls).await
}

/// Like [`send`], with this configuration of TLS.
pub(super) async fn send_with(
    request: OutcallRequest,
    tls: Option<Arc<ClientConfig>>,
) -> Result<OutcallResponse, OutcallError> {
    let (limit, peer) = (request.limit, request.url.to_string());
    let called = async {
        let stream = connect(&request.url, tls, limit).await?;
        let request = head(request).map_err(OutcallCause::Request)?;
        let exchanged = exchange::over_http1(stream, request, ResponsePart::Whole).await;
        exchanged.map_err(OutcallCause::Transfer)
    };
    let result = match timeout(limit, called).await {
        Ok(result) => result,
        Err(_) => Err(OutcallCause::Timeout(limit)),
    };
    result.map_err(|cause| OutcallError { peer, cause })
}

fn head(request: OutcallRequest) -> Result<Request<Full<Bytes>>, http::Error> {
    let url = request.url;
    let mut built = Request::builder()
        .method(request.method)
        .uri(url.target.as_str())
        .body(Full::new(request.body))?;
    let headers = built.headers_mut();
    headers.insert(header::HOST, HeaderValue::try_from(url.authority)?);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Some(basic) = url.basic {
        headers.insert(header::AUTHORIZATION, basic);
    }
    headers.extend(request.headers);
    Ok(built)
}

/// Resolves the host and opens a connection. The addresses are tried in the resolver's order, each for its part of the time.
async fn connect(
    url: &OutcallUrl,
    tls: Option<Arc<ClientConfig>>,
    limit: Duration,
) -> Result<Stream, OutcallCause> {
    let limit = limit.min(CONNECT_LIMIT);
    let deadline = Instant::now() + limit;
    let late = || OutcallCause::ConnectTimeout(limit);
    let found = timeout_at(deadline, addresses_of_host(&url.host, url.port)).await;
    let addresses = found.map_err(|_| late())?.map_err(OutcallCause::Resolve)?;
    let open = async |address| open(url, address, tls.as_ref()).await;
    first_opened(&addresses, deadline, late, open).await
}

async fn open(
    url: &OutcallUrl,
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Stream, OutcallCause> {
    let tcp = StreamSocket::connect(address)
        .await
        .map_err(OutcallCause::Connect)?;
    // A load test behind a hook may take many minutes to answer, and a gateway in between forgets silent connections.
    keep_alive(&tcp, CONNECT_LIMIT).map_err(OutcallCause::Connect)?;
    if !url.https {
        return Ok(Stream::Clear(tcp));
    }
    let unusable = |why: &str| OutcallCause::Tls(io::Error::other(why.to_owned()));
    let tls = tls.ok_or_else(|| unusable("not configured"))?;
    let name = ServerName::try_from(url.host.clone()).map_err(|e| unusable(&e.to_string()))?;
    let connected = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
    let stream = connected.map_err(OutcallCause::Tls)?;
    Ok(Stream::ClientTls(Box::new(stream)))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
