//! Worker threads: one runtime each, sharing nothing that is written per request.

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
use super::closed::Closed;
use super::connection;
use super::listener::ListenerUpdate;
use super::listener::accept::{self, Acceptor};
use crate::net::clock::TICK;
use crate::net::{TaskControl, TaskPhase};
use crate::proxy;
use crate::snapshot::Live;
use crate::upstream::connect;
use crate::upstream::outlier::Suspects;

/// How long after a listener was closed a connection may still turn up that came through it: the last ones that waited to be accepted.
const LATECOMERS: Duration = Duration::from_secs(1);

/// How long idle connections are left open after a handover, besides the grace that they always have: whoever keeps one
/// open and is just sending finds it open, and is told with the answer that it ends.
const PATIENCE: Duration = Duration::from_secs(4);

/// Who has done nothing for so many milliseconds can be spared when the house is full.
const SPARE_MS: u64 = 1_000;

/// How many idle upstream connections are closed at a time when descriptors run out.
const SPARED: usize = 16;

/// What the control thread tells a worker.
#[derive(Debug)]
pub(crate) enum WorkerCommand {
    /// Work by the published snapshot.
    Adopt,
    /// These listeners, and no others.
    Listeners(Vec<ListenerUpdate>),
    /// Announce the end to the connections that are open now.
    Announce,
    /// Close all listeners, announce the end to every connection, end when the last is done.
    Drain,
    /// The same, but another process accepts on the sockets now, except on those of these listeners.
    HandOver(Arc<[usize]>),
    /// Cut what is no stream, from now on.
    CutRequests,
    /// End now.
    Stop,
    /// Die by a panic; `false`: only the accept loops do, each with its next connection.
    #[cfg(test)]
    Stumble(bool),
}

/// What worker threads share with the control thread.
#[derive(Debug)]
pub(crate) struct Common {
    /// What is published.
    pub live: Arc<Live>,
    /// Who may come in.
    pub gate: Arc<Admission>,
    /// Where endpoints go that fail too often.
    pub suspects: Suspects,
    /// Woken when a worker has adopted a snapshot or ended.
    pub news: Notify,
}

/// The control thread's end of a worker.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    mailbox: mpsc::UnboundedSender<WorkerCommand>,
    pulse: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Starts worker number `id`.
    ///
    /// # Errors
    /// The thread or its runtime can't be made.
    pub(crate) fn start(id: usize, common: Arc<Common>) -> io::Result<Self> {
        let (mailbox, commands) = mpsc::unbounded_channel();
        let pulse = Arc::new(AtomicU64::new(0));
        let runtime = Builder::new_current_thread();
        let ended = Arc::new(AtomicBool::new(false));
        let (beats, end) = (pulse.clone(), EndNotice(common.clone(), ended.clone()));
        let (started, result) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("worker-{id}"))
            .spawn(move || {
                let _end = end;
                live(id, runtime, common, commands, beats, &started);
            })?;
        result.recv().map_err(io::Error::other)??;
        Ok(Self {
            mailbox,
            pulse,
            ended,
            thread: Some(thread),
        })
    }

    /// Tells it something. A worker that has ended hears nothing.
    pub(crate) fn tell(&self, command: WorkerCommand) {
        let _ = self.mailbox.send(command);
    }

    /// Counts up as long as it is alive.
    pub(crate) fn pulse(&self) -> u64 {
        self.pulse.load(Ordering::Relaxed)
    }

    /// Whether its work has ended, well or not.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits for the end of its thread; whether it ended well.
    pub(crate) fn join(&mut self) -> bool {
        self.thread
            .take()
            .is_none_or(|thread| thread.join().is_ok())
    }
}

/// Tells the control thread of this worker's end, also when it panicked.
struct EndNotice(Arc<Common>, Arc<AtomicBool>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Release);
        self.0.news.notify_one();
    }
}

