//! The steps of a connection before its first request: the header of the PROXY protocol, and the TLS handshake.
//!
//! Both have a deadline of [`TaskControl`](crate::net::TaskControl), so that a connection can be shed and drained meanwhile. A
//! failure counts as the client's: it is counted and logged, and the connection is closed without an answer.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use rustix::net::RecvFlags;

use super::ListenerRuntime;
use super::listen_socket::RawStream;
use crate::edge::admission::Admission;
use crate::edge::client_connections::ClientConnection;
use crate::edge::tls::{CertificateTable, HandshakeEnd, TlsInfo};
use crate::net::proxy_protocol::{self, ConnectionSource};
use crate::net::{OwnedTaskControl, Stream, send_deferred};
use crate::telemetry::WorkerId;
use crate::telemetry::record::Reason;

/// Number of bytes of a header that are received at once. Most headers are shorter.
const PIECE: usize = 512;

/// The settings by which a connection is prepared for requests.
pub(super) struct Handshake {
    pub runtime: Arc<ListenerRuntime>,
    pub worker: WorkerId,
    pub admission: Arc<Admission>,
}

/// A connection that is ready for requests.
pub(super) struct Done {
    pub stream: Stream,
    /// The client's address; `None` if it isn't known.
    pub peer: Option<SocketAddr>,
    pub tls: Option<TlsInfo>,
    /// Counts the connection for the client that the PROXY protocol names.
    pub client: Option<ClientConnection>,
}

impl Handshake {
    /// Performs the steps that the listener asks for. `None` if one failed, which is counted and logged.
    pub(super) async fn perform(&self, raw: RawStream, control: &OwnedTaskControl) -> Option<Done> {
        let (mut peer, mut client) = (raw.peer, None);
        if self.runtime.spec.proxy_protocol {
            control.arm(self.admission.proxy_header_timeout());
            if let ConnectionSource::Client(address) = self.source(&raw, control).await? {
                peer = Some(address);
            }
            client = self.runtime.count_client(self.worker, peer).ok()?;
        }
        let (stream, tls) = match self.runtime.tls.clone() {
            Some(table) => {
                control.arm(self.admission.handshake_timeout());
                let (stream, tls) = self.secure(raw, table, control).await?;
                (stream, Some(tls))
            }
            None => (Stream::Clear(raw.socket), None),
        };
        Some(Done {
            stream,
            peer,
            tls,
            client,
        })
    }

    /// Receives the header of the PROXY protocol.
    async fn source(
        &self,
        raw: &RawStream,
        control: &OwnedTaskControl,
    ) -> Option<ConnectionSource> {
        // Over a Unix socket the permissions of its file have decided who may connect.
        if let Some(peer) = raw.peer
            && !self.may_announce(peer)
        {
            self.refuse_header(
                raw,
                Reason::ProxyProtocol,
                &"the sender isn't in `proxy_sources`",
            );
            return None;
        }
        match within_deadline(control, receive_header(raw)).await {
            Some(Ok(source)) => return source,
            Some(Err(error)) => self.refuse_header(raw, Reason::ProxyProtocol, &error),
            None if control.is_shut() => {
                let listener = &self.runtime.spec.name;
                tracing::debug!(listener, "connection cut before its PROXY protocol header");
            }
            None => {
                let cause = &"no complete header of the PROXY protocol in time";
                self.refuse_header(raw, Reason::ProxyProtocolTimeout, cause);
            }
        }
        None
    }

    /// Whether this peer may name another client.
    fn may_announce(&self, peer: SocketAddr) -> bool {
        let sources = &self.runtime.spec.proxy_sources;
        sources.is_empty() || sources.iter().any(|net| net.contains(&peer.ip()))
    }

    /// Counts and logs a connection without a valid header. A load balancer that isn't set up to send one loses every connection,
    /// so this is worth a warning, at most one in ten seconds.
    #[cold]
    fn refuse_header(&self, raw: &RawStream, reason: Reason, cause: &dyn std::fmt::Display) {
        let runtime = &self.runtime;
        runtime.info.metrics[self.worker.0].client_failed(reason);
        let listener = &runtime.spec.name;
        let sender = raw.peer.map(|peer| peer.to_string());
        tracing::debug!(listener, sender, reason = reason.as_str(), %cause, "connection refused");
        if let Some(suppressed) = runtime.refusals.check(0, Instant::now()) {
            tracing::warn!(
                listener,
                sender,
                reason = reason.as_str(),
                %cause,
                suppressed,
                "connections are refused: a listener with `proxy_protocol = true` needs a PROXY protocol header on each"
            );
        }
    }

