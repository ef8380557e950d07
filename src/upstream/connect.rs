//! Opens connections to endpoints: TCP, TLS over TCP with ALPN, and Unix sockets.
//!
//! The addresses of an endpoint are tried one after the other, each for its part of the time limit. The reason for a failure
//! tells a fault of the peer from a shortage in this process, because only the former counts against the endpoint.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::tls::{SYSTEM, TlsClient};
use super::tls_failure::explain;
use super::transport::{Transport, TransportId};
use super::{Endpoint, addresses};
use crate::config::spec::{EndpointAddress, ProxyProtocol, Scheme};
use crate::net::keepalive::keep_alive;
use crate::net::proxy_header::{self, ProxySource};
use crate::net::send_queue::limit_unsent;
use crate::net::{Stream, StreamSocket, congestion};
use crate::telemetry::record::Reason;

/// An open connection and the protocol that it speaks.
#[derive(Debug)]
pub struct OpenedConnection {
    /// The byte stream, inside TLS if the scheme is `https`.
    pub stream: Stream,
    /// `true`: HTTP/2, by ALPN or by prior knowledge. `false`: HTTP/1.1.
    pub h2: bool,
    /// Number of the transport that it was opened by.
    pub transport: TransportId,
}

/// Why a connection could not be opened.
#[derive(Debug)]
pub enum ConnectError {
    /// The time limit passed.
    Timeout,
    /// The name has not been resolved to an address yet.
    Unresolved,
    /// The system or the peer refused, or the connection was lost.
    Io(io::Error),
    /// The TLS handshake failed, with an explanation.
    Tls(String),
}

impl ConnectError {
    /// The reason that `x-cutover-reason`, logs and metrics give.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout => Reason::ConnectTimeout,
            Self::Unresolved => Reason::UnresolvedName,
            _ if self.is_local() => Reason::NoDescriptors,
            Self::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
            Self::Tls(_) => Reason::UpstreamTls,
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
            Self::Tls(why) => Self::Tls(why.clone()),
        }
    }
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout => f.write_str("timeouts.connect passed"),
            Self::Unresolved => f.write_str("the name has no address"),
            Self::Io(error) => error.fmt(f),
            Self::Tls(why) => f.write_str(why),
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

/// Opens a connection to `endpoint` within `limit`, including TLS, for the proxy itself: if the endpoint expects a header of the
/// PROXY protocol, it says so.
///
/// # Errors
/// See [`ConnectError`]. In no case has the application received anything, so that another try is safe.
pub async fn open(endpoint: &Endpoint, limit: Duration) -> Result<OpenedConnection, ConnectError> {
    dial(endpoint, limit, Purpose::default()).await
}

/// Like [`open`], for a client. `needs_http1`: HTTP/2 is not offered over TLS.
///
/// # Errors
/// See [`ConnectError`].
pub(crate) async fn open_for(
    endpoint: &Endpoint,
    limit: Duration,
    needs_http1: bool,
    source: &ProxySource<'_>,
) -> Result<OpenedConnection, ConnectError> {
    let purpose = Purpose {
        needs_http1,
        source: Some(source),
    };
    dial(endpoint, limit, purpose).await
}

/// The use that a connection is opened for.
#[derive(Clone, Copy, Default)]
struct Purpose<'a> {
    needs_http1: bool,
    /// The client that the header names to the endpoint; `None` for the proxy itself.
    source: Option<&'a ProxySource<'a>>,
}

impl Purpose<'_> {
    /// The header with which the connection begins; empty if there is none.
    fn header(&self, transport: &Transport) -> Vec<u8> {
        match transport.proxy_protocol {
            None => Vec::new(),
            Some(ProxyProtocol::V1) => proxy_header::v1(self.source),
            Some(ProxyProtocol::V2) => proxy_header::v2(self.source),
        }
    }

    /// The configuration of TLS, by the protocols that are offered. HTTP/2 connections are shared, and therefore not used if the
    /// endpoint is told the client.
    fn offer<'c>(&self, client: &'c TlsClient, transport: &Transport) -> &'c Arc<ClientConfig> {
        let is_exclusive = transport.id().is_exclusive() && self.source.is_some();
        match self.needs_http1 || is_exclusive {
            true => &client.http1,
            false => &client.any,
        }
    }
}

