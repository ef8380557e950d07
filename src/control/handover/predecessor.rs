//! The running process's side: offers its sockets to one successor at a time.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::frames::{
    CLAIMS, Claimed, EndpointName, FORMAT, Hello, Offer, PROTOCOL, Released, Serving,
};
use super::{HandoverRequest, HandoverState, PATIENCE, Release, wire};

/// A pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest time for a refusal to be taken by the other side.
const WORD: Duration = Duration::from_secs(1);

/// Why a takeover came to nothing.
#[derive(Debug)]
enum Abandoned {
    /// This process goes on; the successor is told so.
    Refused(io::Error),
    /// This process is ending. The successor is told nothing, and goes on without it.
    Ending,
}

impl From<io::Error> for Abandoned {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<tokio::time::error::Elapsed> for Abandoned {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Refused(io::Error::other(format!("no answer within {PATIENCE:?}")))
    }
}

/// Serves successors, one at a time. Returns when one of them has taken over.
pub(crate) async fn serve(listener: UnixListener, requests: mpsc::Sender<HandoverRequest>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the handover socket could not be accepted on");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match hand_over(stream, &requests).await {
            Ok(true) => return,
            Ok(false) | Err(Abandoned::Ending) => {}
            Err(Abandoned::Refused(error)) => tracing::error!(
                %error,
                "a new process asked for the sockets and did not come to serve: this one goes on"
            ),
        }
    }
}

/// Whether everything is handed over.
async fn hand_over(
    mut stream: UnixStream,
    requests: &mpsc::Sender<HandoverRequest>,
) -> Result<bool, Abandoned> {
    let peer = stream.peer_cred()?;
    let ours = rustix::process::geteuid().as_raw();
    if peer.uid() != ours && peer.uid() != 0 {
        let theirs = peer.uid();
        return Err(Abandoned::Refused(io::Error::other(format!(
            "it runs as user {theirs}, this process as user {ours}"
        ))));
    }
    let hello: Hello = match timeout(PATIENCE, wire::receive(&mut stream)).await? {
        Ok(hello) => hello,
        // Somebody looked whether the socket is alive.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let (tell, told) = oneshot::channel();
    ask_control(requests, HandoverRequest::State(tell)).await?;
    let state = told.await.map_err(|_| Abandoned::Ending)?;
    let successor = Successor {
        stream,
        pid: peer.pid(),
        hello,
    };
    successor.take(state, requests).await.map(|()| true)
}

async fn ask_control(
    requests: &mpsc::Sender<HandoverRequest>,
    request: HandoverRequest,
) -> Result<(), Abandoned> {
    let sent = requests.send(request).await;
    sent.map_err(|_| Abandoned::Ending)
}

/// A process that asks for the sockets.
struct Successor {
    stream: UnixStream,
    pid: Option<i32>,
    hello: Hello,
}

impl Successor {
    async fn take(
        mut self,
        state: HandoverState,
        requests: &mpsc::Sender<HandoverRequest>,
    ) -> Result<(), Abandoned> {
        let (sockets, descriptors) = state.sockets.into_iter().unzip();
        let offer = Offer {
            protocol: PROTOCOL,
            format: FORMAT,
            pid: std::process::id(),
            generation: state.generation,
            draining: state.draining,
            sockets,
            // Format 1 would ignore them, and refuses frames above 4 MiB.
            services: match self.hello.format {
                ..CLAIMS => Vec::new(),
                CLAIMS.. => state.services,
            },
        };
        let taken = self.steps(&offer, descriptors, requests).await;
        if let Err(Abandoned::Refused(error)) = &taken {
            self.refuse(error).await;
        }
        // Only now it is decided: until here the control thread kept to what was offered.
        drop(state.undecided);
        taken
    }

    async fn steps(
        &mut self,
        offer: &Offer,
        descriptors: Vec<OwnedFd>,
        requests: &mpsc::Sender<HandoverRequest>,
    ) -> Result<(), Abandoned> {
        tracing::info!(
            pid = self.pid.unwrap_or(0),
            sockets = descriptors.len(),
            "a new process takes over"
        );
        wire::send(&mut self.stream, offer).await?;
        if self.hello.protocol != PROTOCOL {
            return Err(io::Error::other("it speaks another protocol").into());
        }
        let serving = async {
            wire::send_descriptors(&self.stream, &descriptors).await?;
            drop(descriptors);
            wire::receive::<Serving>(&mut self.stream).await
        };
        let serving = timeout(PATIENCE, serving).await??;
        self.release(serving.unwanted, requests).await
    }

    /// The successor serves: gives the sockets up once it has claimed them.
    async fn release(
        &mut self,
        unwanted: Vec<String>,
        requests: &mpsc::Sender<HandoverRequest>,
    ) -> Result<(), Abandoned> {
        if self.hello.format >= CLAIMS {
            wire::send(&mut self.stream, &Released::default()).await?;
            // Accepting stops only after this: a successor that dies before it leaves nobody without a server.
            timeout(PATIENCE, wire::receive::<Claimed>(&mut self.stream)).await??;
        }
        let (done, finished) = oneshot::channel();
        let release = Release {
            unwanted,
            pid: self.pid,
            done,
        };
        ask_control(requests, HandoverRequest::Release(release)).await?;
        let draining: Vec<EndpointName> = finished.await.map_err(|_| Abandoned::Ending)?;
        let released = Released {
            draining: Some(draining),
            ..Released::default()
        };
        // It is decided. A successor that doesn't hear this goes on all the same.
        if let Err(error) = wire::send(&mut self.stream, &released).await {
            tracing::warn!(%error, "the new process did not wait for the last word");
        }
        Ok(())
    }

    /// Tells the successor that this process goes on, so that it doesn't take the end of the connection for this process's.
    async fn refuse(&mut self, error: &io::Error) {
        if self.hello.format < CLAIMS {
            return;
        }
        let refused = Released {
            refused: Some(error.to_string()),
            ..Released::default()
        };
        // It may have ended: that is the usual reason.
        let _ = timeout(WORD, wire::send(&mut self.stream, &refused)).await;
    }
}
