//! Handover: a new process takes the sockets of the running one, and nobody's connection is refused or reset.
//!
//! The running process listens at `handover-<hash>.sock` beside the control socket. Over one connection:
//!
//! 1. new: [`Hello`]. It has read its configuration and compiled it; all that is missing is the sockets.
//! 2. old: [`Offer`], then the descriptors of every socket on which it listens. It goes on serving.
//! 3. new: its workers accept on the same sockets, beside the old ones; then [`Serving`].
//! 4. old: stops accepting without closing any queue (the new one holds the same sockets), gives up its files, [`Released`],
//!    and drains.
//!
//! Until step 3 the new process may fail in any way, or take too long: the old one goes on as if nothing had been asked.

mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::inherit::{Inherited, Label};
pub use wire::message;

/// Counted up with every change that an older process would not understand.
const PROTOCOL: u32 = 1;
/// Longest time for a step of the other side.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    protocol: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    protocol: u32,
    pid: u32,
    generation: u64,
    /// Service, version, endpoint: what an operator drains.
    draining: Vec<[String; 3]>,
    sockets: Vec<Label>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Serving {
    /// Addresses of listeners, as the old process wrote them, that the new one does not want.
    unwanted: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Released {}

/// What a process leaves to the next.
#[derive(Debug)]
pub struct Estate {
    /// The generation that it runs.
    pub generation: u64,
    /// Service, version, endpoint: what an operator drains.
    pub draining: Vec<[String; 3]>,
    /// Every socket on which it listens.
    pub sockets: Vec<(Label, OwnedFd)>,
    /// Dropped when it is clear what became of it.
    pub undecided: oneshot::Sender<()>,
}

/// What the handover asks of the control thread.
#[derive(Debug)]
pub enum Wish {
    /// Everything that a new process needs.
    Estate(oneshot::Sender<Estate>),
    /// The new process serves: let go.
    LetGo(LetGo),
}

/// The new process serves.
#[derive(Debug)]
pub struct LetGo {
    /// Addresses of listeners that it does not want.
    pub unwanted: Vec<String>,
    /// Its number.
    pub pid: Option<i32>,
    /// To be told when everything is let go.
    pub done: oneshot::Sender<()>,
}

/// The old side: waits for those who ask, one at a time. Ends when everything is handed over.
pub async fn serve(listener: UnixListener, wishes: mpsc::Sender<Wish>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the handover socket could not be accepted on");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match hand_over(stream, &wishes).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::error!(
                "a new process asked for the sockets and did not come to serve: {error}. This one goes on"
            ),
        }
    }
}

/// Whether everything is handed over.
async fn hand_over(mut stream: UnixStream, wishes: &mpsc::Sender<Wish>) -> io::Result<bool> {
    let peer = stream.peer_cred()?;
    let ours = rustix::process::geteuid().as_raw();
    if peer.uid() != ours && peer.uid() != 0 {
        let theirs = peer.uid();
        return Err(io::Error::other(format!(
            "it runs as user {theirs}, this process as user {ours}"
        )));
    }
    let hello: Hello = match timeout(PATIENCE, wire::receive(&mut stream)).await? {
        Ok(hello) => hello,
        // Somebody looked whether the socket is alive.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    let gone = |_| io::Error::other("this process is stopping");
    let (tell, told) = oneshot::channel();
    let asked = wishes.send(Wish::Estate(tell)).await;
    asked.map_err(|_| io::Error::other("this process is stopping"))?;
    let estate = told.await.map_err(gone)?;
    let _undecided = estate.undecided;
    let (sockets, descriptors): (Vec<_>, Vec<_>) = estate.sockets.into_iter().unzip();
    let offer = Offer {
        protocol: PROTOCOL,
        pid: std::process::id(),
        generation: estate.generation,
        draining: estate.draining,
        sockets,
    };
    tracing::info!(
        "process {} takes over ({} sockets)",
        peer.pid().unwrap_or(0),
        descriptors.len()
    );
    wire::send(&mut stream, &offer).await?;
    if hello.protocol != PROTOCOL {
        return Err(io::Error::other("it speaks another protocol"));
    }
    let serving = async {
        wire::send_descriptors(&stream, &descriptors).await?;
        drop(descriptors);
        wire::receive::<Serving>(&mut stream).await
    };
    let serving = timeout(PATIENCE, serving).await??;
    let (done, finished) = oneshot::channel();
    let let_go = LetGo {
        unwanted: serving.unwanted,
        pid: peer.pid(),
        done,
    };
    let asked = wishes.send(Wish::LetGo(let_go)).await;
    asked.map_err(|_| io::Error::other("this process is stopping"))?;
    finished.await.map_err(gone)?;
    wire::send(&mut stream, &Released {}).await?;
    Ok(true)
}

/// The new side: the running process, which waits for word.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    /// Its number.
    pub pid: u32,
    /// The generation that it runs.
    pub generation: u64,
    /// Service, version, endpoint: what an operator drains.
    pub draining: Vec<[String; 3]>,
}

/// Asks the running process for its sockets. `None`: nobody runs.
///
/// # Errors
/// Somebody runs but does not answer as expected. It goes on.
pub async fn ask(path: &Path) -> io::Result<Option<(Predecessor, Inherited)>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            };
        }
    };
    let hello = Hello { protocol: PROTOCOL };
    let answer = async {
        wire::send(&mut stream, &hello).await?;
        let offer: Offer = wire::receive(&mut stream).await?;
        if offer.protocol != PROTOCOL {
            return Err(io::Error::other(format!(
                "process {} hands over by protocol {}, this program by {PROTOCOL}. Stop the one and start the other",
                offer.pid, offer.protocol
            )));
        }
        let descriptors = wire::receive_descriptors(&stream, offer.sockets.len()).await?;
        Ok((offer, descriptors))
    };
    let (offer, descriptors) = timeout(PATIENCE, answer).await??;
    let predecessor = Predecessor {
        stream,
        pid: offer.pid,
        generation: offer.generation,
        draining: offer.draining,
    };
    let sockets = offer.sockets.into_iter().zip(descriptors).collect();
    Ok(Some((predecessor, Inherited::new(sockets))))
}

impl Predecessor {
    /// Tells it that its sockets are served. Returns when it has let go.
    ///
    /// # Errors
    /// It did not: it may go on serving, so this process must not.
    pub async fn relieve(mut self, unwanted: Vec<String>) -> io::Result<()> {
        let told = async {
            wire::send(&mut self.stream, &Serving { unwanted }).await?;
            wire::receive::<Released>(&mut self.stream).await
        };
        timeout(PATIENCE, told).await??;
        Ok(())
    }
}
