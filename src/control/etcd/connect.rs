//! Opens a connection to a member of etcd.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use rustix::net::sockopt::set_tcp_nodelay;
use tokio::time::{Instant, timeout};

use crate::config::fleet::EtcdUrl;
use crate::config::secret;
use crate::config::spec::UpstreamTls;
use crate::control::first_address::first_opened;
use crate::net::keepalive::keep_alive;
use crate::net::{Stream, StreamSocket};
use crate::upstream::resolve::resolver::addresses_of_host;
use crate::upstream::tls::{TlsIdentity, open_h2};

/// Time to resolve the name and to open the connection, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Window of a stream and of the connection: pages of listings arrive without pauses.
const WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest head of a response.
const HEAD_BYTES: u32 = 16 * 1024;

/// The sender of requests, and the connection that has to be polled for it.
pub(super) type OpenedHttp2 = (SendRequest<Bytes>, Connection<Stream, Bytes>);

/// Opens a connection and performs the handshakes.
///
/// # Errors
/// The failed step, for a log line.
pub(super) async fn open(url: &EtcdUrl, tls: Option<&UpstreamTls>) -> Result<OpenedHttp2, String> {
    match timeout(CONNECT_LIMIT, handshakes(url, tls)).await {
        Ok(opened) => opened.map_err(|why| format!("{url}: {why}")),
        Err(_) => Err(format!("{url}: no connection within {CONNECT_LIMIT:?}")),
    }
}

async fn handshakes(url: &EtcdUrl, tls: Option<&UpstreamTls>) -> Result<OpenedHttp2, String> {
    let tcp = connect(url).await?;
    let options = || -> io::Result<()> {
        set_tcp_nodelay(&tcp, true)?;
        keep_alive(&tcp, Duration::ZERO)
    };
    options().map_err(|e| e.to_string())?;
    let stream = match url.https {
        false => Stream::Clear(tcp),
        true => {
            let identity = identity(tls)?;
            let session = open_h2(identity.as_ref(), &url.host, tcp).await;
            let session = session.map_err(|e| format!("TLS handshake failed: {e}"))?;
            Stream::ClientTls(Box::new(session))
        }
    };
    let opened = Builder::new()
        .enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES)
        .handshake(stream)
        .await;
    opened.map_err(|e| format!("no HTTP/2: {e}"))
}

/// Connects to the first address that accepts a connection.
async fn connect(url: &EtcdUrl) -> Result<StreamSocket, String> {
    let addresses = addresses_of_host(&url.host, url.port).await;
    let addresses = addresses.map_err(|e| e.to_string())?;
    let deadline = Instant::now() + CONNECT_LIMIT;
    let late = || format!("no connection within {CONNECT_LIMIT:?}");
    let open = async |address| {
        let opened = StreamSocket::connect(address).await;
        opened.map_err(|e| e.to_string())
    };
    first_opened(&addresses, deadline, late, open).await
}

/// Reads the files of TLS, so that renewed ones are used by the next connection. `None` if there are none.
fn identity(spec: Option<&UpstreamTls>) -> Result<Option<TlsIdentity>, String> {
    let identity = spec.map(TlsIdentity::load).transpose();
    identity.map_err(|errors| {
        let messages: Vec<_> = errors.into_iter().map(|error| error.message).collect();
        messages.join("; ")
    })
}

/// Reads the password. A line end after it doesn't count.
///
/// # Errors
/// A message that says what is wrong, without the password.
pub(in crate::control) fn read_password(file: &Path) -> Result<String, String> {
    let bytes = secret::read(
        file,
        "password of etcd's user",
        "change the fleet's rollouts",
    )?;
    let shown = file.display();
    if bytes.len() as u64 > secret::MOST {
        return Err(format!("{shown}: more than {} bytes", secret::MOST));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown}: the password isn't text"))?;
    let password = text.trim_end_matches(['\r', '\n']);
    match password.is_empty() {
        true => Err(format!("{shown}: the file is empty")),
        false => Ok(password.to_owned()),
    }
}
