//! `GET /api/v1/events`: the status and its changes, as server-sent events.
//!
//! Once a second, and soon after a change of state, a round compares the status with the one reported last ([`changes`]) and makes
//! events of the differences, once for all streams ([`ring`]). The status of a service is collected only if it may have changed
//! ([`stamp`]). A stream only knows the number of the last event that it has sent: one
//! that falls behind the events that the ring keeps ends. Nothing is computed while nobody listens.

mod changes;
mod ring;
mod stamp;
mod stream;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::Context;
use super::status::{self, ProxyStatus};
use crate::index::ServiceIx;
use crate::snapshot::Snapshot;
use changes::{Observation, SeenService, ToldState};
use stamp::StampSources;
pub(super) use stream::{CONTENT_TYPE, follow};

/// Time between two rounds that report figures.
const FIGURES: Duration = Duration::from_secs(1);

/// Shortest time between two rounds.
const ROUNDS: Duration = Duration::from_millis(50);

/// The pause after a round, as a multiple of its duration, so that rounds take less than a twentieth of the control thread.
const PAUSE: u32 = 20;

/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Most bytes in one round for services whose figures alone have changed. With more services they are reported in turn.
const FIGURES_BYTES: usize = 256 << 10;

/// Makes the events of all streams.
#[derive(Debug)]
pub(crate) struct EventHub {
    state: Mutex<HubState>,
    streams: AtomicUsize,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
    /// Notified when a round may have something to report, and when the first stream begins.
    hurry: Notify,
}

#[derive(Debug)]
struct HubState {
    told: ToldState,
    /// Number of the history's entries that were reported.
    adopted: u64,
    /// Start of the last round, and of the last one that reported figures.
    round: Option<Instant>,
    figures: Option<Instant>,
    /// The processor time that the last round took.
    took: Duration,
}

impl Default for EventHub {
    fn default() -> Self {
        // Another process at the same instant has another id.
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let started = started.map_or(0, |time| time.as_millis());
        let epoch = format!("{:x}{started:x}", std::process::id());
        Self {
            state: Mutex::new(HubState {
                told: ToldState::new(epoch),
                adopted: 0,
                round: None,
                figures: None,
                took: Duration::ZERO,
            }),
            streams: AtomicUsize::new(0),
            newest: watch::Sender::new(0),
            hurry: Notify::new(),
        }
    }
}

impl EventHub {
    /// Notes that the state of the proxy may have changed.
    pub(crate) fn hurry(&self) {
        if self.is_followed() {
            self.hurry.notify_one();
        }
    }

    fn is_followed(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }

    fn state(&self) -> MutexGuard<'_, HubState> {
        // The lock is not poisoned: nothing panics while it is held.
        self.state.lock().expect("events lock")
    }
}

/// Reports changes to all streams, until the future is dropped.
pub(super) async fn run(context: Arc<Context>) {
    let hub = &context.events;
    loop {
        // After a second without a notice the figures are due.
        let noticed = timeout(FIGURES, hub.hurry.notified()).await;
        if !hub.is_followed() {
            if noticed.is_err() {
                hub.hurry.notified().await;
            }
            continue;
        }
        let next = {
            let state = hub.state();
            let pause = (state.took * PAUSE).clamp(ROUNDS, LONGEST_PAUSE);
            state.round.map(|round| round + pause)
        };
        if let Some(next) = next {
            sleep_until(next).await;
        }
        tell(&context, false);
    }
}

/// Compares the status with the one reported last, and reports the differences. `all`: including the figures of all services.
fn tell(context: &Context, all: bool) {
    let hub = &context.events;
    let mut state = hub.state();
    let (began, worked) = (Instant::now(), processor_time());
    // The seconds of the control thread come a little early or late.
    let is_due = |last: Instant| began.duration_since(last) >= FIGURES - ROUNDS;
    let figures = match state.figures.is_none_or(is_due) {
        _ if all => usize::MAX,
        true => FIGURES_BYTES,
        false => 0,
    };
    if figures > 0 {
        state.figures = Some(began);
    }
    state.round = Some(began);
    let (adopted, entries) = context.history.added_after(state.adopted);
    state.adopted = adopted;
    let snapshot = context.live.current();
    let newest = state.told.observe(
        Observation {
            proxy: facts(&ProxyStatus::without_services(context)),
            services: seen(context, &snapshot),
            status: &|at| status::service(context, &snapshot, ServiceIx(at)),
            adopted: entries,
        },
        figures,
    );
    state.took = processor_time().saturating_sub(worked);
    drop(state);
    hub.newest
        .send_if_modified(|known| std::mem::replace(known, newest) != newest);
}

fn seen(context: &Context, snapshot: &Snapshot) -> Vec<SeenService> {
    // The locks are not poisoned: nothing panics while they are held.
    let rollouts = context.rollouts.lock().expect("rollouts lock");
    let windows = context.windows.lock().expect("windows lock");
    let names = context.names.lock().expect("names lock");
    let sources = StampSources {
        snapshot,
        rollouts: &rollouts,
        windows: &windows,
        has_names: !names.is_empty(),
    };
    let services = ServiceIx::all(snapshot.services.len());
    let seen = services.map(|index| SeenService {
        name: snapshot.services[index].name.clone(),
        stamp: sources.stamp(index),
    });
    seen.collect()
}

/// Processor time of this thread. The clock doesn't count the time in which other threads had the processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The processor time is never negative.
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// The status without its services.
fn facts(status: &ProxyStatus) -> Value {
    // The document has string keys only, so that this doesn't fail.
    let mut facts = serde_json::to_value(status).unwrap_or_default();
    if let Some(facts) = facts.as_object_mut() {
        facts.shift_remove("services");
    }
    facts
}
