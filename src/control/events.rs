//! The control thread of a proxy that is up: does whatever happens: edits, signals, commands, clocks. [`super::boot`] makes it.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Interval, MissedTickBehavior};

use super::admin_sockets::AdminSockets;
use super::boot::tcp_places;
use super::file_watcher::{Changed, FileWatcher};
use super::handover::{HandoverRequest, HandoverState, Release};
#[cfg(test)]
use super::in_process::Up;
use super::publisher::{Publisher, ReloadOutcome};
use super::shutdown::{self, Haste};
use super::signals::{SignalRequest, SignalStream};
use super::{RunError, systemd};
#[cfg(test)]
use crate::admin;
use crate::admin::{Context, ControlCommand, ProcessPhase, scrape};
use crate::edge::inherit::Label;
use crate::upstream::discovery;

/// How often the windows are sampled.
const SECOND: Duration = Duration::from_secs(1);

/// A proxy that is up, held by its control thread.
pub(crate) struct Control {
    pub(super) publisher: Publisher,
    pub(super) watch: FileWatcher,
    pub(super) context: Arc<Context>,
    pub(super) commands: mpsc::Receiver<ControlCommand>,
    pub(super) admin: JoinHandle<()>,
    pub(super) desk: AdminSockets,
    /// What a successor asks.
    pub(super) successor: mpsc::Receiver<HandoverRequest>,
    /// While a successor has an offer: its other end is dropped when the takeover is decided.
    pub(super) undecided: Option<oneshot::Receiver<()>>,
    pub(super) deferred: Deferred,
    pub(super) handover: Option<JoinHandle<()>>,
    /// The service manager keeps the sockets of all listeners.
    pub(super) stored: bool,
}

/// How a life ends.
enum ProcessEnd {
    /// As asked.
    Stop(Haste),
    /// Another process serves. `hurried`: this one was asked to stop as well.
    HandOver { release: Release, hurried: bool },
}

/// What waits until a takeover is decided.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    reload: bool,
    stop: bool,
}

/// What the control thread reacts to.
enum Event {
    /// The takeover that was under way has failed, or its successor has gone.
    TakeoverDecided,
    FileChanged(Changed),
    Command(ControlCommand),
    Signal(SignalRequest),
    /// The embedding program wants the end: in order, or at once (`false`).
    Stop(bool),
    Successor(HandoverRequest),
    WorkerEnded,
    /// An endpoint came up, or had its first result: the stable gate may open.
    EndpointUp,
    /// Windows are sampled, and the thread's own tasks are looked at.
    Second,
    /// Names of endpoints are to be resolved again.
    NamesDue,
    /// The service manager waits for a sign of life.
    WatchdogDue,
}

/// Where events come from, besides what [`Control`] holds itself.
struct Sources<'a> {
    signals: &'a mut SignalStream,
    stop: &'a mut oneshot::Receiver<()>,
    second: Interval,
    names: Interval,
    pulse: Interval,
    /// The service manager has a watchdog, for which `pulse` is.
    watchdog: bool,
}

impl<'a> Sources<'a> {
    fn new(signals: &'a mut SignalStream, stop: &'a mut oneshot::Receiver<()>) -> Self {
        let watchdog = systemd::watchdog();
        Self {
            signals,
            stop,
            second: every(SECOND),
            names: every(discovery::EVERY),
            pulse: every(watchdog.unwrap_or(discovery::EVERY)),
            watchdog: watchdog.is_some(),
        }
    }
}

impl Control {
    /// What the embedding program is told.
    #[cfg(test)]
    pub(super) fn up(&self) -> Up {
        Up {
            live: self.publisher.live().clone(),
            places: self.publisher.listeners().places(),
            admin: self.desk.addresses.clone(),
        }
    }

