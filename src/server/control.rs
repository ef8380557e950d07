//! The control thread: brings the proxy up, then does whatever happens: edits, signals, commands, clocks.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Interval, MissedTickBehavior};

use super::desk::Desk;
use super::drain::{self, Haste};
use super::handover::{self, Estate, LetGo, Predecessor, Wish};
use super::inherit::{Inherited, Label};
use super::listener::Place;
use super::reload::{Outcome, Prepared, Publisher};
use super::watch::{Changed, Watch};
use super::{Options, RunError, Up, gate, systemd};
use crate::admin::{self, Command, Context, Phase, Readiness};
use crate::config::{Spec, paths};
use crate::telemetry::windows::Windows;
use crate::upstream::discovery;

/// How often the windows are sampled.
const SECOND: Duration = Duration::from_secs(1);

/// What the system may want.
pub struct Signals(Option<[Signal; 3]>);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP.
    Reload,
    /// SIGTERM, SIGINT.
    Stop,
}

impl Signals {
    /// Takes SIGHUP, SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// The handlers can't be set.
    pub fn listen() -> io::Result<Self> {
        let [hup, term, int] = [
            SignalKind::hangup(),
            SignalKind::terminate(),
            SignalKind::interrupt(),
        ]
        .map(signal);
        Ok(Self(Some([hup?, term?, int?])))
    }

    /// For a proxy inside another program, which has the signals.
    pub fn none() -> Self {
        Self(None)
    }

    /// Waits for the next.
    pub async fn next(&mut self) -> Asked {
        let Some([hup, term, int]) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            Some(()) = hup.recv() => Asked::Reload,
            Some(()) = term.recv() => Asked::Stop,
            Some(()) = int.recv() => Asked::Stop,
        }
    }
}

/// A proxy that is up, held by its control thread.
pub struct Control {
    publisher: Publisher,
    watch: Watch,
    context: Arc<Context>,
    commands: mpsc::Receiver<Command>,
    admin: JoinHandle<()>,
    desk: Desk,
    /// What the next process asks.
    successor: mpsc::Receiver<Wish>,
    handover: Option<JoinHandle<()>>,
}

/// How a life ends.
enum End {
    /// As asked.
    Stop(Haste),
    /// Another process serves.
    HandOver(LetGo),
}

