//! The event loop of the control thread, which runs from the end of startup ([`super::boot`]) until shutdown.
//!
//! [`Control::next_event`] waits for one event: a changed file, an admin command, a signal, a takeover request, a dead worker or a
//! timer. [`Control::on`] reacts to it. Events are handled one at a time, so the configuration, the listeners and the snapshot
//! have a single writer and need no locks.

use std::convert::Infallible;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, timeout};

use super::acme::Acme;
use super::admin_sockets::AdminSockets;
use super::drains;
use super::file_watcher::{Changed, FileWatcher};
use super::handover::{HandoverRequest, Release};
use super::hedging;
use super::membership::Membership;
use super::publisher::Publisher;
use super::publisher::reload::ReloadOutcome;
use super::rollouts::{RolloutNews, Rollouts};
use super::shared_config::{ConfigNews, SharedConfig};
use super::shutdown::{self, StopMode};
use super::signals::{SignalRequest, SignalStream};
use super::{RunError, systemd};
use crate::admin::{Context, ControlCommand, ProcessPhase, scrape};

/// Longest time for followers of the access log to read the last lines when the process ends.
const FOLLOWERS: Duration = Duration::from_millis(500);
/// Longest time for the last spans to be exported when the process ends.
const SPANS: Duration = Duration::from_secs(3);
/// Interval at which the status windows are sampled.
const SECOND: Duration = Duration::from_secs(1);

/// A running proxy, owned by its control thread.
///
/// Made by [`super::boot`], consumed by [`Self::run`]. All that can change while the proxy runs is owned here or reached from here,
/// and changes only between two events.
pub(crate) struct Control {
    pub(super) publisher: Publisher,
    pub(super) rollouts: Rollouts,
    pub(super) file_watcher: FileWatcher,
    pub(super) acme: Acme,
    pub(super) membership: Membership,
    pub(super) shared: SharedConfig,
    pub(super) context: Arc<Context>,
    pub(super) commands: mpsc::Receiver<ControlCommand>,
    pub(super) admin: JoinHandle<()>,
    /// Closed once the admin API has answered everybody after a handover.
    pub(super) answers: mpsc::Receiver<Infallible>,
    pub(super) sockets: AdminSockets,
    /// Requests of the handover task, on behalf of a successor.
    pub(super) successor: mpsc::Receiver<HandoverRequest>,
    /// Set while a successor holds an offer. The handover task drops the sender once the takeover has succeeded or failed.
    pub(super) undecided: Option<oneshot::Receiver<()>>,
    pub(super) deferred: Deferred,
    pub(super) handover: Option<JoinHandle<()>>,
    /// Whether the service manager holds duplicates of all listening sockets.
    pub(super) stored: bool,
}

/// Why the event loop ends.
enum ProcessEnd {
    /// This process was asked to stop.
    Stop(StopMode),
    /// A successor took over. `hurried` says that this process was asked to stop as well.
    HandOver { release: Release, hurried: bool },
}

/// Requests that wait until a takeover is decided.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    reload: bool,
    stop: bool,
}

/// The events that the control thread reacts to.
enum Event {
    /// The takeover in progress failed, or its successor exited. (A successful one ends with [`HandoverRequest::Release`].)
    TakeoverDecided,
    FileChanged(Changed),
    Command(ControlCommand),
    Signal(SignalRequest),
    /// The embedding program asked for a graceful stop, or dropped its handle (`false`), which means an immediate one.
    Stop(bool),
    Successor(HandoverRequest),
    WorkerEnded,
    /// An endpoint came up or went down, had its first check result, was ejected or readmitted. The stable gate may open.
    EndpointVerdict,
    /// The rollout store has answered, or a call of a rollout has ended.
    Rollout(Box<RolloutNews>),
    /// A certificate was obtained, or could not be.
    Certificates,
    /// The tables that the fleet shares have changed.
    SharedConfig(ConfigNews),
    /// Time to sample the windows and to check that the thread's own tasks are alive.
    Second,
    /// Names of endpoints have other addresses.
    NamesChanged,
    /// Time for a keep-alive to the service manager's watchdog.
    WatchdogDue,
}

/// The event sources that [`Control`] doesn't own itself.
struct Sources<'a> {
    signals: &'a mut SignalStream,
    stop: &'a mut oneshot::Receiver<()>,
    second: Interval,
    pulse: Interval,
    /// Whether the service manager expects keep-alives, one per tick of `pulse`.
    watchdog: bool,
}

