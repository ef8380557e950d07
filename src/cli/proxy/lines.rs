//! Reads a response that continues until the proxy ends it, line by line.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{
    AdminAddress, CommandError, Proxy, ProxyError, REQUEST_TIMEOUT, connect, refusal, unreachable,
};

/// Longest silence of the proxy, which sends an empty line every 15 seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// Largest body of an error that is read, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;

type LineError = Box<dyn Error + Send + Sync>;

impl Proxy {
    /// Gets a path and calls `see` with each line of the response, without its newline, until the response ends.
    ///
    /// # Errors
    /// The response is an error, or else the proxy can't be reached or the connection broke.
    pub(in crate::cli) async fn lines(
        &self,
        path: &str,
        see: impl FnMut(&[u8]),
    ) -> Result<(), ProxyError> {
        let address = &self.address;
        let failed = |error: LineError| match error.downcast::<RefusedLines>() {
            Ok(refused) => ProxyError::Failed(refused.0),
            Err(error) => ProxyError::Unreachable(CommandError::new(format!("{address}: {error}"))),
        };
        match address {
            AdminAddress::Tcp(host) => {
                let stream = timeout(REQUEST_TIMEOUT, connect(host)).await;
                let stream = stream
                    .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
                    .map_err(|error| unreachable(address, &error))?;
                let token = self.token.as_deref();
                read(stream, (host, path, token), see).await.map_err(failed)
            }
            AdminAddress::Unix(file) => {
                let stream = UnixStream::connect(file).await;
                let stream = stream.map_err(|error| unreachable(address, &error))?;
                let target = ("localhost", path, None);
                read(stream, target, see).await.map_err(failed)
            }
        }
    }
}

/// The error of a request that the proxy refused.
#[derive(Debug)]
struct RefusedLines(CommandError);

impl std::fmt::Display for RefusedLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl Error for RefusedLines {}

async fn read(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    (host, path, token): (&str, &str, Option<&str>),
    see: impl FnMut(&[u8]),
) -> Result<(), LineError> {
    let handshake = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let mut request = Request::get(path).header("host", host);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Empty::new())?;
    let answer = async {
        let answer = timeout(REQUEST_TIMEOUT, sender.send_request(request)).await;
        let answer = answer.map_err(|_| "no answer in time")??;
        each_line(answer, see).await
    };
    let (mut connection, mut answer) = (pin!(connection), pin!(answer));
    // The connection future does the I/O. It may complete first, while the last lines are still in a channel.
    tokio::select! {
        ended = &mut answer => ended,
        broken = &mut connection => {
            broken?;
            answer.await
        }
    }
}

async fn each_line(
    answer: Response<Incoming>,
    mut see: impl FnMut(&[u8]),
) -> Result<(), LineError> {
    let (head, mut body) = answer.into_parts();
    if head.status != StatusCode::OK {
        let body = Limited::new(body, MAX_ERROR_BYTES).collect().await?;
        let refused = refusal(head.status, &body.to_bytes(), true);
        return Err(RefusedLines(refused).into());
    }
    let mut rest = Vec::new();
    loop {
        let frame = timeout(SILENCE, body.frame()).await;
        let Some(frame) = frame.map_err(|_| "the proxy is silent")? else {
            return Ok(());
        };
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        rest.extend_from_slice(&data);
        let whole = memchr::memrchr(b'\n', &rest).map_or(0, |at| at + 1);
        for line in rest[..whole].split(|byte| *byte == b'\n') {
            if !line.is_empty() {
                see(line);
            }
        }
        rest.drain(..whole);
    }
}
