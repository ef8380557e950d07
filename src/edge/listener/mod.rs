//! Listeners: their sockets, and what new connections on them are given.
//!
//! The publisher holds the [`Listeners`]. A new configuration is first made a [`Plan`], in which every new socket is bound
//! and every certificate read; only when all of that worked is it adopted. A socket lives as long as the configuration
//! binds its address; protocols and certificates can change above it.

pub(crate) mod accept;
mod adopt;
pub(crate) mod bind;
mod certificates;
mod holder;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::connection::ListenerInfo;
use super::inherit::{Inherited, Label, Purpose};
use super::tls::{self, Certificates};
use crate::config::{Spec, spec};
use crate::net::SocketFile;
use crate::net::keepalive::keep_alive;
use crate::proxy::via::Via;
use crate::telemetry::Telemetry;

pub(crate) use bind::{BoundAddress, Socket};
use certificates::certificates;

/// A listener as new connections find it. Immutable; a change makes another one.
#[derive(Debug)]
pub(crate) struct ListenerRuntime {
    /// What the configuration says.
    pub spec: spec::ListenerSpec,
    /// The part that connections keep. Its `id` is a number that the sockets keep for their life.
    pub listening: Arc<ListenerInfo>,
    /// Certificates; `None` for clear text.
    pub tls: Option<Arc<tls::CertificateTable>>,
    /// Where it is bound.
    pub place: BoundAddress,
}

impl ListenerRuntime {
    fn new(
        id: usize,
        spec: &spec::ListenerSpec,
        tls: Option<Arc<tls::CertificateTable>>,
        place: BoundAddress,
        telemetry: &Telemetry,
    ) -> Arc<Self> {
        let listening = ListenerInfo {
            id,
            name: spec.name.clone(),
            h1: spec.h1,
            h2: spec.h2,
            redirect_https: spec.redirect_https,
            trusted: spec.trusted_proxies.clone(),
            merge_slashes: spec.merge_slashes,
            via: spec.via.as_deref().map(Via::new),
            metrics: telemetry.listener(&spec.name),
        };
        Arc::new(Self {
            spec: spec.clone(),
            listening: Arc::new(listening),
            tls,
            place,
        })
    }

    /// A number that the sockets keep for their life: [`crate::net::TaskControl::listener`].
    pub(crate) fn id(&self) -> usize {
        self.listening.id
    }
}

/// What a worker is told of one listener.
#[derive(Debug)]
pub(crate) struct ListenerUpdate {
    /// What new connections are given.
    pub runtime: Arc<ListenerRuntime>,
    /// Its own sockets, when the listener is new; mostly one.
    pub sockets: Vec<Socket>,
}

/// A listener that stands.
#[derive(Clone, Debug)]
struct BoundListener {
    runtime: Arc<ListenerRuntime>,
    certificates: Certificates,
    file: Option<Arc<SocketFile>>,
    /// A duplicate of every socket, for the process that may take over.
    held: Arc<Vec<OwnedFd>>,
}

/// All listeners of the process.
#[derive(Debug)]
pub(crate) struct Listeners {
    workers: usize,
    next_id: usize,
    standing: Vec<BoundListener>,
}

/// What is to stand: bound and read, not yet told to anybody.
#[derive(Debug)]
pub(crate) struct Plan {
    standing: Vec<BoundListener>,
    /// By worker, then by listener.
    sockets: Vec<Vec<Vec<Socket>>>,
    next_id: usize,
    /// How long a client may pause reading: the longest `timeouts.idle` of all services.
    pause: Duration,
}

/// Why a listener can't be as the configuration wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PlanError {
    /// Its address can't be bound. First its name.
    Bind(String, String),
    /// One of its certificates can't be used.
    Certificate(String, tls::CertificateFault),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(listener, error) => write!(f, "listener {listener}: {error}"),
            Self::Certificate(listener, (_, error)) => write!(f, "listener {listener}: {error}"),
        }
    }
}

