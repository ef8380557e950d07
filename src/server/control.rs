//! The control thread: brings the proxy up, then does whatever happens: edits, signals, commands, clocks.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Interval, MissedTickBehavior};

use super::drain::{self, Haste};
use super::listener::Place;
use super::reload::{Outcome, Publisher};
use super::watch::{Changed, Watch};
use super::{Options, RunError, Up, gate, systemd};
use crate::admin::{self, Command, Context, Phase, Readiness};
use crate::config::spec::Bind;
use crate::config::{Spec, paths};
use crate::telemetry::windows::Windows;
use crate::upstream::discovery;

/// How often the windows are sampled.
const SECOND: Duration = Duration::from_secs(1);

/// What the system may want.
pub struct Signals(Option<[Signal; 3]>);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
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
    pub async fn next(&mut self) -> Wish {
        let Some([hup, term, int]) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            Some(()) = hup.recv() => Wish::Reload,
            Some(()) = term.recv() => Wish::Stop,
            Some(()) = int.recv() => Wish::Stop,
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
    admin_addresses: Vec<SocketAddr>,
}

impl Control {
    /// Brings a proxy up: configuration, listeners and certificates, workers, admin, watch, and then the doors open.
    ///
    /// # Errors
    /// Any of it fails. Nothing is left behind then.
    pub async fn boot(
        options: &Options,
        sender: mpsc::Sender<Command>,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, RunError> {
        let descriptors = gate::raise_descriptor_limit();
        let mut publisher = Publisher::boot(&options.config, descriptors).await?;
        let spec = publisher.live().current().spec.clone();
        let listeners = admin_listeners(&spec, &options.config)
            .await
            .map_err(RunError::Admin)?;
        let admin_addresses = listeners
            .iter()
            .filter_map(admin::Listener::local_addr)
            .collect();
        for address in &admin_addresses {
            let address: &SocketAddr = address;
            tracing::info!("admin at {address}");
        }
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
        let admin = spawn_local(admin::serve(listeners, context.clone()));
        publisher.open();
        context.readiness.set(Phase::Ready);
        Ok(Self {
            publisher,
            watch,
            context,
            commands,
            admin,
            admin_addresses,
        })
    }

    /// What the embedding program is told.
    pub fn up(&self) -> Up {
        Up {
            live: self.publisher.live().clone(),
            places: self.publisher.listeners().places(),
            admin: self.admin_addresses.clone(),
        }
    }

    /// Lives until it is stopped, by a signal or by `stop` (dropped without a word: at once), and drains.
    ///
    /// # Errors
    /// A worker died.
    pub async fn live(
        mut self,
        mut signals: Signals,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), RunError> {
        systemd::ready(&self.status());
        // What the windows count from.
        self.sample();
        // An edit while we came up was before the watch.
        self.reload().await;
        let ended = self.until_stopped(&mut signals, &mut stop).await;
        self.context.readiness.set(Phase::Stopping);
        // Who asks for something now is told at once that nobody does it.
        self.commands.close();
        let ended = match ended {
            Ok(haste) => {
                drain::run(&self.publisher, haste, &mut signals).await;
                Ok(())
            }
            Err(error) => Err(error),
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
    ) -> Result<Haste, RunError> {
        let mut second = every(SECOND);
        let mut names = every(discovery::EVERY);
        let watchdog = systemd::watchdog();
        let mut pulse = every(watchdog.unwrap_or(discovery::EVERY));
        loop {
            tokio::select! {
                changed = self.watch.changed() => match changed {
                    Changed::Config => { self.reload().await; }
                    Changed::Certificates => self.publisher.renew(),
                },
                Some(Command::Reload { answer }) = self.commands.recv() => {
                    let outcome = self.reload().await;
                    // Who asked may have gone.
                    let _ = answer.send(match outcome {
                        Outcome::Adopted(generation) | Outcome::Unchanged(generation) => Ok(generation),
                        Outcome::Refused(error) => Err(error),
                    });
                }
                wish = signals.next() => match wish {
                    Wish::Reload => {
                        systemd::reloading();
                        self.reload().await;
                        self.publisher.renew();
                        systemd::ready(&self.status());
                    }
                    Wish::Stop => return Ok(Haste::Finish),
                },
                asked = &mut *stop => return Ok(if asked.is_ok() { Haste::Finish } else { Haste::Now }),
                () = self.publisher.fleet().one_ended() => return Err(RunError::Worker),
                () = self.publisher.news() => {
                    if self.publisher.open_gate().await {
                        systemd::status(&self.status());
                    }
                }
                _ = second.tick() => self.sample(),
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

    async fn reload(&mut self) -> Outcome {
        let outcome = self.publisher.reload().await;
        if matches!(outcome, Outcome::Adopted(_)) {
            self.watch
                .set_certificates(self.publisher.listeners().certificate_files());
            *self.context.bound.lock().expect("bound lock") = tcp_places(&self.publisher);
            // New versions are watched from now on, not from the next second.
            self.sample();
        }
        systemd::status(&self.status());
        outcome
    }

    fn sample(&self) {
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

/// What `admin` names, and the control socket, by which commands on this machine find the proxy.
async fn admin_listeners(spec: &Spec, config: &Path) -> io::Result<Vec<admin::Listener>> {
    let mut listeners = Vec::new();
    for bind in spec.admin.iter().flat_map(|admin| &admin.listen) {
        listeners.push(admin::bind(bind).await?);
    }
    let state = paths::state_dir(spec.state_dir.as_deref());
    let control = match paths::control_socket(&state, config) {
        Ok(path) => admin::bind(&Bind::Unix(path)).await,
        Err(error) => Err(error),
    };
    match control {
        Ok(listener) => listeners.push(listener),
        // The proxy itself works without it.
        Err(error) => tracing::warn!(
            "no control socket in {}: {error}. Commands reach this proxy by --admin ADDRESS only; `state_dir` names another directory",
            state.display()
        ),
    }
    Ok(listeners)
}
