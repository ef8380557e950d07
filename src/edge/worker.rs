//! Worker threads. Each has a single-threaded runtime and serves its connections with its own upstream connections and counters,
//! so that workers share nothing that is written per request.
//!
//! A worker receives [`WorkerCommand`]s from the control thread and ticks every [`TICK`], which drives deadlines, shedding and
//! drains. It ends when it is told to, or after a drain when its last connection has closed. A panic in a connection ends only
//! that connection; a panic in an accept loop ends the worker, and the control thread starts another one.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;

use super::admission::Admission;
use super::connection;
use super::draining_listener::DrainingListener;
use super::listener::ListenerUpdate;
use super::listener::accept::{self, Acceptor};
use crate::net::clock::TICK;
use crate::net::{ListenerId, TaskControl, TaskPhase};
use crate::proxy;
use crate::proxy::releasing::release_held;
use crate::snapshot::Live;
use crate::telemetry::WorkerId;
use crate::upstream::connect;
use crate::upstream::outlier::Suspects;

/// Shortest time for which a closed listener is tracked, in which its accept loop may still accept connections from the backlog.
const BACKLOG_GRACE: Duration = Duration::from_secs(1);

/// Time that is added to the grace period of idle connections after a handover. A client that is just sending a request then finds
/// the connection open, and learns from the response that it will be closed.
const HANDOVER_GRACE: Duration = Duration::from_secs(4);

/// Shortest time that a connection has been in its phase when it is shed, in milliseconds.
const SHED_MIN_AGE_MS: u64 = 1_000;

/// Number of idle upstream connections that are closed per tick when descriptors run out.
const UPSTREAM_SHED: usize = 16;

/// Polls of tasks after which the runtime of a busy worker looks for timers. Sockets are looked for much more often, by their own task.
const EVENT_INTERVAL: u32 = 255;

/// A command of the control thread.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Adopt the published snapshot.
    Adopt,
    /// Serve these listeners and no others.
    Listeners(Vec<ListenerUpdate>),
    /// Announce the end of all connections that are open now.
    Announce,
    /// Close all listeners, announce the end of every connection, and end when the last one has closed.
    Drain,
    /// Like `Drain`, while another process accepts on the same sockets, except on those of these listeners.
    HandOver(Arc<[ListenerId]>),
    /// Cut everything that is not a stream, from now on.
    CutRequests,
    /// End at once.
    Stop,
}

/// State shared by all workers and the control thread.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The published snapshot.
    pub live: Arc<Live>,
    /// Limits the number of connections.
    pub admission: Arc<Admission>,
    /// Receives endpoints that failed too often.
    pub suspects: Suspects,
    /// Notified when a worker has adopted a snapshot or ended.
    pub changed: Notify,
}

/// The control thread's handle of a worker.
///
/// The channel is unbounded, so that the control thread never waits for a worker. Dropping the handle closes the channel, which
/// ends the worker at once, as [`WorkerCommand::Stop`] does.
#[derive(Debug)]
pub struct WorkerHandle {
    mailbox: mpsc::UnboundedSender<WorkerCommand>,
    pulse: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Starts worker number `id`.
    ///
    /// # Errors
    /// The thread or its runtime can't be created.
    pub(crate) fn start(id: WorkerId, shared: Arc<Shared>) -> io::Result<Self> {
        let (mailbox, commands) = mpsc::unbounded_channel();
        let pulse = Arc::new(AtomicU64::new(0));
        let runtime = Builder::new_current_thread();
        let ended = Arc::new(AtomicBool::new(false));
        let (beats, end) = (pulse.clone(), EndNotice(shared.clone(), ended.clone()));
        // Runtimes can't move between threads: the thread creates its own and reports whether that worked.
        let (started, result) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("worker-{id}"))
            .spawn(move || {
                let _end = end;
                run_thread(id, runtime, shared, commands, beats, &started);
            })?;
        result.recv().map_err(io::Error::other)??;
        Ok(Self {
            mailbox,
            pulse,
            ended,
            thread: Some(thread),
        })
    }

    /// Sends a command. It is dropped if the worker has ended.
    pub fn tell(&self, command: WorkerCommand) {
        let _ = self.mailbox.send(command);
    }

    /// A counter that increases with every tick.
    pub(crate) fn pulse(&self) -> u64 {
        self.pulse.load(Ordering::Relaxed)
    }

    /// Whether the worker has ended, by itself or by a panic.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits for the thread to end. Returns `false` if it panicked.
    pub(crate) fn join(&mut self) -> bool {
        self.thread
            .take()
            .is_none_or(|thread| thread.join().is_ok())
    }
}

/// Notifies the control thread when the worker ends. It is dropped also when the worker panics.
struct EndNotice(Arc<Shared>, Arc<AtomicBool>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Release);
        self.0.changed.notify_one();
    }
}