impl<'a> Sources<'a> {
    fn new(signals: &'a mut SignalStream, stop: &'a mut oneshot::Receiver<()>) -> Self {
        let watchdog = systemd::watchdog();
        Self {
            signals,
            stop,
            second: every(SECOND),
            pulse: every(watchdog.unwrap_or(SECOND)),
            watchdog: watchdog.is_some(),
        }
    }
}

impl Control {
    /// Runs the event loop until a signal, `stop` or a takeover ends it, then drains the workers.
    ///
    /// Sending on `stop` asks for a graceful stop; dropping its sender stops at once.
    ///
    /// # Errors
    /// Workers panicked too often, or the control thread or one of its tasks panicked. Requests in flight on the surviving
    /// workers were still drained.
    pub(super) async fn run(
        mut self,
        mut signals: SignalStream,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), RunError> {
        self.store();
        systemd::ready(&self.status());
        // The first sample is the baseline that the windows subtract.
        self.sample();
        // The file may have been edited after startup read it and before the watcher was set up. No event reports that.
        self.reload().await;
        let ended = catch_panic(self.until_stopped(&mut signals, &mut stop)).await;
        let ended = ended.unwrap_or(Err(RunError::Control));
        self.context.readiness.set(ProcessPhase::Stopping);
        // Commands sent from now on fail immediately instead of waiting for an answer. So do the queued ones, whose answer
        // channels are dropped here.
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        let ended = match ended {
            Ok(ProcessEnd::HandOver { release, hurried }) => {
                self.membership.hand_over();
                self.hand_over(release, hurried, &mut signals).await;
                // Without traffic the drain takes no time, and clients of the admin API may have been accepted just before it.
                let _ = timeout(SECOND, self.answers.recv()).await;
                Ok(())
            }
            Ok(ProcessEnd::Stop(mode)) => {
                self.stop(mode, &mut signals).await;
                Ok(())
            }
            Err(error) => {
                tracing::error!("{error}");
                // The threads that still run drain their connections.
                self.stop(StopMode::Graceful, &mut signals).await;
                Err(error)
            }
        };
        let joined = self.publisher.workers_mut().stop();
        // Workers pass their last lines on when they end.
        let log = self.context.telemetry.access_log();
        log.followers().close(FOLLOWERS).await;
        // Only now: the streams of the followers were responses of the admin API.
        self.admin.abort();
        self.publisher.history().flush(SECOND).await;
        self.publisher.traces().flush(SPANS).await;
        if !log.flush(SECOND) {
            tracing::warn!("the last lines of the access log could not be written in time");
        }
        match ended {
            Ok(()) if !joined => Err(RunError::Worker),
            ended => ended,
        }
    }

    async fn until_stopped(
        &mut self,
        signals: &mut SignalStream,
        stop: &mut oneshot::Receiver<()>,
    ) -> Result<ProcessEnd, RunError> {
        let mut sources = Sources::new(signals, stop);
        loop {
            let event = self.next_event(&mut sources).await;
            if let ControlFlow::Break(end) = self.on(event).await? {
                return Ok(end);
            }
            // Whatever the event was, it may have changed what streams of events report.
            self.context.events.hurry();
        }
    }

    /// Waits for the next event. Cancellation safe: a source that isn't chosen keeps its event for the next call.
    async fn next_event(&mut self, sources: &mut Sources<'_>) -> Event {
        // A successor that holds an offer serves on exactly the sockets that exist now. Events that could bind or close one
        // are not taken until the takeover is decided.
        let open = self.undecided.is_none();
        tokio::select! {
            () = decided(self.undecided.as_mut()) => Event::TakeoverDecided,
            changed = self.file_watcher.changed(), if open => Event::FileChanged(changed),
            Some(command) = self.commands.recv(), if open => Event::Command(command),
            request = sources.signals.next() => Event::Signal(request),
            // A oneshot receiver panics when it is polled again after it has completed.
            asked = &mut *sources.stop, if !self.deferred.stop => Event::Stop(asked.is_ok()),
            Some(request) = self.successor.recv() => Event::Successor(request),
            () = self.publisher.workers().one_ended() => Event::WorkerEnded,
            () = self.publisher.news() => Event::EndpointVerdict,
            // A successor that holds an offer has read the store: nothing may change it until the takeover is decided.
            news = self.rollouts.news(), if open => Event::Rollout(Box::new(news)),
            // The configuration must not change either.
            news = self.shared.news(), if open => Event::SharedConfig(news),
            () = self.acme.news() => Event::Certificates,
            _ = sources.second.tick() => Event::Second,
            () = self.publisher.discovery().news() => Event::NamesChanged,
            _ = sources.pulse.tick(), if sources.watchdog => Event::WatchdogDue,
        }
    }

