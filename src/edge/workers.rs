//! The control thread's view of all workers: starts them, sends them commands, replaces those that panicked and checks that they
//! are alive.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::Admission;
use super::worker::{Shared, WorkerCommand, WorkerHandle};
use crate::net::ListenerId;
use crate::snapshot::Live;
use crate::telemetry::WorkerId;
use crate::upstream::outlier::Suspects;
use tokio::sync::Notify;

/// Most workers that are replaced within [`PANICS_WITHIN`]. More than that indicates a fault that a restart doesn't cure.
const PANICS: usize = 5;
const PANICS_WITHIN: Duration = Duration::from_secs(60);

/// All worker threads.
///
/// Owned by the publisher. A worker keeps its number, its metric shards and its sockets when its thread is replaced.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<WorkerHandle>,
    shared: Arc<Shared>,
    /// Each worker's pulse at the last [`Self::is_alive`].
    pulses: Vec<u64>,
    /// When the most recent panics were found, at most [`PANICS`] of them.
    panics: VecDeque<Instant>,
}

impl Workers {
    /// Starts `workers` threads.
    ///
    /// # Errors
    /// A thread or its runtime can't be created.
    pub fn start(
        workers: usize,
        live: &Arc<Live>,
        admission: &Arc<Admission>,
        suspects: Suspects,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            live: live.clone(),
            admission: admission.clone(),
            suspects,
            changed: Notify::new(),
        });
        let start = |id| WorkerHandle::start(WorkerId(id), shared.clone());
        Ok(Self {
            workers: (0..workers).map(start).collect::<io::Result<_>>()?,
            pulses: vec![0; workers],
            panics: VecDeque::new(),
            shared,
        })
    }

    /// All workers, by number.
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// Waits until every worker has adopted this generation or a later one. `false` if that takes longer than `limit`.
    pub async fn adopted(&self, generation: u64, limit: Duration) -> bool {
        let wait = async {
            // `Notify` stores one permit, so that a notification between the check and the wait is not lost.
            while self.shared.live.adopted() < generation {
                self.shared.changed.notified().await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Waits until a worker has ended.
    pub async fn one_ended(&self) {
        while !self.workers.iter().any(WorkerHandle::has_ended) {
            self.shared.changed.notified().await;
        }
    }

    /// Replaces the workers that have panicked and returns their numbers. Their connections are lost; those of other workers are
    /// not affected. The new workers have no listeners yet.
    ///
    /// # Errors
    /// More than five panicked within a minute, or a thread can't be created.
    pub fn restart_panicked(&mut self) -> io::Result<Vec<WorkerId>> {
        let mut restarted = Vec::new();
        for (id, worker) in self.workers.iter_mut().enumerate() {
            if !worker.has_ended() {
                continue;
            }
            self.panics.push_back(Instant::now());
            if self.panics.len() > PANICS {
                let first = self.panics.pop_front();
                if first.is_some_and(|first| first.elapsed() < PANICS_WITHIN) {
                    return Err(io::Error::other("too many died"));
                }
            }
            worker.join();
            *worker = WorkerHandle::start(WorkerId(id), self.shared.clone())?;
            self.pulses[id] = 0;
            restarted.push(WorkerId(id));
        }
        Ok(restarted)
    }

    /// Makes all workers announce the end of their connections. New connections are still accepted.
    pub fn announce(&self) {
        for worker in &self.workers {
            worker.tell(WorkerCommand::Announce);
        }
    }

    /// Makes all workers close their listeners, finish the requests in flight and end.
    pub fn drain(&self) {
        for worker in &self.workers {
            worker.tell(WorkerCommand::Drain);
        }
    }

    /// Like [`Self::drain`] while another process accepts on the same sockets, except on those of the listeners `ours`.
    pub fn hand_over(&self, ours: &[ListenerId]) {
        let ours: Arc<[ListenerId]> = ours.into();
        for worker in &self.workers {
            worker.tell(WorkerCommand::HandOver(ours.clone()));
        }
    }

    /// Makes all workers cut everything but streams.
    pub fn cut_requests(&self) {
        for worker in &self.workers {
            worker.tell(WorkerCommand::CutRequests);
        }
    }

    /// Waits until all workers have ended.
    pub async fn all_ended(&self) {
        // Another task that waits on the same `Notify` may take the notification: the state is polled as well.
        while !self.workers.iter().all(WorkerHandle::has_ended) {
            let _ = tokio::time::timeout(Duration::from_millis(5), self.shared.changed.notified())
                .await;
        }
    }

    /// Ends all workers at once and waits for their threads. Returns whether none of them had panicked.
    pub fn stop(&mut self) -> bool {
        for worker in &self.workers {
            worker.tell(WorkerCommand::Stop);
        }
        let ended: Vec<bool> = self.workers.iter_mut().map(WorkerHandle::join).collect();
        ended.into_iter().all(|without_panic| without_panic)
    }

    /// Whether the event loop of every worker has ticked since the last call.
    pub fn is_alive(&mut self) -> bool {
        let now: Vec<u64> = self.workers.iter().map(WorkerHandle::pulse).collect();
        let moved = now.iter().zip(&self.pulses).all(|(now, then)| now > then);
        self.pulses = now;
        moved
    }
}