fn run_thread(
    id: WorkerId,
    mut runtime: Builder,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<WorkerCommand>,
    pulse: Arc<AtomicU64>,
    started: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    runtime.enable_all().event_interval(EVENT_INTERVAL);
    match runtime.build_local(LocalOptions::default()) {
        Ok(runtime) => {
            let _ = started.send(Ok(()));
            runtime.block_on(WorkerThread::new(id, shared, pulse).run(commands));
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

/// The part of a worker that accepts connections and obeys the control thread; `proxy` is the part that serves requests.
///
/// It lives on its own thread, from [`WorkerHandle::start`] until its event loop returns. Nothing in it is shared but `shared` and
/// `pulse`.
struct WorkerThread {
    proxy: Rc<proxy::Worker>,
    shared: Arc<Shared>,
    pulse: Arc<AtomicU64>,
    /// Open listeners, by id.
    acceptors: HashMap<ListenerId, Rc<Acceptor>>,
    /// Closed listeners that may still have connections.
    draining: Vec<DrainingListener>,
    /// Time until which idle connections are not closed although their end was announced.
    idle_grace_until: Option<Instant>,
    /// Whether everything but streams is cut.
    cutting: bool,
    /// The tasks that have to end before the thread does: connections and accept loops.
    tasks: Rc<Tasks>,
}

/// The tasks of a worker that a drain waits for. Each holds a [`RunningTask`], so that one that panics or is dropped counts as
/// ended.
#[derive(Debug, Default)]
struct Tasks {
    running: Cell<usize>,
    /// Whether an accept loop has panicked, so that connections to its socket would never be accepted.
    accept_loop_panicked: Cell<bool>,
    ended: Notify,
}

/// Counts a task as running until it is dropped.
struct RunningTask(Rc<Tasks>);

impl Tasks {
    fn begin(self: &Rc<Self>) -> RunningTask {
        self.running.set(self.running.get() + 1);
        RunningTask(self.clone())
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.notify_one();
    }
}

/// Held by an accept loop. Makes the worker panic if the loop does.
struct AcceptLoopGuard<'a>(&'a Tasks);

impl Drop for AcceptLoopGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.accept_loop_panicked.set(true);
            self.0.ended.notify_one();
        }
    }
}

/// Priority for shedding, highest first: idle connections before those in a handshake or a head, then by age. `None` for
/// connections that must not be shed.
fn shed_priority(control: &TaskControl) -> Option<(bool, u64)> {
    let age = control.age_ms();
    match control.phase() {
        _ if control.is_shut() || age < SHED_MIN_AGE_MS => None,
        TaskPhase::Idle => Some((true, age)),
        TaskPhase::Handshake | TaskPhase::Head => Some((false, age)),
        TaskPhase::Request | TaskPhase::Stream => None,
    }
}

