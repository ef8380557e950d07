//! Listeners: their sockets, and the settings and certificates for new connections.
//!
//! The publisher owns the [`Listeners`]. A reload first builds a [`Plan`], which binds every new socket and reads every
//! certificate. Only if all of that succeeds is the plan adopted and sent to the workers as [`ListenerUpdate`]s. Sockets stay
//! open as long as the configuration binds their address; names, protocols and certificates can change meanwhile.

pub(crate) mod accept;
mod adopt;
pub mod bind;
mod certificates;
mod handshake;
mod listen_socket;
mod port_owner;
pub mod socket_access;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::acme::AcmeAnswers;
use super::client_connections::{ClientConnection, ClientConnections, TooManyConnections};
use super::inherit::{Inherited, Label, Purpose};
use super::listener_info::ListenerInfo;
use super::tls::{self, Certificates, TicketKeys};
use crate::config::{Spec, spec};
use crate::net::keepalive::keep_alive;
use crate::net::send_queue::limit_unsent;
use crate::net::{ListenerId, SocketFile, congestion};
use crate::proxy::via::Via;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::record::Reason;
use crate::telemetry::{Telemetry, WorkerId};

pub use bind::{BoundAddress, Socket};
use certificates::certificates;

/// Shortest time between two warnings about connections that are refused for the same reason.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);
/// Number of reasons for such a warning: slots of [`LogLimit`].
const REFUSALS: usize = 2;

/// The settings of a listener for new connections. Immutable; a change creates another one.
///
/// Shared by all workers. Connections that are open keep the `info` that they were accepted with, so that a change of names,
/// protocols or trusted proxies is for new connections only.
#[derive(Debug)]
pub struct ListenerRuntime {
    pub(crate) spec: spec::ListenerSpec,
    /// The part that connections keep.
    pub info: Arc<ListenerInfo>,
    /// Certificates; `None` for clear text.
    pub tls: Option<Arc<tls::CertificateTable>>,
    pub(crate) address: BoundAddress,
    /// Connections by client, if they are limited or were before.
    pub clients: Option<Arc<ClientConnections>>,
    /// Limits warnings about connections that are refused.
    refusals: Arc<LogLimit>,
    /// Answers to challenges of an ACME authority.
    answers: Arc<AcmeAnswers>,
}

impl ListenerRuntime {
    fn new(
        id: ListenerId,
        spec: &spec::ListenerSpec,
        tls: Option<Arc<tls::CertificateTable>>,
        address: BoundAddress,
        former: Option<&Self>,
        (answers, telemetry): (&Arc<AcmeAnswers>, &Telemetry),
    ) -> Arc<Self> {
        let limit = { spec.client_limits.as_ref() }.and_then(|limits| limits.connections);
        // The counts of open connections are kept when the limit changes or is removed.
        let clients = former.and_then(|former| former.clients.clone());
        let clients = clients.or_else(|| limit.map(|_| Arc::default()));
        let refusals = former.map(|former| former.refusals.clone());
        let refusals = refusals
            .unwrap_or_else(|| Arc::new(LogLimit::new(REFUSALS, REFUSAL_INTERVAL, Instant::now())));
        let info = ListenerInfo {
            id,
            name: spec.name.clone(),
            h1: spec.h1,
            h2: spec.h2,
            redirect_https: spec.redirect_https,
            trusted: spec.trusted_proxies.clone(),
            merge_slashes: spec.merge_slashes,
            via: spec.via.as_deref().map(Via::new),
            challenges: (!spec.challenge_hosts.is_empty())
                .then(|| (spec.challenge_hosts.clone(), answers.clone())),
            metrics: telemetry.listener(&spec.name),
        };
        Arc::new(Self {
            spec: spec.clone(),
            info: Arc::new(info),
            tls,
            address,
            clients,
            refusals,
            answers: answers.clone(),
        })
    }

