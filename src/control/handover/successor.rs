//! The new process's side: asks the running process for its sockets, and takes them over once it serves on them.

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
use crate::snapshot::ServiceState;

/// A predecessor of format 1 closes the connection without a word when it loses patience, too: but never before it has
/// waited for [`PATIENCE`].
const SURELY_ENDED: Duration = PATIENCE.saturating_sub(Duration::from_secs(1));

/// The running process, which waits for this one to serve.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
    format: u32,
    offered: Instant,
    /// Its process.
    pub(crate) pid: u32,
    /// The generation that it runs.
    pub(crate) generation: u64,
    /// What an operator drains.
    pub(crate) draining: Vec<EndpointName>,
    /// Split, gate and sessions, by service. Empty if it is a program that doesn't tell.
    pub(crate) services: Vec<ServiceState>,
}

/// How a takeover ended well: the sockets and their files are this process's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// The predecessor has given them up. What an operator drains, if it told.
    Released(Option<Vec<EndpointName>>),
    /// The predecessor has ended.
    Ended,
}

/// Asks the running process for its sockets. `None`: no process runs.
///
/// # Errors
/// A process runs but does not answer as expected. It goes on.
pub(crate) async fn ask(path: &Path) -> io::Result<Option<(Predecessor, Inherited)>> {
    match timeout(PATIENCE, offer(path)).await? {
        // It ended after it had accepted: now there is another one, or none.
        Err(error) if is_end(&error) => timeout(PATIENCE, offer(path)).await?,
        answer => answer,
    }
}

async fn offer(path: &Path) -> io::Result<Option<(Predecessor, Inherited)>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
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
            "process {} hands over by protocol {}, this program by {PROTOCOL}. Stop the one and start the other",
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
    };
    let sockets = offer.sockets.into_iter().zip(descriptors).collect();
    Ok(Some((predecessor, Inherited::new(sockets))))
}

impl Predecessor {
    /// Tells it that its sockets are served here. Returns when it has given them up, or has ended.
    ///
    /// Must not be cancelled: a predecessor of format 1 may have stopped accepting before it is heard of.
    ///
    /// # Errors
    /// It goes on serving, so this process must not.
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
        // If it can't be written the connection has ended, and what can be read from it says why.
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

    /// The connection has ended without a word: whether the process has, too.
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