impl WorkerThread {
    fn new(id: WorkerId, shared: Arc<Shared>, pulse: Arc<AtomicU64>) -> Self {
        let snapshot = shared.live.current();
        let generation = snapshot.generation;
        let proxy = proxy::Worker::new(id, snapshot, shared.suspects.clone());
        shared.live.adopt(id, generation);
        Self {
            proxy,
            shared,
            pulse,
            acceptors: HashMap::new(),
            draining: Vec::new(),
            idle_grace_until: None,
            cutting: false,
            tasks: Rc::default(),
        }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<WorkerCommand>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let tasks = self.tasks.clone();
        let mut draining = false;
        loop {
            if draining && tasks.running.get() == 0 {
                return;
            }
            assert!(
                !tasks.accept_loop_panicked.get(),
                "the accept loop of a listener panicked"
            );
            tokio::select! {
                // Commands first, so that a busy worker handles them before the next tick.
                biased;
                command = commands.recv() => match command {
                    Some(WorkerCommand::Adopt) => self.adopt(),
                    Some(WorkerCommand::Listeners(updates)) => self.listen(updates),
                    Some(WorkerCommand::Announce) => self.proxy.announce_close(|_| true),
                    Some(WorkerCommand::Drain) => {
                        draining = true;
                        self.close();
                    }
                    Some(WorkerCommand::HandOver(ours)) => {
                        draining = true;
                        self.hand_over(&ours);
                    }
                    Some(WorkerCommand::CutRequests) => self.cutting = true,
                    Some(WorkerCommand::Stop) | None => return,
                },
                _ = tick.tick() => self.tick(Instant::now()),
                () = tasks.ended.notified() => {}
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
        // Before `proxy.tick`, which closes idle connections whose grace period has ended.
        self.extend_idle_grace(now);
        if connect::take_shortage() {
            // A connect failed for want of descriptors: idle connections on both sides make room.
            self.proxy.conns.close_oldest(UPSTREAM_SHED);
            self.shared.admission.request_shedding();
        }
        let most = self.shared.admission.claim_shedding();
        if most > 0 {
            self.shared.admission.report_shed(self.shed(most));
        }
        self.proxy.tick(now);
        release_held(&self.proxy);
        if self.cutting {
            self.proxy.controls.each(|control| {
                if control.phase() != TaskPhase::Stream && !control.is_shut() {
                    control.shut();
                }
            });
        }
        self.sweep_draining(now);
    }

    /// Announces the end of connections that were accepted by closed listeners, cuts those that are overdue, and forgets listeners
    /// without connections.
    fn sweep_draining(&mut self, now: Instant) {
        if self.draining.is_empty() {
            return;
        }
        let closed = &self.draining;
        let by = |id: ListenerId| closed.iter().position(|c| c.listener() == id);
        self.proxy.announce_close(|id| by(id).is_some());
        let mut left = vec![false; closed.len()];
        self.proxy.controls.each(|control| {
            if let Some(n) = by(control.listener) {
                left[n] = true;
                if !control.is_shut() && closed[n].is_overdue(control, now) {
                    control.shut();
                }
            }
        });
        let mut left = left.into_iter();
        self.draining
            .retain(|closed| left.next() == Some(true) || closed.age(now) < BACKLOG_GRACE);
    }

    fn adopt(&self) {
        let next = self.shared.live.current();
        let generation = next.generation;
        self.proxy.adopt(next);
        self.shared.live.adopt(self.proxy.id, generation);
        self.shared.changed.notify_one();
    }

    /// Closes up to `most` connections in the order of [`shed_priority`]. Returns how many were closed.
    fn shed(&self, most: usize) -> usize {
        let mut priorities = Vec::new();
        self.proxy
            .controls
            .each(|control| priorities.extend(shed_priority(control)));
        let most = most.min(priorities.len());
        if most == 0 {
            return 0;
        }
        // Only the lowest priority that is still shed has to be found, which is linear in the number of connections.
        let (_, last, _) = priorities.select_nth_unstable_by(most - 1, |a, b| b.cmp(a));
        let last = *last;
        let mut shed = 0;
        self.proxy.controls.each(|control| {
            if shed < most && shed_priority(control).is_some_and(|priority| priority >= last) {
                control.shut();
                shed += 1;
            }
        });
        shed
    }

    /// After a handover, keeps idle connections open by restarting the grace period that follows the announcement of their end.
    fn extend_idle_grace(&mut self, now: Instant) {
        let Some(until) = self.idle_grace_until else {
            return;
        };
        if now >= until || self.cutting {
            self.idle_grace_until = None;
            return;
        }
        self.proxy.controls.each(|control| {
            if control.is_closing() && control.phase() == TaskPhase::Idle {
                control.enter(TaskPhase::Idle);
            }
        });
    }

    fn hand_over(&mut self, ours: &[ListenerId]) {
        for (id, acceptor) in &self.acceptors {
            if !ours.contains(id) {
                acceptor.hand_over();
            }
        }
        self.idle_grace_until = Some(Instant::now() + HANDOVER_GRACE);
        self.close();
    }

    /// Closes all listeners, for good.
    fn close(&mut self) {
        let now = Instant::now();
        for (id, acceptor) in self.acceptors.drain() {
            acceptor.close();
            self.draining.push(DrainingListener::shutting_down(id, now));
        }
    }

    /// Opens, updates and closes listeners so that exactly these are served.
    fn listen(&mut self, updates: Vec<ListenerUpdate>) {
        let mut acceptors = HashMap::with_capacity(updates.len());
        for ListenerUpdate { runtime, sockets } in updates {
            let id = runtime.id();
            if let Some(acceptor) = self.acceptors.remove(&id) {
                acceptor.set(runtime);
                acceptors.insert(id, acceptor);
            // Without sockets there is nothing to open: they came with an earlier update, and this worker has closed them since.
            } else if !sockets.is_empty() {
                let acceptor = Acceptor::new(self.proxy.id, runtime);
                acceptors.insert(id, acceptor.clone());
                for socket in sockets {
                    self.open(acceptor.clone(), socket);
                }
            }
        }
        let closed = std::mem::replace(&mut self.acceptors, acceptors);
        let now = Instant::now();
        for (id, acceptor) in &closed {
            // Connections of the listener are told at the next tick.
            acceptor.close();
            let closed = DrainingListener::removed(*id, now, &self.proxy.snapshot());
            self.draining.push(closed);
        }
    }

    fn open(&self, acceptor: Rc<Acceptor>, socket: super::listener::Socket) {
        let (proxy, tasks) = (self.proxy.clone(), self.tasks.clone());
        let (admission, controls) = (self.shared.admission.clone(), self.proxy.controls.clone());
        let task = self.tasks.begin();
        spawn_local(async move {
            let _guard = AcceptLoopGuard(&task.0);
            // A connection counts from the moment it is accepted: a drain waits for TLS handshakes as well.
            let begin = move || {
                let (proxy, task) = (proxy.clone(), tasks.begin());
                move |accepted| connection::serve(proxy, accepted, task)
            };
            accept::run(acceptor, socket, admission, controls, begin).await;
        });
    }
}