fn live(
    id: usize,
    mut runtime: Builder,
    common: Arc<Common>,
    commands: mpsc::UnboundedReceiver<WorkerCommand>,
    pulse: Arc<AtomicU64>,
    started: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    match runtime.enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => {
            let _ = started.send(Ok(()));
            runtime.block_on(WorkerThread::new(id, common, pulse).work(commands));
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

/// The thread's own side.
struct WorkerThread {
    proxy: Rc<proxy::Worker>,
    common: Arc<Common>,
    pulse: Arc<AtomicU64>,
    doors: HashMap<usize, Rc<Acceptor>>,
    /// Listeners that were closed, as long as connections are left.
    closed: Vec<Closed>,
    /// Until then idle connections stay open.
    patient_until: Option<Instant>,
    /// Whether only streams may go on.
    cutting: bool,
    /// Connections, those in a handshake too, and accept loops: what has to end before the thread does.
    tasks: Rc<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    running: Cell<usize>,
    /// An accept loop died by a panic: nobody takes connections from its socket any more.
    broken: Cell<bool>,
    ended: Notify,
}

/// One of them.
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

/// An accept loop: it takes the worker with it when it dies.
struct Vital<'a>(&'a Tasks);

impl Drop for Vital<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.set(true);
            self.0.ended.notify_one();
        }
    }
}

/// Who is shed first, the greatest first: whether it is idle, and for how long. `None`: it isn't to be shed.
fn rank(watch: &TaskControl) -> Option<(bool, u64)> {
    let age = watch.age_ms();
    match watch.phase() {
        _ if watch.is_shut() || age < SPARE_MS => None,
        TaskPhase::Idle => Some((true, age)),
        TaskPhase::Handshake | TaskPhase::Head => Some((false, age)),
        TaskPhase::Request | TaskPhase::Stream => None,
    }
}

impl WorkerThread {
    fn new(id: usize, common: Arc<Common>, pulse: Arc<AtomicU64>) -> Self {
        let snapshot = common.live.current();
        let generation = snapshot.generation;
        let proxy = proxy::Worker::new(id, snapshot, common.suspects.clone());
        common.live.adopt(id, generation);
        Self {
            proxy,
            common,
            pulse,
            doors: HashMap::new(),
            closed: Vec::new(),
            patient_until: None,
            cutting: false,
            tasks: Rc::default(),
        }
    }

    async fn work(mut self, mut commands: mpsc::UnboundedReceiver<WorkerCommand>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let tasks = self.tasks.clone();
        let mut draining = false;
        loop {
            if draining && tasks.running.get() == 0 {
                return;
            }
            assert!(!tasks.broken.get(), "a listener's accept loop died");
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(WorkerCommand::Adopt) => self.adopt(),
                    Some(WorkerCommand::Listeners(orders)) => self.listen(orders),
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
                    #[cfg(test)]
                    Some(WorkerCommand::Stumble(whole)) => {
                        assert!(!whole, "on purpose: worker");
                        self.doors.values().for_each(|door| door.stumble());
                    }
                },
                _ = tick.tick() => self.tick(Instant::now()),
                () = tasks.ended.notified() => {}
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
        self.be_patient(now);
        if connect::take_shortage() {
            // What nobody uses makes room for what somebody waits for, on both sides.
            self.proxy.conns.close_oldest(SPARED);
            self.common.gate.press();
        }
        let most = self.common.gate.claim();
        if most > 0 {
            self.common.gate.shed(self.shed(most));
        }
        self.proxy.tick(now);
        if self.cutting {
            self.proxy.watches.each(|watch| {
                if watch.phase() != TaskPhase::Stream && !watch.is_shut() {
                    watch.shut();
                }
            });
        }
        self.tend_closed(now);
    }