    /// Reacts to one event.
    ///
    /// # Errors
    /// Workers keep panicking, or one of this thread's tasks has died.
    async fn on(&mut self, event: Event) -> Result<ControlFlow<ProcessEnd>, RunError> {
        match event {
            Event::TakeoverDecided => return Ok(self.on_takeover_decided().await),
            Event::FileChanged(Changed::Config) => drop(self.reload_file().await),
            Event::FileChanged(Changed::Certificates) => self.publisher.renew(),
            Event::Certificates => self.publisher.note_orders(self.acme.errors()),
            Event::Command(command) => self.on_command(command).await,
            Event::Signal(SignalRequest::Reload) if self.undecided.is_some() => {
                self.deferred.reload = true;
            }
            Event::Signal(SignalRequest::Reload) => drop(self.reload_all().await),
            Event::Signal(SignalRequest::ReopenLog) => self.publisher.reopen_log(),
            Event::Signal(SignalRequest::Stop) | Event::Stop(true) => return Ok(self.on_stop()),
            // The handle that could have asked for a graceful stop was dropped.
            Event::Stop(false) => {
                return Ok(ControlFlow::Break(ProcessEnd::Stop(StopMode::Immediate)));
            }
            Event::Successor(HandoverRequest::State(reply)) => self.offer(reply),
            Event::Successor(HandoverRequest::Release(release)) => {
                let hurried = self.deferred.stop;
                return Ok(ControlFlow::Break(ProcessEnd::HandOver {
                    release,
                    hurried,
                }));
            }
            Event::WorkerEnded => self
                .publisher
                .restart_workers()
                .map_err(|_| RunError::Worker)?,
            Event::EndpointVerdict => {
                if self.publisher.open_gate().await {
                    systemd::status(&self.status());
                }
            }
            Event::Rollout(news) => {
                self.rollouts.on_news(*news, &mut self.publisher).await;
                self.show_rollouts();
            }
            Event::SharedConfig(news) => self.on_shared_config(news).await,
            Event::Second => {
                self.sample();
                // A successor that holds an offer has read the rollouts' store already: no step may be taken until the takeover is
                // decided.
                if self.undecided.is_none() {
                    let members = self.membership.limit_members();
                    self.publisher.divide_limits(members).await;
                    self.rollouts.set_members(self.membership.members());
                    self.rollouts.second(&mut self.publisher).await;
                    self.show_rollouts();
                }
                self.publisher.rotate_tickets();
                if self.publisher.may_renew() {
                    self.publisher.renew();
                }
                if self.has_dead_task() {
                    return Err(RunError::Control);
                }
            }
            Event::NamesChanged => self.publisher.publish_names().await,
            Event::WatchdogDue => {
                // If this thread itself hangs, nobody gets here, and the service manager misses the sign as well.
                if self.publisher.workers_mut().is_alive() {
                    systemd::alive();
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Handles a request to stop. While a takeover is undecided the first request is deferred and a second one stops at once.
    fn on_stop(&mut self) -> ControlFlow<ProcessEnd> {
        if self.undecided.is_none() {
            return ControlFlow::Break(ProcessEnd::Stop(StopMode::Graceful));
        }
        if self.deferred.stop {
            return ControlFlow::Break(ProcessEnd::Stop(StopMode::Immediate));
        }
        tracing::info!("asked to stop: waiting until the takeover is decided");
        self.deferred.stop = true;
        ControlFlow::Continue(())
    }

    /// Carries out the deferred requests after the successor that held an offer did not take over.
    async fn on_takeover_decided(&mut self) -> ControlFlow<ProcessEnd> {
        self.undecided = None;
        if self.deferred.stop {
            return ControlFlow::Break(ProcessEnd::Stop(StopMode::Graceful));
        }
        if std::mem::take(&mut self.deferred.reload) {
            self.reload_all().await;
        }
        ControlFlow::Continue(())
    }

    async fn on_command(&mut self, command: ControlCommand) {
        tracing::trace!("operator command received");
        match command {
            ControlCommand::Reload { answer } => {
                let outcome = self.reload_all().await;
                // Fails if the client has disconnected, which doesn't matter here.
                let _ = answer.send(match outcome {
                    ReloadOutcome::Adopted(generation) | ReloadOutcome::Unchanged(generation) => {
                        Ok(generation)
                    }
                    ReloadOutcome::Refused(error) => Err(error),
                });
            }
            ControlCommand::Rollout {
                service,
                command,
                by,
                answer,
            } => {
                let command = (command, by.as_str());
                let result = self
                    .rollouts
                    .command(&service, command, &mut self.publisher)
                    .await;
                self.show_rollouts();
                // Fails if the client has disconnected, which doesn't matter here.
                let _ = answer.send(result);
            }
            ControlCommand::Drain {
                service,
                request,
                answer,
            } => {
                let snapshot = self.publisher.live().current();
                // Fails if the client has disconnected, which doesn't matter here.
                let _ = answer.send(drains::drain(&snapshot, &service, &request));
            }
            ControlCommand::Share { change, answer } => self.share_tables(change, answer),
            ControlCommand::Preview { spec, answer } => {
                // Fails if the client has disconnected, which doesn't matter here.
                let _ = answer.send(self.publisher.preview(&spec));
            }
        }
    }

    /// Whether one of this thread's tasks (handover, admin API, health monitor, lookups of names) has ended. None of them returns
    /// while the loop runs, so it has panicked.
    fn has_dead_task(&self) -> bool {
        let handover = self.handover.as_ref().is_some_and(JoinHandle::is_finished);
        handover || self.admin.is_finished() || self.publisher.has_dead_task()
    }

    /// Stops this process, on request or after a fault. A successor that holds an offer carries on without it.
    async fn stop(&mut self, mode: StopMode, signals: &mut SignalStream) {
        self.acme.stop();
        self.membership.leave().await;
        if self.undecided.is_some() {
            tracing::warn!("stopping during a takeover: leaving the sockets to the new process");
            self.publisher.listeners().leave_files();
            self.sockets.leave();
            self.context.readiness.hand_over();
        }
        if self.stored {
            // The service manager passes the sockets to the next process. Unix socket files must stay, so that clients can
            // connect in the meantime: the kernel queues their connections.
            self.publisher.listeners().leave_files();
        }
        if let Some(handover) = self.handover.take() {
            handover.abort();
        }
        self.sockets.close_handover();
        shutdown::run(&mut self.publisher, mode, signals).await;
    }

    /// Publishes the state of the rollouts for the API.
    pub(super) fn show_rollouts(&self) {
        *self.context.rollouts.lock().expect("rollouts lock") = self.rollouts.status();
    }

    /// Samples the status windows and frees superseded snapshots. Runs every second and after a reload.
    pub(super) fn sample(&self) {
        self.publisher.live().drop_unused();
        let (now, live) = (Instant::now(), self.publisher.live());
        let telemetry = &self.context.telemetry;
        telemetry.expire(now, || scrape::present(&live.current()));
        let mut windows = self.context.windows.lock().expect("windows lock");
        windows.tick(now, telemetry);
        let snapshot = live.current();
        hedging::publish_delays(&windows, &snapshot);
        let rollouts = self.context.rollouts.lock().expect("rollouts lock");
        let mut series = self.context.series.lock().expect("series lock");
        series.tick(now, &snapshot, &windows, &rollouts);
    }

    /// The status line for the service manager.
    pub(super) fn status(&self) -> String {
        let snapshot = self.publisher.live().current();
        let connections = self.publisher.connections();
        let refused = match self.publisher.live().source().error {
            Some(_) => "; the current file was refused, see the log",
            None => "",
        };
        format!(
            "generation {}, {} services, {connections} connections{refused}",
            snapshot.generation,
            snapshot.services.len()
        )
    }
}

/// Waits until an offer is decided; forever if there is none.
async fn decided(offer: Option<&mut oneshot::Receiver<()>>) {
    match offer {
        // Nothing is ever sent: the receiver completes when the sender is dropped.
        Some(offer) => drop(offer.await),
        None => std::future::pending().await,
    }
}

/// Runs `work`; `None` if it panicked. The caller may only shut down afterwards, because a panic can leave [`Control`] between
/// two consistent states.
async fn catch_panic<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        },
    )
    .await
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
