//! HTTP/2 as a well-behaved client speaks it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::PATIENCE;

/// One connection; requests may be sent from clones.
#[derive(Clone)]
pub struct H2 {
    sender: SendRequest<Bytes>,
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl H2 {
    /// By prior knowledge, in clear text.
    pub async fn connect(port: u16) -> Self {
        Self::over(dial(port).await).await
    }

    /// By ALPN over TLS.
    pub async fn connect_tls(port: u16, name: &str, config: Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let socket = dial(port).await;
        let stream = TlsConnector::from(config).connect(name, socket).await;
        let stream = stream.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(stream).await
    }

    async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = h2::client::handshake(io).await.expect("a preface");
        tokio::spawn(connection);
        Self { sender }
    }

    /// Waits until the server has announced extended CONNECT.
    pub async fn allows_connect(&self) {
        let sender = self.sender.clone().ready().await.expect("a connection");
        let announced = async {
            while !sender.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, announced).await;
        waited.expect("an announcement");
    }

    /// Sends a request's head; its body is to follow unless `end`.
    pub async fn open(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        sender.send_request(request, end)
    }

    /// `GET` of a whole URL.
    pub async fn get(&self, url: &str) -> Result<Answer, h2::Error> {
        let request = Request::get(url).body(()).expect("a request");
        self.ask(request, Bytes::new()).await
    }

    /// Sends a request with its body, and reads the answer whole.
    pub async fn ask(&self, request: Request<()>, body: Bytes) -> Result<Answer, h2::Error> {
        let (answer, mut stream) = self.open(request, body.is_empty()).await?;
        // Both at once: an echo stands still when nobody reads it. Who answers early need not take the body.
        let sending = async {
            match body.is_empty() {
                true => Ok(()),
                false => send(&mut stream, body, true).await,
            }
        };
        let (_sent, answer) = tokio::join!(sending, async { whole(answer.await?).await });
        answer
    }
}

/// A socket to a port on loopback.
async fn dial(port: u16) -> TcpStream {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    let socket = socket.expect("connect");
    socket.set_nodelay(true).expect("TCP_NODELAY");
    socket
}

/// Sends bytes as the window allows.
pub async fn send(
    stream: &mut SendStream<Bytes>,
    mut bytes: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.ok_or(h2::Reason::STREAM_CLOSED)??;
        let piece = bytes.split_to(room.min(bytes.len()));
        let last = end && bytes.is_empty();
        stream.send_data(piece, last)?;
    }
    Ok(())
}

/// The next piece of a body; `None` at its end.
pub async fn piece(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let piece = body.data().await?;
    if let Ok(bytes) = &piece {
        body.flow_control()
            .release_capacity(bytes.len())
            .expect("capacity that was taken");
    }
    Some(piece)
}

/// Reads a response to its end.
pub async fn whole(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = piece(&mut stream).await {
        body.extend_from_slice(&piece?);
    }
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        trailers: stream.trailers().await?.unwrap_or_default(),
    })
}
