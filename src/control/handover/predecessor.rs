//! The running process's side of the handover: offers its sockets to one successor at a time.
//!
//! [`serve`] runs as a task beside the control thread's event loop, and asks it for the state and for the release through
//! [`HandoverRequest`]s. The steps are described in [`super`].

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

/// Pause after a failed accept, so that a lasting error (such as too many open files) doesn't spin.
const PAUSE: Duration = Duration::from_millis(100);
/// Timeout for sending a refusal.
const REFUSAL: Duration = Duration::from_secs(1);

/// Why a takeover failed.
#[derive(Debug)]
enum Abandoned {
    /// This process keeps serving. The successor is told, so that it gives up.
    Refused(io::Error),
    /// This process is stopping. The successor is sent nothing, which tells it to continue alone.
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

/// Serves successors, one at a time. Returns once one of them has taken over.
pub(crate) async fn serve(listener: UnixListener, requests: mpsc::Sender<HandoverRequest>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed on the handover socket");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match hand_over(stream, &requests).await {
            Ok(true) => return,
            Ok(false) | Err(Abandoned::Ending) => {}
            Err(Abandoned::Refused(error)) => tracing::error!(
                %error,
                "takeover failed, this process keeps serving"
            ),
        }
    }
}

/// Serves one connection. Returns whether the successor has taken over.
async fn hand_over(
    mut stream: UnixStream,
    requests: &mpsc::Sender<HandoverRequest>,
) -> Result<bool, Abandoned> {
    // The peer is about to get every listening socket, so only the same user and root are served.
    let peer = stream.peer_cred()?;
    let ours = rustix::process::geteuid().as_raw();
    if peer.uid() != ours && peer.uid() != 0 {
        let theirs = peer.uid();
        return Err(Abandoned::Refused(io::Error::other(format!(
            "the new process runs as user {theirs}, this one as user {ours}"
        ))));
    }
    let hello: Hello = match timeout(PATIENCE, wire::receive(&mut stream)).await? {
        Ok(hello) => hello,
        // The connection was a probe: a process that binds this path first checks whether another one listens on it.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let (reply, answer) = oneshot::channel();
    ask_control(requests, HandoverRequest::State(reply)).await?;
    // The control thread drops the request only when it stops.
    let state = answer.await.map_err(|_| Abandoned::Ending)?;
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
        let names = { state.names.iter() }.map(|(name, set)| (name.clone(), set.to_vec()));
        let offer = Offer {
            protocol: PROTOCOL,
            format: FORMAT,
            pid: std::process::id(),
            generation: state.generation,
            draining: state.draining,
            sockets,
            // Format 1 ignores the services, and rejects frames above 4 MiB.
            services: match self.hello.format {
                ..CLAIMS => Vec::new(),
                CLAIMS.. => state.services,
            },
            tickets: state.tickets,
            names: match self.hello.format {
                ..CLAIMS => Vec::new(),
                CLAIMS.. => names.collect(),
            },
        };
        let taken = self.steps(&offer, descriptors, requests).await;
        if let Err(Abandoned::Refused(error)) = &taken {
            self.refuse(error).await;
        }
        // Decides the takeover. Until here the control thread must not change the sockets that were offered.
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
            "a new process is taking over"
        );
        wire::send(&mut self.stream, offer).await?;
        if self.hello.protocol != PROTOCOL {
            return Err(io::Error::other("the new process uses another handover protocol").into());
        }
        let serving = async {
            wire::send_descriptors(&self.stream, &descriptors).await?;
            drop(descriptors);
            wire::receive::<Serving>(&mut self.stream).await
        };
        let serving = timeout(PATIENCE, serving).await??;
        self.release(serving.unwanted, requests).await
    }

    /// Releases the sockets to the successor, which serves, once it has claimed them.
    async fn release(
        &mut self,
        unwanted: Vec<String>,
        requests: &mpsc::Sender<HandoverRequest>,
    ) -> Result<(), Abandoned> {
        if self.hello.format >= CLAIMS {
            wire::send(&mut self.stream, &Released::default()).await?;
            // This process accepts until the claim arrives. If the successor dies before it, nothing has changed.
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
        // The release can't be undone, so a failure is only logged. The successor that misses this frame serves anyway.
        if let Err(error) = wire::send(&mut self.stream, &released).await {
            tracing::warn!(%error, "failed to confirm the release to the new process");
        }
        Ok(())
    }

    /// Tells the successor that this process keeps serving. It would take a closed connection for the end of this process.
    async fn refuse(&mut self, error: &io::Error) {
        if self.hello.format < CLAIMS {
            return;
        }
        let refused = Released {
            refused: Some(error.to_string()),
            ..Released::default()
        };
        // Usually the takeover failed because the successor has exited, and then this fails too.
        let _ = timeout(REFUSAL, wire::send(&mut self.stream, &refused)).await;
    }
}
