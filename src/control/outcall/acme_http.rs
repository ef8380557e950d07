//! The HTTP client for ACME, built on the client of all calls to the outside, with a private authority's certificate if there is
//! one.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tokio::task::JoinSet;

use super::client::{self, OutcallError, OutcallRequest};
use super::exchange::OutcallResponse;
use super::url::OutcallUrl;

/// Time limit of one request.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends the requests of an ACME client.
#[derive(Clone)]
pub(crate) struct AcmeHttp {
    /// The configuration of TLS with a private authority; `None` stands for the system's.
    tls: Option<Arc<ClientConfig>>,
    /// The pause that the last refusal asked for.
    pause: Arc<Mutex<Option<Duration>>>,
}

impl AcmeHttp {
    /// Creates a client. `ca` is the file of a private authority.
    ///
    /// # Errors
    /// The file can't be read, or has no certificate. The message names it.
    pub(crate) fn new(ca: Option<&Path>) -> Result<Self, String> {
        Ok(Self {
            tls: ca.map(private).transpose()?,
            pause: Arc::default(),
        })
    }

    /// Takes the pause that the last refusal asked for (`Retry-After` of a 429 or 503).
    pub(crate) fn take_pause(&self) -> Option<Duration> {
        // The lock is not poisoned: nothing panics while it is held.
        self.pause.lock().expect("pause lock").take()
    }
}

fn private(file: &Path) -> Result<Arc<ClientConfig>, String> {
    let shown = file.display();
    let fault = |what: String| format!("acme.ca {shown}: {what}");
    let certificates = CertificateDer::pem_file_iter(file).map_err(|e| fault(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|e| fault(e.to_string()))?;
        roots.add(certificate).map_err(|e| fault(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(fault("it holds no certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fault(e.to_string()))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        // The client of the protocol wants a future that any thread could poll, and a connection stays on its own.
        let mut sent = JoinSet::new();
        sent.spawn_local(self.clone().send(request));
        Box::pin(async move {
            match sent.join_next().await {
                Some(Ok(answered)) => answered,
                Some(Err(ended)) => Err(Error::Other(Box::new(ended))),
                None => Err(Error::Str("the request was lost")),
            }
        })
    }
}

impl AcmeHttp {
    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (parts, body) = request.into_parts();
        let url = OutcallUrl::parse(&parts.uri.to_string()).map_err(Error::Str)?;
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let request = OutcallRequest {
            method: parts.method,
            url,
            headers: parts.headers,
            body,
            limit: LIMIT,
        };
        let response = self
            .exchange(request)
            .await
            .map_err(|e| Error::Other(Box::new(e)))?;
        if matches!(response.status, 429 | 503) {
            // The lock is not poisoned; see `take_pause`.
            *self.pause.lock().expect("pause lock") = retry_after(&response.headers);
        }
        let mut built = http::Response::builder().status(response.status);
        if let Some(headers) = built.headers_mut() {
            *headers = response.headers;
        }
        Ok(built.body(Full::new(response.body))?.into())
    }

    async fn exchange(&self, request: OutcallRequest) -> Result<OutcallResponse, OutcallError> {
        match &self.tls {
            Some(tls) => client::send_with(request, Some(tls.clone())).await,
            None => client::send(request).await,
        }
    }

    /// Gets a JSON document, and the time after which it may be requested again. `None` if there is none.
    pub(crate) async fn get_json(&self, url: &str) -> Option<(Value, Option<Duration>)> {
        let request = OutcallRequest {
            method: Method::GET,
            url: OutcallUrl::parse(url).ok()?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            limit: LIMIT,
        };
        let response = self.exchange(request).await.ok()?;
        let document = serde_json::from_slice(&response.body).ok()?;
        (response.status == 200).then(|| (document, retry_after(&response.headers)))
    }
}

/// The pause that `Retry-After` asks for, in seconds or as a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(SystemTime::now()).ok()
        }
    }
}