/// Tries the addresses in turn, each for its part of the time. If all fail the last error is returned.
async fn dial(
    endpoint: &Endpoint,
    limit: Duration,
    purpose: Purpose<'_>,
) -> Result<OpenedConnection, ConnectError> {
    let transport = endpoint.version.transport.current();
    if let EndpointAddress::Unix(path) = &endpoint.spec.address {
        return within(limit, dial_unix(endpoint, path, (&transport, purpose))).await;
    }
    let start = Instant::now();
    let addresses = endpoint.addresses();
    let mut untried = addresses.all().len();
    let mut failure = ConnectError::Unresolved;
    for (index, address) in addresses.order() {
        let part = addresses::part(limit.saturating_sub(start.elapsed()), untried);
        untried -= 1;
        match within(part, dial_one(endpoint, address, (&transport, purpose))).await {
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

async fn dial_unix(
    endpoint: &Endpoint,
    path: &Path,
    (transport, purpose): (&Transport, Purpose<'_>),
) -> Result<OpenedConnection, ConnectError> {
    let mut stream = StreamSocket::connect_unix(path).map_err(ConnectError::Io)?;
    announce(&mut stream, &purpose.header(transport)).await?;
    Ok(OpenedConnection {
        stream: Stream::Clear(stream),
        h2: endpoint.is_h2c(),
        transport: transport.id(),
    })
}

async fn dial_one(
    endpoint: &Endpoint,
    address: SocketAddr,
    (transport, purpose): (&Transport, Purpose<'_>),
) -> Result<OpenedConnection, ConnectError> {
    let mut tcp = StreamSocket::connect(address)
        .await
        .map_err(ConnectError::Io)?;
    set_tcp_nodelay(&tcp, true).map_err(|error| ConnectError::Io(error.into()))?;
    keep_alive(&tcp, endpoint.pause()).map_err(ConnectError::Io)?;
    limit_unsent(&tcp).map_err(ConnectError::Io)?;
    congestion::spare_control(&tcp, address.ip());
    // The header precedes the TLS handshake, too.
    announce(&mut tcp, &purpose.header(transport)).await?;
    if endpoint.spec.scheme != Scheme::Https {
        return Ok(OpenedConnection {
            stream: Stream::Clear(tcp),
            h2: endpoint.is_h2c(),
            transport: transport.id(),
        });
    }
    let client = transport.tls.as_deref().unwrap_or(&SYSTEM);
    let name = match &client.server_name {
        Some(name) => name.clone(),
        None => server_name(&endpoint.spec.address)?,
    };
    let tls = TlsConnector::from(Arc::clone(purpose.offer(client, transport)))
        .connect(name, tcp)
        .await
        .map_err(|error| explain(&error).map_or(ConnectError::Io(error), ConnectError::Tls))?;
    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(OpenedConnection {
        stream: Stream::ClientTls(Box::new(tls)),
        h2,
        transport: transport.id(),
    })
}

/// Sends the header of the PROXY protocol, if there is one.
async fn announce(
    stream: &mut (impl AsyncWrite + Unpin),
    header: &[u8],
) -> Result<(), ConnectError> {
    if header.is_empty() {
        return Ok(());
    }
    stream.write_all(header).await.map_err(ConnectError::Io)
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
        EndpointAddress::Name(name, _) | EndpointAddress::Srv(name) => dns_name(name),
        EndpointAddress::Resolved(named) => dns_name(&named.name),
        EndpointAddress::Unix(path) => Err(ConnectError::Io(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("TLS over {} has no server name", path.display()),
        ))),
    }
}

/// A name that ends with a dot is absolute in DNS. Certificates have it without the dot (RFC 6066 section 3).
fn dns_name(name: &str) -> Result<ServerName<'static>, ConnectError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(name.to_owned())
        .map_err(|e| ConnectError::Io(io::Error::new(io::ErrorKind::InvalidInput, e)))
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