    /// Lives until it is stopped, by a signal or by `stop` (dropped without a word: at once), and drains.
    ///
    /// # Errors
    /// Workers died too often, or a part of this thread did; what could be finished was.
    pub(super) async fn live(
        mut self,
        mut signals: SignalStream,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), RunError> {
        self.store();
        systemd::ready(&self.status());
        // What the windows count from.
        self.sample();
        // An edit while we came up was before the watch.
        self.reload().await;
        let ended = caught(self.until_stopped(&mut signals, &mut stop)).await;
        let ended = ended.unwrap_or(Err(RunError::Control));
        self.context.readiness.set(ProcessPhase::Stopping);
        // Who asks for something now is told at once that nobody does it.
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        let ended = match ended {
            Ok(ProcessEnd::HandOver { release, hurried }) => {
                self.hand_over(release, hurried, &mut signals).await;
                Ok(())
            }
            Ok(ProcessEnd::Stop(haste)) => {
                self.stop(haste, &mut signals).await;
                Ok(())
            }
            Err(error) => {
                tracing::error!("{error}");
                // What still works finishes what it has.
                self.stop(Haste::Finish, &mut signals).await;
                Err(error)
            }
        };
        self.admin.abort();
        let all_well = self.publisher.fleet_mut().stop();
        match ended {
            Ok(()) if !all_well => Err(RunError::Worker),
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
        }
    }

    /// Waits for the next event. Cancellation safe: every source keeps what it has until it is asked again.
    async fn next_event(&mut self, sources: &mut Sources<'_>) -> Event {
        // A successor that has an offer binds the sockets as they are now. Whatever could bind or close one waits until the
        // takeover is decided.
        let open = self.undecided.is_none();
        tokio::select! {
            () = decided(self.undecided.as_mut()) => Event::TakeoverDecided,
            changed = self.watch.changed(), if open => Event::FileChanged(changed),
            Some(command) = self.commands.recv(), if open => Event::Command(command),
            request = sources.signals.next() => Event::Signal(request),
            // A oneshot channel must not be polled again once it has answered.
            asked = &mut *sources.stop, if !self.deferred.stop => Event::Stop(asked.is_ok()),
            Some(request) = self.successor.recv() => Event::Successor(request),
            () = self.publisher.fleet().one_ended() => Event::WorkerEnded,
            () = self.publisher.news() => Event::EndpointUp,
            _ = sources.second.tick() => Event::Second,
            _ = sources.names.tick() => Event::NamesDue,
            _ = sources.pulse.tick(), if sources.watchdog => Event::WatchdogDue,
        }
    }