    /// Performs the TLS handshake.
    async fn secure(
        &self,
        raw: RawStream,
        table: Arc<CertificateTable>,
        control: &OwnedTaskControl,
    ) -> Option<(Stream, TlsInfo)> {
        let has_names = !self.runtime.spec.acme.is_empty();
        let answers = has_names.then_some(&*self.runtime.answers);
        let handshake = async {
            let (stream, tls) = table.handshake(raw.socket, answers).await?;
            Ok::<_, io::Error>((Stream::ServerTls(Box::new(stream)), tls))
        };
        let listener = &self.runtime.spec.name;
        let metrics = &self.runtime.info.metrics[self.worker.0];
        match within_deadline(control, handshake).await {
            Some(Ok(secured)) => return Some(secured),
            Some(Err(error)) => {
                if self.is_explained(&error) {
                    return None;
                }
                metrics.client_failed(Reason::TlsHandshake);
                tracing::debug!(listener, %error, "TLS handshake failed");
            }
            // No fault of the client, so it isn't counted as one.
            None if control.is_shut() => {
                tracing::debug!(listener, "TLS handshake cut by shedding or by a drain");
            }
            None => {
                metrics.client_failed(Reason::TlsTimeout);
                tracing::debug!(listener, "TLS handshake timed out");
            }
        }
        None
    }
}

impl Handshake {
    /// Whether a handshake ended for a reason that the client didn't cause: a challenge was answered, or there is no certificate
    /// yet.
    #[cold]
    fn is_explained(&self, error: &io::Error) -> bool {
        let end = error.get_ref().and_then(|e| e.downcast_ref());
        let listener = &self.runtime.spec.name;
        match end {
            Some(HandshakeEnd::Challenge) => {
                tracing::info!(listener, "challenge of the ACME authority answered");
            }
            Some(end @ HandshakeEnd::NoCertificate(_)) => {
                self.runtime.info.metrics[self.worker.0].uncertified();
                if let Some(suppressed) = self.runtime.refusals.check(1, Instant::now()) {
                    tracing::warn!(listener, reason = %end, suppressed, "TLS handshakes are refused");
                }
            }
            None => return false,
        }
        true
    }
}

/// Receives exactly the header: the bytes after it are left to TLS or HTTP. `None` if the peer closed the connection without a
/// byte, as a check of the port does.
///
/// The bytes are looked at before they are taken, since the length of a header isn't known before its end.
async fn receive_header(raw: &RawStream) -> io::Result<Option<ConnectionSource>> {
    let (mut seen, mut piece) = (Vec::new(), [0; PIECE]);
    loop {
        let n = raw.receive(&mut piece, RecvFlags::PEEK).await?;
        if n == 0 && seen.is_empty() {
            return Ok(None);
        }
        if n == 0 {
            let message = "the connection ended within its PROXY protocol header";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        let before = seen.len();
        seen.extend_from_slice(&piece[..n]);
        let parsed = proxy_protocol::parse(&seen).map_err(io::Error::other)?;
        let ours = parsed.map_or(n, |(length, _)| length - before);
        // These bytes have arrived, so this takes all of them.
        raw.receive(&mut piece[..ours], RecvFlags::empty()).await?;
        if let Some((_, source)) = parsed {
            return Ok(Some(source));
        }
    }
}

/// The result of `work`; `None` if the deadline of `control` passes first, or the connection is shut.
async fn within_deadline<T>(
    control: &OwnedTaskControl,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // What requests have deferred must not wait for a handshake's computations.
        send_deferred();
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if control.expired(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::net::fixtures::tcp_pair;
    use crate::net::pretend_busy;
    use crate::net::{ListenerId, TaskControls};

    #[tokio::test]
    async fn responses_are_sent_before_a_handshake_computes() {
        let (near, mut far) = tcp_pair().await;
        pretend_busy();
        let written = near.clear().map(|socket| socket.send_now(b"abc"));
        assert!(matches!(written, Some(Ok(3))) && near.has_unsent());
        let control = TaskControls::new().register(ListenerId(0));
        let computing = async { assert!(!near.has_unsent()) };
        within_deadline(&control, computing).await.expect("in time");
        far.read_exact(&mut [0; 3]).await.expect("the bytes");
    }
}