    /// Counts a connection of this peer, where connections of clients are limited. Connections of trusted proxies aren't counted.
    ///
    /// # Errors
    /// The client has as many connections as it may have. The refusal is counted and logged.
    fn count_client(
        &self,
        worker: WorkerId,
        peer: Option<SocketAddr>,
    ) -> Result<Option<ClientConnection>, TooManyConnections> {
        let limit = { self.spec.client_limits.as_ref() }.and_then(|limits| limits.connections);
        let (Some(limit), Some(clients), Some(peer)) = (limit, &self.clients, peer) else {
            return Ok(None);
        };
        let client = peer.ip().to_canonical();
        if self.info.trusted.iter().any(|net| net.contains(&client)) {
            return Ok(None);
        }
        clients.enter(client, limit).inspect_err(|_| {
            self.info.metrics[worker.0].client_failed(Reason::ClientConnections);
            let listener = &self.spec.name;
            tracing::debug!(listener, %client, "connection refused: client_limits.connections reached");
        })
    }

    /// The number that stays the same as long as the sockets are open: [`crate::net::TaskControl::listener`].
    pub(crate) fn id(&self) -> ListenerId {
        self.info.id
    }
}

/// A new or changed listener, as sent to one worker.
#[derive(Debug)]
pub struct ListenerUpdate {
    pub(crate) runtime: Arc<ListenerRuntime>,
    /// The worker's sockets if the listener is new, mostly one. Empty if the worker has them already.
    pub sockets: Vec<Socket>,
}

/// A listener whose sockets are open.
///
/// The workers own the sockets that they accept on. As long as `duplicates` are here the kernel keeps the accept queues open, even
/// if a worker has died: clients wait in them for its successor.
#[derive(Clone, Debug)]
struct BoundListener {
    runtime: Arc<ListenerRuntime>,
    certificates: Certificates,
    file: Option<Arc<SocketFile>>,
    /// A duplicate of every socket, to hand over to another process or to a worker that is started later.
    duplicates: Arc<Vec<OwnedFd>>,
}

/// All listeners of the process.
///
/// Owned by the publisher, on the control thread. Ids are never reused, so that a connection of a listener that was removed isn't
/// taken for one of a later listener.
#[derive(Debug)]
pub struct Listeners {
    workers: usize,
    next_id: usize,
    bound: Vec<BoundListener>,
    tickets: TicketKeys,
    answers: Arc<AcmeAnswers>,
}

/// The listeners of a new configuration: sockets bound and certificates read, but not in use yet. Dropping it closes the sockets
/// that are new.
#[derive(Debug)]
pub struct Plan {
    bound: Vec<BoundListener>,
    /// New sockets, by worker, then by listener.
    sockets: Vec<Vec<Vec<Socket>>>,
    next_id: usize,
    /// How long a client may pause reading: the longest `timeouts.idle` of all services.
    pause: Duration,
}

/// Why a listener can't be set up as configured. The first string is its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The address can't be bound.
    Bind(String, String),
    /// One of the certificates can't be used.
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

impl BoundListener {
    /// Sets group and mode of the socket file as they are configured now.
    fn set_access(&self) {
        let spec = &self.runtime.spec;
        let BoundAddress::Unix(path) = &self.runtime.address else {
            return;
        };
        if let Err(error) = socket_access::apply(&spec.access, path) {
            tracing::warn!(listener = spec.name, %error, "the socket keeps its group and mode");
        }
    }
}

impl Listeners {
    /// Creates an empty set of listeners for `workers` workers. `tickets` seals the tickets of TLS sessions.
    pub fn new(workers: usize, tickets: TicketKeys) -> Self {
        Self {
            workers,
            next_id: 0,
            bound: Vec::new(),
            tickets,
            answers: Arc::default(),
        }
    }

    /// The answers to challenges of an ACME authority.
    pub fn answers(&self) -> &Arc<AcmeAnswers> {
        &self.answers
    }

