//! A client of the admin API: finds the running proxy and exchanges JSON documents with it.
//!
//! Each request uses a connection of its own. TCP requests carry the admin token; Unix sockets need none. [`lines`] reads responses
//! that have no end.

mod lines;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::error::CommandError;
use super::proxy_address::{AdminAddress, ProxyAddress};
use crate::admin::status::ProxyStatus;
use crate::admin::writes::AUTHOR;
use crate::upstream::resolve::resolver::addresses_of_host;

/// Time limit for a request, from connecting to the last byte of the response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest response body that is read, in bytes.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Hint for a request that was refused for lack of the right token.
const TOKEN_HINT: &str = "pass the token with --token-file FILE or in CUTOVER_TOKEN, or run the command on the proxy's machine, where the control socket (-c FILE) needs none";

/// Hint for a socket whose file mode forbids connecting.
const PERMISSION_HINT: &str =
    "only the proxy's user and root may use this socket: run the command as one of them";

/// The admin API at one address.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    address: AdminAddress,
    /// The token, sent over TCP only. Changes need it, and so do reads on a listener that other machines can reach.
    token: Option<String>,
}

/// Why a request has no usable response.
#[derive(Debug)]
pub(super) enum ProxyError {
    /// The address can't be connected to, so another one may be tried.
    Unreachable(CommandError),
    /// Something listens there, but the request failed.
    Failed(CommandError),
}

impl From<ProxyError> for CommandError {
    fn from(error: ProxyError) -> Self {
        match error {
            ProxyError::Unreachable(fault) | ProxyError::Failed(fault) => fault,
        }
    }
}

impl Proxy {
    /// Tries the possible addresses in order and returns the first proxy that answers, with its status.
    ///
    /// # Errors
    /// No address can be connected to, or the first that can does not answer like a proxy.
    pub(super) async fn find(address: &ProxyAddress) -> Result<(Self, ProxyStatus), ProxyError> {
        let addresses = address.addresses().map_err(ProxyError::Failed)?;
        let token = address.token().map_err(ProxyError::Failed)?;
        let mut unreachable = CommandError::new("no proxy answers");
        for candidate in addresses {
            let proxy = Self {
                address: candidate,
                token: token.clone(),
            };
            match proxy.status().await {
                Ok(status) => return Ok((proxy, status)),
                Err(ProxyError::Unreachable(fault)) => {
                    unreachable = fault
                        .detail
                        .into_iter()
                        .fold(unreachable.with(fault.message), CommandError::with);
                }
                Err(failed) => return Err(failed),
            }
        }
        let hint = "start one with `cutover run`, or give its address with --admin";
        Err(ProxyError::Unreachable(unreachable.with(hint)))
    }

    /// The proxy at an address, without a token. Nothing is sent.
    pub(super) fn at(address: AdminAddress) -> Self {
        Self {
            address,
            token: None,
        }
    }

