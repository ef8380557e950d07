//! The running proxy, as a command sees it: its admin API.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::fault::CommandError;
use super::proxy_address::{AdminAddress, ProxyAddress};
use crate::admin::status::ProxyStatus;

/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Largest answer that is read.
const LARGEST: usize = 64 << 20;

/// What helps where the token is missing.
const WITHOUT_TOKEN: &str = "give the token with --token-file FILE or in CUTOVER_TOKEN, or run this on the proxy's own machine, where the control socket (-c FILE) needs none";

/// What helps where a socket can't be connected to.
const DENIED: &str =
    "only the proxy's user and root may connect there: run this command as one of them";

/// A proxy that answers.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    address: AdminAddress,
    /// For changes over TCP, and for reads where other machines reach the listener.
    token: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// Nobody is there.
    Nobody(CommandError),
    /// Somebody is there, but this went wrong.
    Trouble(CommandError),
}

impl From<Silence> for CommandError {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Nobody(fault) | Silence::Trouble(fault) => fault,
        }
    }
}

impl Proxy {
    /// The first of the place's addresses at which a proxy answers, with what it says of itself.
    ///
    /// # Errors
    /// Nobody answers, or somebody who is no proxy of this kind.
    pub(super) async fn find(place: &ProxyAddress) -> Result<(Self, ProxyStatus), Silence> {
        let addresses = place.addresses().map_err(Silence::Trouble)?;
        let token = place.token().map_err(Silence::Trouble)?;
        let mut nobody = CommandError::new("no proxy answers");
        for address in addresses {
            let proxy = Self {
                address,
                token: token.clone(),
            };
            match proxy.status().await {
                Ok(status) => return Ok((proxy, status)),
                Err(Silence::Nobody(fault)) => {
                    nobody = fault
                        .detail
                        .into_iter()
                        .fold(nobody.with(fault.message), CommandError::with);
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let hint = "start one with `cutover run`, or say where it is with --admin";
        Err(Silence::Nobody(nobody.with(hint)))
    }

    /// At this address, whether it answers or not.
    pub(super) fn at(address: AdminAddress) -> Self {
        Self {
            address,
            token: None,
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub(super) async fn status(&self) -> Result<ProxyStatus, Silence> {
        self.get("/api/v1/status").await
    }

    /// A document of the API.
    ///
    /// # Errors
    /// Nobody answers; the answer is an error, no such document, or too late.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Silence> {
        self.document(path, None, PATIENCE).await
    }

    /// What comes of telling it this.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Silence> {
        self.post_within(path, body, PATIENCE).await
    }

    /// As [`Self::post`], for what takes longer to be done.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub(crate) async fn post_within<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, Silence> {
        let json = serde_json::to_vec(body)
            .map_err(|error| Silence::Trouble(CommandError::new(error.to_string())))?;
        self.document(path, Some(json.into()), patience).await
    }

    async fn document<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<Bytes>,
        patience: Duration,
    ) -> Result<T, Silence> {
        let trouble = |what: String| Silence::Trouble(CommandError::new(what));
        let changes = body.is_some();
        let (status, body) = match timeout(patience, self.ask(path, body)).await {
            Ok(answer) => answer?,
            Err(_) => {
                let late = format!("{} does not answer within {patience:?}", self.address);
                return Err(trouble(late));
            }
        };
        if status != StatusCode::OK {
            let error = serde_json::from_slice::<serde_json::Value>(&body).ok();
            let error = error.as_ref().and_then(|e| e["error"].as_str());
            let said = error.map_or_else(|| status.to_string(), str::to_owned);
            // 403 also for a foreign Host, whose message has its own remedy.
            let refused = match status {
                StatusCode::UNAUTHORIZED => true,
                StatusCode::FORBIDDEN => changes,
                _ => false,
            };
            return Err(Silence::Trouble(match refused {
                true => CommandError::new(said).with(WITHOUT_TOKEN),
                false => CommandError::new(said),
            }));
        }
        serde_json::from_slice(&body).map_err(|error| {
            let address = &self.address;
            trouble(format!(
                "the answer of {address} is not understood\n{error}"
            ))
        })
    }

    async fn ask(&self, path: &str, body: Option<Bytes>) -> Result<(StatusCode, Bytes), Silence> {
        let nobody = |error: std::io::Error| {
            let fault = CommandError::new(format!("{}: {error}", self.address));
            Silence::Nobody(match error.kind() {
                std::io::ErrorKind::PermissionDenied => fault.with(DENIED),
                _ => fault,
            })
        };
        match &self.address {
            AdminAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(nobody)?;
                exchange(stream, address, path, body, self.token.as_deref()).await
            }
            AdminAddress::Unix(file) => {
                let stream = UnixStream::connect(file).await.map_err(nobody)?;
                exchange(stream, "localhost", path, body, None).await
            }
        }
        .map_err(|error| {
            let address = &self.address;
            Silence::Trouble(CommandError::new(format!(
                "{address} answers no HTTP\n{error}"
            )))
        })
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
    body: Option<Bytes>,
    token: Option<&str>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let (request, body) = match body {
        None => (Request::get(path), Full::default()),
        Some(body) => (Request::post(path), body.into()),
    };
    let mut request = request.header("host", host);
    // Reads need it too where other machines reach the listener.
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(body)?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
        Ok((head.status, body))
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    // The connection moves the answer; it may end before the answer has been taken.
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}