    /// Whoever came in by a listener that is closed is told, and cut when its time is over.
    fn tend_closed(&mut self, now: Instant) {
        if self.closed.is_empty() {
            return;
        }
        let closed = &self.closed;
        let by = |id: usize| closed.iter().position(|c| c.listener() == id);
        self.proxy.announce_close(|id| by(id).is_some());
        let mut left = vec![false; closed.len()];
        self.proxy.watches.each(|watch| {
            if let Some(n) = by(watch.listener) {
                left[n] = true;
                if !watch.is_shut() && closed[n].is_overdue(watch, now) {
                    watch.shut();
                }
            }
        });
        let mut left = left.into_iter();
        self.closed
            .retain(|closed| left.next() == Some(true) || closed.age(now) < LATECOMERS);
    }

    fn adopt(&self) {
        let next = self.common.live.current();
        let generation = next.generation;
        self.proxy.adopt(next);
        self.common.live.adopt(self.proxy.id, generation);
        self.common.news.notify_one();
    }

    /// Ends up to `most` connections: those that have been idle for longest first, then those that have been in a handshake or over a
    /// request's head for longest. How many were ended.
    fn shed(&self, most: usize) -> usize {
        let mut ranks = Vec::new();
        self.proxy.watches.each(|watch| ranks.extend(rank(watch)));
        let most = most.min(ranks.len());
        if most == 0 {
            return 0;
        }
        let (_, last, _) = ranks.select_nth_unstable_by(most - 1, |a, b| b.cmp(a));
        let last = *last;
        let mut shed = 0;
        self.proxy.watches.each(|watch| {
            if shed < most && rank(watch).is_some_and(|rank| rank >= last) {
                watch.shut();
                shed += 1;
            }
        });
        shed
    }

    /// Idle connections whose end was announced begin their grace anew.
    fn be_patient(&mut self, now: Instant) {
        let Some(until) = self.patient_until else {
            return;
        };
        if now >= until || self.cutting {
            self.patient_until = None;
            return;
        }
        self.proxy.watches.each(|watch| {
            if watch.is_closing() && watch.phase() == TaskPhase::Idle {
                watch.enter(TaskPhase::Idle);
            }
        });
    }

    fn hand_over(&mut self, ours: &[usize]) {
        for (id, door) in &self.doors {
            if !ours.contains(id) {
                door.hand_over();
            }
        }
        self.patient_until = Some(Instant::now() + PATIENCE);
        self.close();
    }

    /// Closes all doors: the end.
    fn close(&mut self) {
        let now = Instant::now();
        for (id, door) in self.doors.drain() {
            door.close();
            self.closed.push(Closed::at_the_end(id, now));
        }
    }

    /// Opens, changes and closes doors so that these are the listeners.
    fn listen(&mut self, orders: Vec<ListenerUpdate>) {
        let mut doors = HashMap::with_capacity(orders.len());
        for ListenerUpdate { runtime, sockets } in orders {
            let id = runtime.id();
            if let Some(door) = self.doors.remove(&id) {
                door.set(runtime);
                doors.insert(id, door);
            } else if !sockets.is_empty() {
                let door = Acceptor::new(self.proxy.id, runtime);
                doors.insert(id, door.clone());
                for socket in sockets {
                    self.open(door.clone(), socket);
                }
            }
        }
        let closed = std::mem::replace(&mut self.doors, doors);
        let now = Instant::now();
        for (id, door) in &closed {
            // Its connections hear of it with the next tick.
            door.close();
            let closed = Closed::removed(*id, now, &self.proxy.snapshot());
            self.closed.push(closed);
        }
    }

    fn open(&self, door: Rc<Acceptor>, socket: super::listener::Socket) {
        let (proxy, tasks) = (self.proxy.clone(), self.tasks.clone());
        let (gate, watches) = (self.common.gate.clone(), self.proxy.watches.clone());
        let task = self.tasks.begin();
        spawn_local(async move {
            let _vital = Vital(&task.0);
            let serve = move |accepted| connection::serve(proxy.clone(), accepted, tasks.begin());
            accept::run(door, socket, gate, watches, serve).await;
        });
    }
}