    /// Fetches the status document.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub(super) async fn status(&self) -> Result<ProxyStatus, ProxyError> {
        self.get("/api/v1/status").await
    }

    /// Fetches a document.
    ///
    /// # Errors
    /// The proxy can't be reached, the response is an error or not the expected document, or the time limit has passed.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ProxyError> {
        self.document(path, None, None, REQUEST_TIMEOUT).await
    }

    /// Posts a document and returns the response.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ProxyError> {
        self.post_within(path, body, REQUEST_TIMEOUT).await
    }

    /// Like [`Self::post`], with a time limit for requests that take longer.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub(crate) async fn post_within<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, ProxyError> {
        let json = serde_json::to_vec(body)
            .map_err(|error| ProxyError::Failed(CommandError::new(error.to_string())))?;
        self.document(path, Some(json.into()), None, limit).await
    }

    /// Like [`Self::post_within`], with the author of the change for the history.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub(super) async fn post_as<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        by: Option<String>,
        limit: Duration,
    ) -> Result<T, ProxyError> {
        let json = serde_json::to_vec(body)
            .map_err(|error| ProxyError::Failed(CommandError::new(error.to_string())))?;
        self.document(path, Some(json.into()), by, limit).await
    }

    async fn document<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<Bytes>,
        by: Option<String>,
        limit: Duration,
    ) -> Result<T, ProxyError> {
        let failed = |what: String| ProxyError::Failed(CommandError::new(what));
        let changes = body.is_some();
        let (status, body) = match timeout(limit, self.ask(path, body, by.as_deref())).await {
            Ok(answer) => answer?,
            Err(_) => {
                let late = format!("no answer from {} within {limit:?}", self.address);
                return Err(failed(late));
            }
        };
        if status != StatusCode::OK {
            return Err(ProxyError::Failed(refusal(status, &body, changes)));
        }
        serde_json::from_slice(&body).map_err(|error| {
            let address = &self.address;
            failed(format!("unexpected answer from {address}\n{error}"))
        })
    }

    async fn ask(
        &self,
        path: &str,
        body: Option<Bytes>,
        by: Option<&str>,
    ) -> Result<(StatusCode, Bytes), ProxyError> {
        let unreachable = |error: io::Error| unreachable(&self.address, &error);
        match &self.address {
            AdminAddress::Tcp(address) => {
                let stream = connect(address).await.map_err(unreachable)?;
                let token = self.token.as_deref();
                exchange(stream, address, (path, body), token, by).await
            }
            AdminAddress::Unix(file) => {
                let stream = UnixStream::connect(file).await.map_err(unreachable)?;
                exchange(stream, "localhost", (path, body), None, by).await
            }
        }
        .map_err(|error| {
            let address = &self.address;
            ProxyError::Failed(CommandError::new(format!(
                "{address} does not speak HTTP\n{error}"
            )))
        })
    }
}

/// Connects to `host:port`.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not an address of HOST:PORT");
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port.parse().map_err(|_| invalid())?;
    let found = addresses_of_host(host.trim_matches(['[', ']']), port).await;
    let addresses = found.map_err(|failure| io::Error::other(failure.to_string()))?;
    TcpStream::connect(&addresses[..]).await
}

/// The error of an address that can't be connected to.
fn unreachable(address: &AdminAddress, error: &io::Error) -> ProxyError {
    let fault = CommandError::new(format!("{address}: {error}"));
    ProxyError::Unreachable(match error.kind() {
        io::ErrorKind::PermissionDenied => fault.with(PERMISSION_HINT),
        _ => fault,
    })
}

/// The error of a response with another status than 200. `needs_token`: over TCP the request is refused without the token.
fn refusal(status: StatusCode, body: &[u8], needs_token: bool) -> CommandError {
    let error = serde_json::from_slice::<serde_json::Value>(body).ok();
    let error = error.as_ref().and_then(|e| e["error"].as_str());
    let message = error.map_or_else(|| status.to_string(), str::to_owned);
    // Other reads are answered 403 only for a foreign Host or Origin, and that message has a hint of its own.
    let is_token_wrong = match status {
        StatusCode::UNAUTHORIZED => true,
        StatusCode::FORBIDDEN => needs_token,
        _ => false,
    };
    match is_token_wrong {
        true => CommandError::new(message).with(TOKEN_HINT),
        false => CommandError::new(message),
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    (path, body): (&str, Option<Bytes>),
    token: Option<&str>,
    by: Option<&str>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let (request, body) = match body {
        None => (Request::get(path), Full::default()),
        Some(body) => (Request::post(path), body.into()),
    };
    let mut request = request.header("host", host);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    // A name that can't be sent is left out.
    if let Some(by) = by.and_then(|by| HeaderValue::from_str(by).ok()) {
        request = request.header(AUTHOR, by);
    }
    let request = request.body(body)?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES)
            .collect()
            .await?
            .to_bytes();
        Ok((head.status, body))
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    // The connection future does the I/O and must be polled along with the response. It may complete first, when the whole
    // response has been read but not yet been taken from its channel.
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}