impl Listeners {
    /// None yet, for so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            next_id: 0,
            standing: Vec::new(),
        }
    }

    /// Binds what is new (or takes it from what was inherited) and reads what changed. Nothing of what stands is touched.
    ///
    /// # Errors
    /// Everything that failed.
    pub(crate) fn plan(
        &self,
        spec: &Spec,
        telemetry: &Telemetry,
        inherited: &mut Inherited,
    ) -> Result<Plan, Vec<PlanError>> {
        let mut plan = Plan {
            standing: Vec::new(),
            sockets: (0..self.workers).map(|_| Vec::new()).collect(),
            next_id: self.next_id,
            pause: longest_pause(spec),
        };
        let mut errors = Vec::new();
        for listener in &spec.listeners {
            if let Err(wrong) = self.plan_one(listener, telemetry, inherited, &mut plan) {
                errors.extend(wrong);
            }
        }
        if errors.is_empty() {
            Ok(plan)
        } else {
            Err(errors)
        }
    }

    fn plan_one(
        &self,
        listener: &spec::ListenerSpec,
        telemetry: &Telemetry,
        inherited: &mut Inherited,
        plan: &mut Plan,
    ) -> Result<(), Vec<PlanError>> {
        let former = self.former(listener);
        let certificates = certificates(listener, former).map_err(|faults| {
            let fault = |fault| PlanError::Certificate(listener.name.clone(), fault);
            faults.into_iter().map(fault).collect::<Vec<_>>()
        });
        let (certificates, table) = certificates?;
        let (id, place, file, held, sockets) = match former {
            Some(f) => (
                f.runtime.id(),
                f.runtime.place.clone(),
                f.file.clone(),
                f.held.clone(),
                Vec::new(),
            ),
            None => {
                let bound = self
                    .bound(listener, inherited)
                    .map_err(|error| vec![PlanError::Bind(listener.name.clone(), error)])?;
                let id = plan.next_id;
                plan.next_id += 1;
                let held = Arc::new(bound.held);
                (id, bound.place, bound.file, held, bound.sockets)
            }
        };
        let same = |r: &ListenerRuntime| {
            r.spec == *listener
                && r.tls.as_ref().map(Arc::as_ptr) == table.as_ref().map(Arc::as_ptr)
        };
        let runtime = match former {
            Some(former) if same(&former.runtime) => former.runtime.clone(),
            _ => ListenerRuntime::new(id, listener, table, place, telemetry),
        };
        plan.standing.push(BoundListener {
            runtime,
            certificates,
            file,
            held,
        });
        let mut sockets = sockets.into_iter();
        for worker in &mut plan.sockets {
            worker.push(sockets.next().unwrap_or_default());
        }
        Ok(())
    }

    fn bound(
        &self,
        listener: &spec::ListenerSpec,
        inherited: &mut Inherited,
    ) -> Result<bind::Bound, String> {
        let sockets = inherited.listener(listener);
        if !sockets.is_empty() {
            return adopt::adopt(sockets, &listener.bind, self.workers);
        }
        let mut ours = self.ports();
        ours.extend(inherited.ports());
        bind::open(&listener.bind, self.workers, &ours)
    }

    /// The standing listener whose sockets this one goes on with: the same address, by preference the same name.
    fn former(&self, listener: &spec::ListenerSpec) -> Option<&BoundListener> {
        let same = |s: &&BoundListener| s.runtime.spec.bind == listener.bind;
        let named = |s: &&BoundListener| s.runtime.spec.name == listener.name;
        let mut all = self.standing.iter().filter(same);
        let by_name = self.standing.iter().filter(same).find(named);
        // Port 0 is another port for each name.
        let any_port = matches!(listener.bind, spec::Bind::Any(0))
            || matches!(listener.bind, spec::Bind::Tcp(a) if a.port() == 0);
        by_name.or_else(|| if any_port { None } else { all.next() })
    }

    fn ports(&self) -> Vec<u16> {
        let port = |s: &BoundListener| match &s.runtime.place {
            BoundAddress::Tcp(address) => Some(address.port()),
            BoundAddress::Unix(_) => None,
        };
        self.standing.iter().filter_map(port).collect()
    }

    /// The plan stands from now on. What each worker is to be told, in the order of the workers.
    pub(crate) fn adopt(&mut self, plan: Plan) -> Vec<Vec<ListenerUpdate>> {
        self.standing = plan.standing;
        self.next_id = plan.next_id;
        for standing in &self.standing {
            standing.keep_alive(plan.pause);
        }
        let order = |(standing, sockets): (&BoundListener, Vec<Socket>)| ListenerUpdate {
            runtime: standing.runtime.clone(),
            sockets,
        };
        let orders =
            |sockets: Vec<Vec<Socket>>| self.standing.iter().zip(sockets).map(order).collect();
        plan.sockets.into_iter().map(orders).collect()
    }

    /// What each worker is to be told when only certificates changed.
    pub(crate) fn orders(&self) -> Vec<ListenerUpdate> {
        let order = |s: &BoundListener| ListenerUpdate {
            runtime: s.runtime.clone(),
            sockets: Vec::new(),
        };
        self.standing.iter().map(order).collect()
    }

    /// What a worker is told that takes the place of one that died: every listener, with the same sockets.
    ///
    /// # Errors
    /// A descriptor can't be duplicated.
    pub(crate) fn orders_anew(&self, worker: usize) -> io::Result<Vec<ListenerUpdate>> {
        let order = |s: &BoundListener| {
            // As they were dealt: one for all where they have a path, else one after the other.
            let mine = |n: usize| match s.runtime.place {
                BoundAddress::Tcp(_) => n % self.workers == worker,
                BoundAddress::Unix(_) => true,
            };
            let held = s.held.iter().enumerate().filter(|(n, _)| mine(*n));
            let socket = |(_, fd): (usize, &OwnedFd)| {
                let fd = fd.try_clone()?;
                Ok(match s.runtime.place {
                    BoundAddress::Tcp(_) => Socket::Tcp(fd.into()),
                    BoundAddress::Unix(_) => Socket::Unix(fd.into()),
                })
            };
            Ok(ListenerUpdate {
                runtime: s.runtime.clone(),
                sockets: held.map(socket).collect::<io::Result<_>>()?,
            })
        };
        self.standing.iter().map(order).collect()
    }

    /// Where each listener is bound, by name.
    pub(crate) fn places(&self) -> Vec<(String, BoundAddress)> {
        let place = |s: &BoundListener| (s.runtime.spec.name.clone(), s.runtime.place.clone());
        self.standing.iter().map(place).collect()
    }

    /// Every socket, with what it is: for the process that takes over, or the service manager to keep.
    pub(crate) fn held(&self) -> impl Iterator<Item = (Label, &OwnedFd)> {
        self.standing.iter().flat_map(|standing| {
            let spec = &standing.runtime.spec;
            let label = Label {
                purpose: Purpose::Listener,
                name: spec.name.clone(),
                bind: Some(bind::written(&spec.bind)),
            };
            standing.held.iter().map(move |fd| (label.clone(), fd))
        })
    }

    /// The process that the sockets came from has given them up: their files are this process's.
    pub(crate) fn claim_files(&self) {
        self.files().for_each(|file| file.claim());
    }

    /// Another process owns the files of the sockets from now on.
    pub(crate) fn leave_files(&self) {
        self.files().for_each(|file| file.leave());
    }

    fn files(&self) -> impl Iterator<Item = &Arc<SocketFile>> {
        self.standing.iter().filter_map(|s| s.file.as_ref())
    }

    /// From now on only workers hold the sockets: where they close them, they are closed.
    pub(crate) fn let_go(&mut self) {
        for standing in &mut self.standing {
            standing.held = Arc::default();
        }
    }

    /// Another process has the sockets now, except those bound at `unwanted`: the numbers of these listeners.
    pub(crate) fn hand_over(&mut self, unwanted: &[String]) -> Vec<usize> {
        self.let_go();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for standing in &self.standing {
            let is_ours = unwanted.contains(&bind::written(&standing.runtime.spec.bind));
            let side = if is_ours { &mut ours } else { &mut theirs };
            side.push(standing);
        }
        for file in theirs.iter().filter_map(|standing| standing.file.as_ref()) {
            file.leave();
        }
        ours.iter().map(|standing| standing.runtime.id()).collect()
    }
}

fn longest_pause(spec: &Spec) -> Duration {
    let pauses = spec.services.iter().map(|service| service.timeouts.idle);
    pauses.max().unwrap_or_default()
}

impl BoundListener {
    /// Turns TCP keepalive on for all connections that are accepted from now on: they inherit it, so that it costs them nothing.
    fn keep_alive(&self, pause: Duration) {
        if let BoundAddress::Unix(_) = self.runtime.place {
            return;
        }
        for socket in &*self.held {
            if let Err(error) = keep_alive(socket, pause) {
                let listener = &self.runtime.spec.name;
                tracing::warn!(listener, %error, "TCP keepalive can't be turned on");
            }
        }
    }
}

#[cfg(test)]
mod tests;