    /// Prepares the listeners of `spec`: binds new addresses, or takes their sockets from `inherited`, and reads certificates.
    /// The present listeners are not affected.
    ///
    /// # Errors
    /// The errors of all listeners that can't be set up.
    pub fn plan(
        &self,
        spec: &Spec,
        telemetry: &Telemetry,
        inherited: &mut Inherited,
    ) -> Result<Plan, Vec<PlanError>> {
        let mut plan = Plan {
            bound: Vec::new(),
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
        if let Some(group) = &listener.access.group {
            socket_access::resolve(group)
                .map_err(|error| vec![PlanError::Bind(listener.name.clone(), error)])?;
        }
        let certificates = certificates(listener, former, &self.tickets).map_err(|faults| {
            let fault = |fault| PlanError::Certificate(listener.name.clone(), fault);
            faults.into_iter().map(fault).collect::<Vec<_>>()
        });
        let (certificates, table) = certificates?;
        let (id, address, file, duplicates, sockets) = match former {
            Some(f) => (
                f.runtime.id(),
                f.runtime.address.clone(),
                f.file.clone(),
                f.duplicates.clone(),
                Vec::new(),
            ),
            None => {
                let bound = self
                    .bind_or_inherit(listener, inherited)
                    .map_err(|error| vec![PlanError::Bind(listener.name.clone(), error)])?;
                let id = ListenerId(plan.next_id);
                plan.next_id += 1;
                let duplicates = Arc::new(bound.duplicates);
                (id, bound.address, bound.file, duplicates, bound.sockets)
            }
        };
        let same = |r: &ListenerRuntime| {
            r.spec == *listener
                && r.tls.as_ref().map(Arc::as_ptr) == table.as_ref().map(Arc::as_ptr)
        };
        let runtime = match former {
            Some(former) if same(&former.runtime) => former.runtime.clone(),
            _ => {
                let former = former.map(|former| &*former.runtime);
                let shared = (&self.answers, telemetry);
                ListenerRuntime::new(id, listener, table, address, former, shared)
            }
        };
        plan.bound.push(BoundListener {
            runtime,
            certificates,
            file,
            duplicates,
        });
        let mut sockets = sockets.into_iter();
        for worker in &mut plan.sockets {
            worker.push(sockets.next().unwrap_or_default());
        }
        Ok(())
    }

    fn bind_or_inherit(
        &self,
        listener: &spec::ListenerSpec,
        inherited: &mut Inherited,
    ) -> Result<bind::BoundSockets, String> {
        let sockets = inherited.listener(listener);
        if !sockets.is_empty() {
            return adopt::adopt(sockets, &listener.bind, self.workers);
        }
        let mut ours = self.ports();
        ours.extend(inherited.ports());
        bind::open(&listener.bind, &listener.access, self.workers, &ours)
    }

    /// The present listener whose sockets this one continues to use: the one with the same address, preferably of the same name.
    fn former(&self, listener: &spec::ListenerSpec) -> Option<&BoundListener> {
        let same = |s: &&BoundListener| s.runtime.spec.bind == listener.bind;
        let named = |s: &&BoundListener| s.runtime.spec.name == listener.name;
        let mut all = self.bound.iter().filter(same);
        let by_name = self.bound.iter().filter(same).find(named);
        // Port 0 stands for a different port in each listener, so that the address alone doesn't identify it.
        let any_port = matches!(listener.bind, spec::Bind::Any(0))
            || matches!(listener.bind, spec::Bind::Tcp(a) if a.port() == 0);
        by_name.or_else(|| if any_port { None } else { all.next() })
    }

    fn ports(&self) -> Vec<u16> {
        let port = |s: &BoundListener| match &s.runtime.address {
            BoundAddress::Tcp(address) => Some(address.port()),
            BoundAddress::Unix(_) => None,
        };
        self.bound.iter().filter_map(port).collect()
    }

    /// Replaces the listeners by those of the plan. Returns the updates to send, by worker.
    pub fn adopt(&mut self, plan: Plan) -> Vec<Vec<ListenerUpdate>> {
        self.bound = plan.bound;
        self.next_id = plan.next_id;
        for listener in &self.bound {
            listener.set_options(plan.pause);
            listener.set_access();
        }
        let update = |(listener, sockets): (&BoundListener, Vec<Socket>)| ListenerUpdate {
            runtime: listener.runtime.clone(),
            sockets,
        };
        let updates =
            |sockets: Vec<Vec<Socket>>| self.bound.iter().zip(sockets).map(update).collect();
        plan.sockets.into_iter().map(updates).collect()
    }

    /// The updates to send to each worker after certificates have changed.
    pub fn updates(&self) -> Vec<ListenerUpdate> {
        let update = |s: &BoundListener| ListenerUpdate {
            runtime: s.runtime.clone(),
            sockets: Vec::new(),
        };
        self.bound.iter().map(update).collect()
    }

    /// The updates for a worker that replaces one that panicked: every listener, with duplicates of the same sockets.
    ///
    /// # Errors
    /// A descriptor can't be duplicated.
    pub fn updates_for_restart(&self, worker: WorkerId) -> io::Result<Vec<ListenerUpdate>> {
        let update = |s: &BoundListener| {
            // The same distribution as in `bind::distribute`: TCP sockets round robin, a Unix socket to all workers.
            let mine = |n: usize| match s.runtime.address {
                BoundAddress::Tcp(_) => n % self.workers == worker.0,
                BoundAddress::Unix(_) => true,
            };
            let duplicates = s.duplicates.iter().enumerate().filter(|(n, _)| mine(*n));
            let socket = |(_, fd): (usize, &OwnedFd)| {
                let fd = fd.try_clone()?;
                Ok(match s.runtime.address {
                    BoundAddress::Tcp(_) => Socket::Tcp(fd.into()),
                    BoundAddress::Unix(_) => Socket::Unix(fd.into()),
                })
            };
            Ok(ListenerUpdate {
                runtime: s.runtime.clone(),
                sockets: duplicates.map(socket).collect::<io::Result<_>>()?,
            })
        };
        self.bound.iter().map(update).collect()
    }

    /// Name and bound address of each listener.
    pub fn addresses(&self) -> Vec<(String, BoundAddress)> {
        let address = |s: &BoundListener| (s.runtime.spec.name.clone(), s.runtime.address.clone());
        self.bound.iter().map(address).collect()
    }

    /// Name and bound address of each listener on TCP.
    pub fn tcp_addresses(&self) -> Vec<(String, SocketAddr)> {
        let tcp = |(name, address)| match address {
            BoundAddress::Tcp(address) => Some((name, address)),
            BoundAddress::Unix(_) => None,
        };
        self.addresses().into_iter().filter_map(tcp).collect()
    }

    /// Every socket with its label, to hand over to another process or to store with the service manager.
    pub fn held(&self) -> impl Iterator<Item = (Label, &OwnedFd)> {
        self.bound.iter().flat_map(|listener| {
            let spec = &listener.runtime.spec;
            let label = Label {
                purpose: Purpose::Listener,
                name: spec.name.clone(),
                bind: Some(bind::written(&spec.bind)),
            };
            listener
                .duplicates
                .iter()
                .map(move |fd| (label.clone(), fd))
        })
    }

    /// Takes ownership of the socket files: the process that the sockets were inherited from has given them up.
    pub fn claim_files(&self) {
        self.files().for_each(|file| file.claim());
    }

    /// Gives up ownership of the socket files: another process has taken the sockets over.
    pub fn leave_files(&self) {
        self.files().for_each(|file| file.leave());
    }

    fn files(&self) -> impl Iterator<Item = &Arc<SocketFile>> {
        self.bound.iter().filter_map(|s| s.file.as_ref())
    }

    /// Closes the duplicates of the sockets, so that a socket is closed when the workers close it.
    pub fn close_duplicates(&mut self) {
        for listener in &mut self.bound {
            listener.duplicates = Arc::default();
        }
    }

    /// Hands the listeners over to another process, except those bound at one of the `unwanted` addresses. Returns the ids of
    /// the latter; this process has to close their sockets and to remove their files.
    pub fn hand_over(&mut self, unwanted: &[String]) -> Vec<ListenerId> {
        self.close_duplicates();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for listener in &self.bound {
            let is_ours = unwanted.contains(&bind::written(&listener.runtime.spec.bind));
            let side = if is_ours { &mut ours } else { &mut theirs };
            side.push(listener);
        }
        for file in theirs.iter().filter_map(|listener| listener.file.as_ref()) {
            file.leave();
        }
        ours.iter().map(|listener| listener.runtime.id()).collect()
    }
}

fn longest_pause(spec: &Spec) -> Duration {
    let pauses = spec.services.iter().map(|service| service.timeouts.idle);
    pauses.max().unwrap_or_default()
}

impl BoundListener {
    /// Sets the options that accepted connections inherit from the listening socket, which saves system calls on each of them.
    fn set_options(&self, pause: Duration) {
        let BoundAddress::Tcp(address) = self.runtime.address else {
            return;
        };
        let listener = &self.runtime.spec.name;
        for socket in &*self.duplicates {
            if let Err(error) = keep_alive(socket, pause) {
                tracing::warn!(listener, %error, "can't turn on TCP keepalive");
            }
            if let Err(error) = limit_unsent(socket) {
                tracing::warn!(listener, %error, "can't limit what the kernel queues for clients");
            }
            congestion::spare_control(socket, address.ip());
        }
    }
}

#[cfg(test)]
mod tests;
