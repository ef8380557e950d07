//! Opens connections to endpoints: TCP, TLS over TCP with ALPN, and Unix sockets.
//!
//! The addresses of an endpoint are tried one after the other, each for its part of the time limit. The reason for a failure
//! distinguishes what the peer did from what this process lacks, because only the former counts against the endpoint.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::{Endpoint, addresses};
use crate::config::spec::{EndpointAddress, Scheme};
use crate::net::Stream;
use crate::net::keepalive::keep_alive;
use crate::telemetry::record::Reason;

/// An open connection and the protocol that it speaks.
#[derive(Debug)]
pub(crate) struct OpenedConnection {
    /// The byte stream, inside TLS if the scheme is `https`.
    pub stream: Stream,
    /// `true`: HTTP/2, by ALPN or by prior knowledge. `false`: HTTP/1.1.
    pub h2: bool,
}

/// Why a connection could not be opened.
#[derive(Debug)]
pub enum ConnectError {
    /// The time limit passed.
    Timeout,
    /// The name has not been resolved to an address yet.
    Unresolved,
    /// The system or the peer refused, or TLS failed.
    Io(io::Error),
}

impl ConnectError {
    /// The reason that `x-cutover-reason`, logs and metrics give.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout => Reason::ConnectTimeout,
            Self::Unresolved => Reason::UnresolvedName,
            _ if self.is_local() => Reason::NoDescriptors,
            Self::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
            Self::Io(e) if e.kind() == io::ErrorKind::InvalidData => Reason::UpstreamTls,
            Self::Io(_) => Reason::ConnectFailed,
        }
    }

    /// Whether this process is to blame and not the peer: it is out of descriptors, local ports or socket memory.
    pub fn is_local(&self) -> bool {
        let Self::Io(error) = self else { return false };
        let code = error.raw_os_error().map(Errno::from_raw_os_error);
        matches!(
            code,
            Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM)
        )
    }

    /// A copy for another request that waited for the same connection. `io::Error` isn't `Clone`; the copy has the same code,
    /// or else the same kind and text.
    pub(super) fn duplicate(&self) -> Self {
        let io = |error: &io::Error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        match self {
            Self::Timeout => Self::Timeout,
            Self::Unresolved => Self::Unresolved,
            Self::Io(error) => Self::Io(io(error)),
        }
    }
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout => f.write_str("timeouts.connect passed"),
            Self::Unresolved => f.write_str("the name has no address"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            _ => None,
        }
    }
}

/// Opens a connection to `endpoint` within `limit`, including TLS.
///
/// # Errors
/// See [`ConnectError`]. In no case has the application received anything, so that another try is safe.
pub(crate) async fn open(
    endpoint: &Endpoint,
    limit: Duration,
) -> Result<OpenedConnection, ConnectError> {
    dial(endpoint, &CLIENT, limit).await
}

/// Like [`open`], but doesn't offer HTTP/2 over TLS.
///
/// # Errors
/// See [`ConnectError`].
pub(crate) async fn open_http1(
    endpoint: &Endpoint,
    limit: Duration,
) -> Result<OpenedConnection, ConnectError> {
    dial(endpoint, &CLIENT_HTTP1, limit).await
}

type Tls = LazyLock<Arc<ClientConfig>>;

/// Tries the addresses in turn, each for its part of the time. If all fail the last error is returned.
async fn dial(
    endpoint: &Endpoint,
    tls: &Tls,
    limit: Duration,
) -> Result<OpenedConnection, ConnectError> {
    if let EndpointAddress::Unix(path) = &endpoint.spec.address {
        return within(limit, dial_unix(endpoint, path)).await;
    }
    let start = Instant::now();
    let addresses = endpoint.addresses();
    let mut untried = addresses.all().len();
    let mut failure = ConnectError::Unresolved;
    for (index, address) in addresses.order() {
        let part = addresses::part(limit.saturating_sub(start.elapsed()), untried);
        untried -= 1;
        match within(part, dial_one(endpoint, address, tls)).await {
            Ok(opened) => {
                addresses.note(index, true);
                return Ok(opened);
            }
            Err(error) => {
                // A shortage in this process says nothing about the address.
                if !error.is_local() {
                    addresses.note(index, false);
                }
                failure = error;
            }
        }
    }
    if failure.is_local() {
        SHORTAGE.set(true);
    }
    Err(failure)
}

async fn within(
    limit: Duration,
    dialing: impl Future<Output = Result<OpenedConnection, ConnectError>>,
) -> Result<OpenedConnection, ConnectError> {
    match tokio::time::timeout(limit, dialing).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout),
    }
}

async fn dial_unix(endpoint: &Endpoint, path: &Path) -> Result<OpenedConnection, ConnectError> {
    let stream = UnixStream::connect(path).await.map_err(ConnectError::Io)?;
    Ok(OpenedConnection {
        stream: Stream::Unix(stream),
        h2: endpoint.is_h2c(),
    })
}

async fn dial_one(
    endpoint: &Endpoint,
    address: SocketAddr,
    tls: &Tls,
) -> Result<OpenedConnection, ConnectError> {
    let tcp = TcpStream::connect(address)
        .await
        .map_err(ConnectError::Io)?;
    tcp.set_nodelay(true).map_err(ConnectError::Io)?;
    keep_alive(&tcp, endpoint.pause()).map_err(ConnectError::Io)?;
    if endpoint.spec.scheme != Scheme::Https {
        return Ok(OpenedConnection {
            stream: Stream::Tcp(tcp),
            h2: endpoint.is_h2c(),
        });
    }
    let name = server_name(&endpoint.spec.address)?;
    let tls = TlsConnector::from(Arc::clone(tls))
        .connect(name, tcp)
        .await
        .map_err(ConnectError::Io)?;
    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(OpenedConnection {
        stream: Stream::ClientTls(Box::new(tls)),
        h2,
    })
}

thread_local! {
    /// Whether a connection has failed for a shortage in this process since the last [`take_shortage`].
    static SHORTAGE: Cell<bool> = const { Cell::new(false) };
}

/// Whether a connection of this thread has failed since the last call because the process is out of descriptors, ports or
/// memory. The worker then closes idle connections.
pub(crate) fn take_shortage() -> bool {
    SHORTAGE.take()
}

fn server_name(address: &EndpointAddress) -> Result<ServerName<'static>, ConnectError> {
    match address {
        EndpointAddress::Ip(address) => Ok(ServerName::IpAddress(address.ip().into())),
        EndpointAddress::Name(name, _) => ServerName::try_from(name.clone())
            .map_err(|e| ConnectError::Io(io::Error::new(io::ErrorKind::InvalidInput, e))),
        EndpointAddress::Unix(path) => Err(ConnectError::Io(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("TLS over {} has no server name", path.display()),
        ))),
    }
}

/// TLS to endpoints: TLS 1.2 and 1.3, the system's root certificates, ALPN `h2` and `http/1.1`. The environment variables
/// `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the roots, as in OpenSSL. Built on first use.
static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a root certificate of this machine could not be read");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::error!(
            "this machine has no root certificates: no https:// endpoint can be verified; \
             install ca-certificates or set SSL_CERT_FILE"
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        // aws-lc-rs implements both versions.
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
});

/// Returns the configuration of TLS for clients that speak HTTP/1.1 only. The first call of the process reads the root
/// certificates from disk.
pub(crate) fn http1_tls() -> Arc<ClientConfig> {
    Arc::clone(&CLIENT_HTTP1)
}

/// The same with only `http/1.1` in ALPN.
static CLIENT_HTTP1: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut config = ClientConfig::clone(&CLIENT);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
});

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