impl Control {
    /// Brings a proxy up: configuration, listeners and certificates, workers, admin, watch, and then the doors open.
    ///
    /// # Errors
    /// Any of it fails. Nothing is left behind then, and whose place was to be taken goes on.
    pub async fn boot(
        options: &Options,
        sender: mpsc::Sender<Command>,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, RunError> {
        let descriptors = gate::raise_descriptor_limit();
        let mut prepared = Prepared::read(&options.config, descriptors).await?;
        let (predecessor, mut inherited) = match options.takeover {
            true => predecessor(&prepared.first().spec, &options.config).await?,
            false => (None, Inherited::from_environment()),
        };
        if let Some(predecessor) = &predecessor {
            prepared.first().generation = predecessor.generation + 1;
            drain::drain_again(prepared.first(), &predecessor.draining);
        }
        let mut publisher = prepared.bind(&mut inherited).await?;
        let spec = publisher.live().current().spec.clone();
        let mut desk = Desk::open(&spec, &options.config, &mut inherited)
            .await
            .map_err(RunError::Admin)?;
        let context = Arc::new(Context {
            live: publisher.live().clone(),
            telemetry: publisher.telemetry().clone(),
            windows: Mutex::new(Windows::default()),
            started: Instant::now(),
            bound: Mutex::new(tcp_places(&publisher)),
            readiness: Arc::new(Readiness::default()),
            publisher: sender,
        });
        let mut watch = Watch::new(&options.config);
        watch.set_certificates(publisher.listeners().certificate_files());
        let listeners = std::mem::take(&mut desk.listeners);
        let unwanted = inherited.give_up();
        publisher.open();
        if let Some(predecessor) = predecessor {
            relieve(predecessor, &mut publisher, &unwanted).await?;
        } else {
            unwanted.iter().for_each(|l| systemd::forget(&l.name));
        }
        let admin = spawn_local(admin::serve(listeners, context.clone()));
        context.readiness.set(Phase::Ready);
        let (wishes, successor) = mpsc::channel(1);
        let waiting = desk.handover.take();
        let handover = waiting.map(|l| spawn_local(handover::serve(l, wishes)));
        Ok(Self {
            publisher,
            watch,
            context,
            commands,
            admin,
            desk,
            successor,
            handover,
        })
    }

    /// What the embedding program is told.
    pub fn up(&self) -> Up {
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
    pub async fn live(
        mut self,
        mut signals: Signals,
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
        self.context.readiness.set(Phase::Stopping);
        // Who asks for something now is told at once that nobody does it.
        self.commands.close();
        let ended = match ended {
            Ok(End::Stop(haste)) => {
                if let Some(handover) = self.handover.take() {
                    handover.abort();
                }
                drain::run(&mut self.publisher, haste, &mut signals).await;
                Ok(())
            }
            Ok(End::HandOver(let_go)) => {
                self.hand_over(let_go, &mut signals).await;
                Ok(())
            }
            Err(error) => {
                tracing::error!("{error}");
                // What still works finishes what it has.
                drain::run(&mut self.publisher, Haste::Finish, &mut signals).await;
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
        signals: &mut Signals,
        stop: &mut oneshot::Receiver<()>,
    ) -> Result<End, RunError> {
        let mut second = every(SECOND);
        let mut names = every(discovery::EVERY);
        let watchdog = systemd::watchdog();
        let mut pulse = every(watchdog.unwrap_or(discovery::EVERY));
        // While another process has what was held at the time, nothing is bound or let go of here: both would come for the same places.
        let mut offer: Option<oneshot::Receiver<()>> = None;
        let mut reload_later = false;
        loop {
            let open = offer.is_none();
            tokio::select! {
                () = decided(offer.as_mut()) => {
                    offer = None;
                    if std::mem::take(&mut reload_later) {
                        self.reload().await;
                    }
                }
                changed = self.watch.changed(), if open => match changed {
                    Changed::Config => { self.reload().await; }
                    Changed::Certificates => self.publisher.renew(),
                },
                Some(command) = self.commands.recv(), if open => self.obey(command).await,
                wish = signals.next() => match wish {
                    Asked::Reload if !open => reload_later = true,
                    Asked::Reload => {
                        systemd::reloading();
                        self.reload().await;
                        self.publisher.renew();
                        systemd::ready(&self.status());
                    }
                    Asked::Stop => return Ok(End::Stop(Haste::Finish)),
                },
                asked = &mut *stop => return Ok(End::Stop(if asked.is_ok() { Haste::Finish } else { Haste::Now })),
                Some(wish) = self.successor.recv() => match wish {
                    // Who asked may have gone.
                    Wish::Estate(tell) => {
                        let (held, over) = oneshot::channel();
                        offer = Some(over);
                        drop(tell.send(self.estate(held)));
                    }
                    Wish::LetGo(let_go) => return Ok(End::HandOver(let_go)),
                },
                () = self.publisher.fleet().one_ended() => {
                    self.publisher.revive().map_err(|_| RunError::Worker)?;
                }
                () = self.publisher.news() => {
                    if self.publisher.open_gate().await {
                        systemd::status(&self.status());
                    }
                }
                _ = second.tick() => {
                    self.sample();
                    if self.is_crippled() {
                        return Err(RunError::Control);
                    }
                }
                _ = names.tick() => {
                    let registry = self.publisher.registry().clone();
                    spawn_local(async move { discovery::refresh(&registry).await });
                }
                _ = pulse.tick(), if watchdog.is_some() => {
                    if self.publisher.fleet_mut().is_alive() {
                        systemd::alive();
                    }
                }
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Reload { answer } => {
                let outcome = self.reload().await;
                // Who asked may have gone.
                let _ = answer.send(match outcome {
                    Outcome::Adopted(generation) | Outcome::Unchanged(generation) => Ok(generation),
                    Outcome::Refused(error) => Err(error),
                });
            }
            #[cfg(test)]
            Command::Stumble(admin::Stumble::Worker(id, whole)) => {
                let worker = &self.publisher.fleet().workers()[id];
                worker.tell(super::worker::WorkerCommand::Stumble(whole));
            }
            #[cfg(test)]
            Command::Stumble(admin::Stumble::Control) => panic!("on purpose: control thread"),
            #[cfg(test)]
            Command::Stumble(admin::Stumble::Admin) => {
                self.admin = spawn_local(async { panic!("on purpose: admin") });
            }
        }
    }

    /// Whether one of this thread's own tasks has died, so that nobody checks, or nobody answers.
    fn is_crippled(&self) -> bool {
        let handover = self.handover.as_ref().is_some_and(JoinHandle::is_finished);
        handover || self.admin.is_finished() || self.publisher.is_unwatched()
    }

    /// Everything that the next process needs.
    fn estate(&self, end: oneshot::Sender<()>) -> Estate {
        let snapshot = self.publisher.live().current();
        let held = self.publisher.listeners().held().chain(self.desk.held());
        let duplicate = |(label, fd): (Label, &OwnedFd)| match fd.try_clone() {
            Ok(fd) => Some((label, fd)),
            Err(error) => {
                tracing::error!("{label:?} can't be handed over: {error}");
                None
            }
        };
        Estate {
            generation: snapshot.generation,
            draining: drain::draining(&snapshot),
            sockets: held.filter_map(duplicate).collect(),
            undecided: end,
        }
    }

    /// Another process serves: lets go of everything that it has now, and finishes the rest.
    async fn hand_over(&mut self, let_go: LetGo, signals: &mut Signals) {
        if let Some(pid) = let_go.pid {
            systemd::main_process(pid);
        }
        self.context.readiness.hand_over();
        self.desk.leave();
        let unwanted = let_go.unwanted;
        let told = let_go.done.send(());
        if told.is_err() {
            tracing::warn!("the new process did not wait for word");
        }
        if let Some(handover) = self.handover.take() {
            // The word has to be out before this process may end.
            let _ = tokio::time::timeout(SECOND, handover).await;
        }
        drain::hand_over(&mut self.publisher, &unwanted, signals).await;
    }

    /// Leaves the sockets with the service manager, so that a restart finds them again.
    fn store(&self) {
        for (label, socket) in self.publisher.listeners().held() {
            systemd::store(&label.name, socket.as_fd());
        }
    }

    async fn reload(&mut self) -> Outcome {
        let before = self.publisher.listeners().places();
        let outcome = self.publisher.reload().await;
        if matches!(outcome, Outcome::Adopted(_)) {
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
        let mut windows = self.context.windows.lock().expect("windows lock");
        windows.tick(Instant::now(), &self.context.telemetry);
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

/// The running process and its sockets, if one runs.
async fn predecessor(
    spec: &Spec,
    config: &Path,
) -> Result<(Option<Predecessor>, Inherited), RunError> {
    let state = paths::state_dir(spec.state_dir.as_deref());
    let asked = match paths::handover_socket(&state, config) {
        Ok(path) => handover::ask(&path).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(Some((predecessor, inherited))) => {
            tracing::info!("taking over from process {}", predecessor.pid);
            Ok((Some(predecessor), inherited))
        }
        Ok(None) => {
            tracing::info!("no proxy runs by this file: nothing to take over, starting");
            Ok((None, Inherited::from_environment()))
        }
        Err(error) => Err(RunError::Takeover(error.to_string())),
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

/// Tells the running process that it can go. If it does not, this one lets go again.
async fn relieve(
    predecessor: Predecessor,
    publisher: &mut Publisher,
    unwanted: &[Label],
) -> Result<(), RunError> {
    let pid = predecessor.pid;
    let unwanted = unwanted.iter().filter_map(|l| l.bind.clone()).collect();
    if let Err(error) = predecessor.relieve(unwanted).await {
        publisher.hand_over(&[]);
        let deadline = publisher.live().current().spec.shutdown.deadline;
        // What was accepted meanwhile is finished, as far as that can be.
        let _ = tokio::time::timeout(deadline, publisher.fleet().all_ended()).await;
        return Err(RunError::Takeover(format!(
            "process {pid} does not let go: {error}"
        )));
    }
    tracing::info!("took over from process {pid}");
    Ok(())
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

fn tcp_places(publisher: &Publisher) -> Vec<(String, SocketAddr)> {
    let tcp = |(name, place)| match place {
        Place::Tcp(address) => Some((name, address)),
        Place::Unix(_) => None,
    };
    publisher
        .listeners()
        .places()
        .into_iter()
        .filter_map(tcp)
        .collect()
}
