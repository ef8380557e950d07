//! The new process's side of the handover: asks the running process for its sockets, and confirms once it serves on them.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::frames::{
    CLAIMS, Claimed, EndpointName, FORMAT, Hello, Offer, PROTOCOL, Released, Serving,
};
use super::{PATIENCE, wire};
use crate::edge::inherit::Inherited;
use crate::edge::tls::TicketSecret;
use crate::snapshot::ServiceState;
use crate::upstream::resolve::record::{AddressSet, LookupName};

/// A predecessor of format 1 also closes the connection without a frame when its timeout expires, and then it is still alive. A
/// connection that closes sooner than this after the offer can only mean that it has exited.
const SURELY_ENDED: Duration = PATIENCE.saturating_sub(Duration::from_secs(1));

/// The running process, which has offered its sockets and waits for this process to serve.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
    format: u32,
    offered: Instant,
    /// Process id of the predecessor.
    pub(crate) pid: u32,
    /// The generation that the predecessor runs.
    pub(crate) generation: u64,
    /// Endpoints that operators are draining.
    pub(crate) draining: Vec<EndpointName>,
    /// Effective split, gate and sessions, by service. Empty if the predecessor has format 1.
    pub(crate) services: Vec<ServiceState>,
    /// The secrets of TLS tickets. Empty if the predecessor's release doesn't send them.
    pub(crate) tickets: Vec<TicketSecret>,
    /// The addresses of endpoints' names. Empty if the predecessor's release doesn't send them.
    pub(crate) names: Vec<(LookupName, AddressSet)>,
}

/// The outcome of a successful takeover. In either case the sockets and their files now belong to this process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// The predecessor has released the sockets. Contains the endpoints that operators are draining, if it sent them.
    Released(Option<Vec<EndpointName>>),
    /// The predecessor has exited.
    Ended,
}

/// Asks the process that listens on `path` for its sockets. `None` if there is no such process.
///
/// # Errors
/// A process runs but doesn't answer within the timeout, or answers something unexpected. It keeps serving.
pub(crate) async fn ask(path: &Path) -> io::Result<Option<(Predecessor, Inherited)>> {
    match timeout(PATIENCE, offer(path)).await? {
        // The process exited after it had accepted the connection. Ask again: another one may have taken its place.
        Err(error) if is_end(&error) => timeout(PATIENCE, offer(path)).await?,
        answer => answer,
    }
}

async fn offer(path: &Path) -> io::Result<Option<(Predecessor, Inherited)>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                // Nobody listens. With any other error a process may be running, and starting beside it would split the traffic.
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            };
        }
    };
    let hello = Hello {
        protocol: PROTOCOL,
        format: FORMAT,
    };
    wire::send(&mut stream, &hello).await?;
    let offer: Offer = wire::receive(&mut stream).await?;
    if offer.protocol != PROTOCOL {
        return Err(io::Error::other(format!(
            "process {} uses handover protocol {}, this program {PROTOCOL}. Stop that process, then start this one",
            offer.pid, offer.protocol
        )));
    }
    let descriptors = wire::receive_descriptors(&stream, offer.sockets.len()).await?;
    let predecessor = Predecessor {
        stream,
        format: offer.format,
        offered: Instant::now(),
        pid: offer.pid,
        generation: offer.generation,
        draining: offer.draining,
        services: offer.services,
        tickets: offer.tickets,
        names: { offer.names.into_iter() }
            .map(|(name, set)| (name, set.into()))
            .collect(),
    };
    let sockets = offer.sockets.into_iter().zip(descriptors).collect();
    Ok(Some((predecessor, Inherited::new(sockets))))
}

impl Predecessor {
    /// Tells the predecessor that this process serves on its sockets. Returns once it has released them or has exited.
    ///
    /// Must not be cancelled: a predecessor of format 1 may have stopped accepting before its answer arrives, so that nobody would
    /// serve.
    ///
    /// # Errors
    /// The predecessor keeps serving, so this process must stop accepting.
    pub(crate) async fn confirm(mut self, unwanted: Vec<String>) -> io::Result<Confirmed> {
        self.tell(&Serving { unwanted }).await;
        let released = self.answer().await?;
        if self.format < CLAIMS || released == Confirmed::Ended {
            return Ok(released);
        }
        self.tell(&Claimed {}).await;
        self.answer().await
    }

    async fn tell(&mut self, frame: &impl Serialize) {
        // A write fails only if the predecessor closed the connection. Reading its last frame then tells why.
        let _ = timeout(PATIENCE, wire::send(&mut self.stream, frame)).await;
    }

    async fn answer(&mut self) -> io::Result<Confirmed> {
        match timeout(PATIENCE, wire::receive::<Released>(&mut self.stream)).await {
            Ok(Ok(released)) => match released.refused {
                Some(why) => Err(io::Error::other(why)),
                None => Ok(Confirmed::Released(released.draining)),
            },
            Ok(Err(error)) if is_end(&error) && self.has_ended() => Ok(Confirmed::Ended),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other(format!("no answer within {PATIENCE:?}"))),
        }
    }

    /// Whether a connection that closed without a frame means that the predecessor has exited.
    fn has_ended(&self) -> bool {
        self.format >= CLAIMS || self.offered.elapsed() < SURELY_ENDED
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}
