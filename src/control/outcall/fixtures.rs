//! Scripted servers for the tests of calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::backoff::Backoff;

/// Pauses between attempts that are as short as possible.
pub(super) const AT_ONCE: Backoff = Backoff {
    first: Duration::from_millis(1),
    factor: 1,
    most: Duration::from_millis(1),
};

/// The behaviour of the server on one connection.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Reads the request, writes this, and closes.
    Answer(String),
    /// Reads the request, writes this, shuts its sending side down, and waits for the client to close.
    HalfClose(String),
    /// Reads the request, writes this byte by byte, and closes.
    Slowly(String),
    /// Reads the request, writes this, and neither writes more nor closes.
    Hang(String),
    /// Closes without reading.
    Close,
    /// Reads the request, then writes a body of this many bytes in chunks, until the client closes.
    Flood(usize),
}

/// A response with this status and body, and further header lines.
pub(super) fn answer(status: u16, lines: &str, body: &str) -> Act {
    let length = body.len();
    Act::Answer(format!(
        "HTTP/1.1 {status} Whatever\r\n{lines}content-length: {length}\r\n\r\n{body}"
    ))
}

/// A server on loopback that treats each connection by the next act, and further ones by the last.
pub(super) struct ScriptedServer {
    pub port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ScriptedServer {
    pub(super) async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        Self::start_with(acts, None).await
    }

    pub(super) async fn start_tls(acts: impl IntoIterator<Item = Act>, tls: TlsAcceptor) -> Self {
        Self::start_with(acts, Some(tls)).await
    }

    async fn start_with(acts: impl IntoIterator<Item = Act>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let mut acts: Vec<Act> = acts.into_iter().collect();
        acts.reverse();
        let seen = requests.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let act = match acts.len() {
                    1 => acts[0].clone(),
                    _ => acts.pop().unwrap(),
                };
                let (seen, tls) = (seen.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        // A client that doesn't trust the certificate ends the handshake.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, act, &seen).await;
                            }
                        }
                        None => serve(stream, act, &seen).await,
                    }
                });
            }
        });
        Self {
            port,
            requests,
            task,
        }
    }

    pub(super) fn url(&self, rest: &str) -> String {
        format!("http://127.0.0.1:{}{rest}", self.port)
    }

    /// The requests up to now: head and body as they came, with the port written `PORT`.
    pub(super) fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let port = self.port.to_string();
        requests.iter().map(|r| r.replace(&port, "PORT")).collect()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    act: Act,
    seen: &Mutex<Vec<String>>,
) {
    if matches!(act, Act::Close) {
        return;
    }
    let Some(request) = read_request(&mut stream).await else {
        return;
    };
    seen.lock().unwrap().push(request);
    // The client may close at any time, which the tests notice by its side.
    let _ = respond(&mut stream, act).await;
}

async fn respond(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    act: Act,
) -> std::io::Result<()> {
    let mut rest = Vec::new();
    match act {
        Act::Close => {}
        Act::Answer(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await?;
        }
        Act::HalfClose(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut rest).await?;
        }
        Act::Slowly(text) => {
            for byte in text.bytes() {
                stream.write_all(&[byte]).await?;
                stream.flush().await?;
                tokio::task::yield_now().await;
            }
        }
        Act::Hang(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.read_to_end(&mut rest).await?;
        }
        Act::Flood(bytes) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            for _ in 0..bytes.div_ceil(4096) {
                stream.write_all(&[b'x'; 4096]).await?;
            }
        }
    }
    Ok(())
}

/// A request with its body, by `content-length`. `None` if the client closes before its end.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            let length = length.map_or(0, |l| l.parse().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// A server certificate for this name, and the configuration of a client that trusts it.
pub(super) fn tls(name: &str) -> (TlsAcceptor, Arc<rustls::ClientConfig>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (TlsAcceptor::from(Arc::new(server)), Arc::new(client))
}