    /// Reacts to one event.
    ///
    /// # Errors
    /// Workers die again and again, or a task of this thread has died.
    async fn on(&mut self, event: Event) -> Result<ControlFlow<ProcessEnd>, RunError> {
        match event {
            Event::TakeoverDecided => return Ok(self.on_takeover_decided().await),
            Event::FileChanged(Changed::Config) => drop(self.reload().await),
            Event::FileChanged(Changed::Certificates) => self.publisher.renew(),
            Event::Command(command) => self.obey(command).await,
            Event::Signal(SignalRequest::Reload) if self.undecided.is_some() => {
                self.deferred.reload = true;
            }
            Event::Signal(SignalRequest::Reload) => drop(self.reload_all().await),
            Event::Signal(SignalRequest::Stop) | Event::Stop(true) => return Ok(self.on_stop()),
            // Whoever could have asked for an orderly end is gone.
            Event::Stop(false) => return Ok(ControlFlow::Break(ProcessEnd::Stop(Haste::Now))),
            Event::Successor(HandoverRequest::State(tell)) => self.offer(tell),
            Event::Successor(HandoverRequest::Release(release)) => {
                let hurried = self.deferred.stop;
                return Ok(ControlFlow::Break(ProcessEnd::HandOver {
                    release,
                    hurried,
                }));
            }
            Event::WorkerEnded => self.publisher.revive().map_err(|_| RunError::Worker)?,
            Event::EndpointUp => {
                if self.publisher.open_gate().await {
                    systemd::status(&self.status());
                }
            }
            Event::Second => {
                self.sample();
                if self.publisher.listeners().may_renew() {
                    self.publisher.renew();
                }
                if self.is_crippled() {
                    return Err(RunError::Control);
                }
            }
            Event::NamesDue => {
                // A name server may be slow: nothing else waits for it.
                let registry = self.publisher.registry().clone();
                spawn_local(async move { discovery::refresh(&registry).await });
            }
            Event::WatchdogDue => {
                if self.publisher.fleet_mut().is_alive() {
                    systemd::alive();
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Asked to stop. While a takeover is undecided the stop waits, and a second one doesn't.
    fn on_stop(&mut self) -> ControlFlow<ProcessEnd> {
        if self.undecided.is_none() {
            return ControlFlow::Break(ProcessEnd::Stop(Haste::Finish));
        }
        if self.deferred.stop {
            return ControlFlow::Break(ProcessEnd::Stop(Haste::Now));
        }
        tracing::info!("asked to stop: waiting until the takeover is decided");
        self.deferred.stop = true;
        ControlFlow::Continue(())
    }

    /// The successor that had an offer didn't take over: what waited for that is done now.
    async fn on_takeover_decided(&mut self) -> ControlFlow<ProcessEnd> {
        self.undecided = None;
        if self.deferred.stop {
            return ControlFlow::Break(ProcessEnd::Stop(Haste::Finish));
        }
        if std::mem::take(&mut self.deferred.reload) {
            self.reload_all().await;
        }
        ControlFlow::Continue(())
    }

    /// A reload that was asked for: the file and the certificates, and the service manager is told.
    async fn reload_all(&mut self) -> ReloadOutcome {
        systemd::reloading();
        let outcome = self.reload().await;
        self.publisher.renew();
        systemd::ready(&self.status());
        outcome
    }

    async fn obey(&mut self, command: ControlCommand) {
        match command {
            ControlCommand::Reload { answer } => {
                let outcome = self.reload_all().await;
                // Who asked may have gone.
                let _ = answer.send(match outcome {
                    ReloadOutcome::Adopted(generation) | ReloadOutcome::Unchanged(generation) => {
                        Ok(generation)
                    }
                    ReloadOutcome::Refused(error) => Err(error),
                });
            }
            #[cfg(test)]
            ControlCommand::Stumble(admin::Stumble::Worker(id, whole)) => {
                let worker = &self.publisher.fleet().workers()[id];
                worker.tell(crate::edge::worker::WorkerCommand::Stumble(whole));
            }
            #[cfg(test)]
            ControlCommand::Stumble(admin::Stumble::Control) => {
                panic!("on purpose: control thread")
            }
            #[cfg(test)]
            ControlCommand::Stumble(admin::Stumble::Admin) => {
                self.admin = spawn_local(async { panic!("on purpose: admin") });
            }
        }
    }

    /// Whether one of this thread's own tasks has died, so that nobody checks, or nobody answers.
    fn is_crippled(&self) -> bool {
        let handover = self.handover.as_ref().is_some_and(JoinHandle::is_finished);
        handover || self.admin.is_finished() || self.publisher.is_unwatched()
    }

    /// Gives a successor everything that it needs.
    fn offer(&mut self, tell: oneshot::Sender<HandoverState>) {
        let snapshot = self.publisher.live().current();
        let held = self.publisher.listeners().held().chain(self.desk.held());
        let duplicate = |(label, fd): (Label, &OwnedFd)| match fd.try_clone() {
            Ok(fd) => Some((label, fd)),
            Err(error) => {
                tracing::error!("{label:?} can't be handed over: {error}");
                None
            }
        };
        let (undecided, decided) = oneshot::channel();
        let state = HandoverState {
            generation: snapshot.generation,
            draining: shutdown::draining(&snapshot),
            services: snapshot.state(),
            sockets: held.filter_map(duplicate).collect(),
            undecided,
        };
        self.undecided = Some(decided);
        // If it has gone, `undecided` is dropped here, and the takeover is decided.
        drop(tell.send(state));
    }

    /// The end, as asked or by a fault. A successor that has an offer goes on by itself.
    async fn stop(&mut self, haste: Haste, signals: &mut SignalStream) {
        if self.undecided.is_some() {
            tracing::warn!("stopping while a new process takes over: the sockets are left to it");
            self.publisher.listeners().leave_files();
            self.desk.leave();
            self.context.readiness.hand_over();
        }
        if self.stored {
            // The next process gets the sockets; clients can go on connecting to those with a path, and wait for it.
            self.publisher.listeners().leave_files();
        }
        if let Some(handover) = self.handover.take() {
            handover.abort();
        }
        self.desk.close_handover();
        shutdown::run(&mut self.publisher, haste, signals).await;
    }

    /// Another process serves: lets go of everything that it has now, and finishes the rest.
    async fn hand_over(&mut self, release: Release, hurried: bool, signals: &mut SignalStream) {
        if let Some(pid) = release.pid {
            systemd::main_process(pid);
        }
        self.context.readiness.hand_over();
        self.desk.leave();
        let unwanted = release.unwanted;
        // No drain changes after this: the admin API refuses changes once it is handed over.
        let draining = shutdown::draining(&self.publisher.live().current());
        if release.done.send(draining).is_err() {
            tracing::warn!("the new process did not wait for word");
        }
        if let Some(handover) = self.handover.take() {
            // The word has to be out before this process may end.
            let _ = tokio::time::timeout(SECOND, handover).await;
        }
        shutdown::hand_over(&mut self.publisher, &unwanted, hurried, signals).await;
        self.desk.reclaim(&unwanted);
    }

    /// Leaves the sockets with the service manager, so that a restart finds them again.
    fn store(&mut self) {
        let held = self.publisher.listeners().held();
        let mut stored = true;
        for (label, socket) in held {
            stored &= systemd::store(&label.name, socket.as_fd());
        }
        self.stored = stored;
    }

    async fn reload(&mut self) -> ReloadOutcome {
        let before = self.publisher.listeners().places();
        let outcome = self.publisher.reload().await;
        if matches!(outcome, ReloadOutcome::Adopted(_)) {
            let now = self.publisher.listeners().places();
            if now != before {
                before.iter().for_each(|(name, _)| systemd::forget(name));
                self.store();
            }
            self.watch
                .set_certificates(self.publisher.listeners().certificate_files());
            *self.context.bound.lock().expect("bound lock") = tcp_places(&self.publisher);
            // New versions are watched from now on, not from the next second.
            self.sample();
        }
        systemd::status(&self.status());
        outcome
    }

    /// Every second, and after a reload.
    fn sample(&self) {
        self.publisher.live().bury();
        let (now, live) = (Instant::now(), self.publisher.live());
        let telemetry = &self.context.telemetry;
        telemetry.expire(now, || scrape::present(&live.current()));
        let mut windows = self.context.windows.lock().expect("windows lock");
        windows.tick(now, telemetry);
    }

    /// One line for the service manager.
    fn status(&self) -> String {
        let snapshot = self.publisher.live().current();
        let connections = self.publisher.connections();
        let refused = match self.publisher.live().source().error {
            Some(_) => "; the file as it is now was refused, see the log",
            None => "",
        };
        format!(
            "generation {}, {} services, {connections} connections{refused}",
            snapshot.generation,
            snapshot.services.len()
        )
    }
}

/// Waits until it is clear what became of an offer.
async fn decided(offer: Option<&mut oneshot::Receiver<()>>) {
    match offer {
        // It is never sent: its other end is dropped.
        Some(offer) => drop(offer.await),
        None => std::future::pending().await,
    }
}

/// What comes of this; `None`: it panicked.
async fn caught<T>(work: impl Future<Output = T>) -> Option<T> {
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
