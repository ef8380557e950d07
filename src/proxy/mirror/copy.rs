//! The thread that sends copies.
//!
//! One thread of the process sends all of them, with a lower priority than the workers: parsing and comparing bodies must not
//! delay users. It is started by the first copy, so a proxy without mirrors doesn't have it. The permits of the copies bound the
//! number that waits for it.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::answer::ComparedAnswer;
use super::client::{CopiedRequest, MirrorClient};
use super::diff::{Comparison, compare};
use crate::snapshot::MirrorTarget;
use crate::telemetry::mirror::{MirrorDifference, MirrorPermit};
use crate::telemetry::record::MirrorOutcome;
use crate::upstream::PoolView;

/// Amount by which the thread's niceness is above that of workers.
const NICENESS: i32 = 10;
/// Interval at which idle connections are checked.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// A copy that is ready to be sent.
#[derive(Debug)]
pub(super) struct MirrorCopy {
    pub target: Arc<MirrorTarget>,
    pub permit: MirrorPermit,
    pub request: CopiedRequest,
    /// The response to the user; `None` if it can't be compared.
    pub live: Option<ComparedAnswer>,
    pub id: String,
    /// The path, without the query.
    pub path: String,
    /// The version that served the user.
    pub version: String,
}

/// The queue of the thread; `None` if the thread can't be started.
static COPIES: LazyLock<Option<UnboundedSender<MirrorCopy>>> = LazyLock::new(|| {
    start()
        .inspect_err(|error| tracing::warn!(%error, "no copies of requests can be sent"))
        .ok()
});

/// Hands a copy over to the thread that sends it.
pub(super) fn hand_over(copy: MirrorCopy) {
    let refused = match &*COPIES {
        Some(copies) => copies.send(copy).err().map(|refused| refused.0),
        None => Some(copy),
    };
    if let Some(mut copy) = refused {
        copy.permit.outcome = MirrorOutcome::Failed;
    }
}

fn start() -> std::io::Result<UnboundedSender<MirrorCopy>> {
    let (sender, copies) = mpsc::unbounded_channel();
    let mut runtime = Builder::new_current_thread();
    runtime.enable_all();
    let thread = std::thread::Builder::new().name("mirror".to_owned());
    thread.spawn(move || {
        // On Linux this applies to the calling thread. Without it copies compete with users, which is no reason to fail.
        let _ = rustix::process::nice(NICENESS);
        match runtime.build_local(LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(serve(copies)),
            Err(error) => tracing::warn!(%error, "no copies of requests can be sent"),
        }
    })?;
    Ok(sender)
}

async fn serve(mut copies: UnboundedReceiver<MirrorCopy>) {
    let client = Rc::new(MirrorClient::default());
    let mut swept = Instant::now();
    loop {
        match timeout(SWEEP_EVERY, copies.recv()).await {
            Ok(Some(copy)) => {
                spawn_local(send(copy, Rc::clone(&client)));
            }
            // The sender lives as long as the process.
            Ok(None) => return,
            Err(_) => {}
        }
        let now = Instant::now();
        if now.duration_since(swept) >= SWEEP_EVERY {
            swept = now;
            client.sweep(now);
        }
    }
}

/// Sends a copy and records its outcome.
async fn send(mut copy: MirrorCopy, client: Rc<MirrorClient>) {
    let MirrorTarget { spec, pool, .. } = &*copy.target;
    let picked = pool.pick(
        &mut fastrand::Rng::new(),
        &mut PoolView::default(),
        &[],
        None,
    );
    let Some(member) = picked else {
        copy.permit.outcome = MirrorOutcome::Unavailable;
        return;
    };
    let endpoint = &pool.members[member].endpoint;
    // If the task ends by a panic, the copy has failed.
    copy.permit.outcome = MirrorOutcome::Failed;
    let sent = client.send(endpoint, &copy.request, spec);
    let answer = match timeout(spec.timeout, sent).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::debug!(id = copy.id, endpoint = &*endpoint.name, %error, "copy failed");
            return;
        }
        Err(_) => {
            copy.permit.outcome = MirrorOutcome::Timeout;
            return;
        }
    };
    let comparison = copy.live.as_ref().filter(|_| !spec.diff.is_empty());
    let comparison = comparison.map(|live| compare(spec, live, &answer));
    copy.permit.outcome = outcome(comparison.as_ref());
    if let Some(found) = comparison
        && !found.findings.is_empty()
    {
        copy.target.log.record(MirrorDifference {
            id: std::mem::take(&mut copy.id),
            at: SystemTime::now(),
            method: copy.request.method.to_string(),
            path: std::mem::take(&mut copy.path),
            version: std::mem::take(&mut copy.version),
            endpoint: endpoint.name.to_string(),
            findings: found.findings,
            bodies: found.bodies,
        });
    }
}

/// The outcome of a copy that was answered, by the comparison if there was one.
fn outcome(comparison: Option<&Comparison>) -> MirrorOutcome {
    match comparison {
        Some(found) if !found.findings.is_empty() => MirrorOutcome::Different,
        Some(found) if !found.is_partial => MirrorOutcome::Same,
        _ => MirrorOutcome::Unchecked,
    }
}
