//! All workers, as the control thread sees them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::Admission;
use super::worker::{Common, WorkerCommand, WorkerHandle};
use crate::snapshot::Live;
use crate::upstream::outlier::Suspects;
use tokio::sync::Notify;

/// More deaths of workers than this
const DEATHS: usize = 5;
/// in so long a time are no chance: they are not started anew.
const DEATHS_IN: Duration = Duration::from_secs(60);

/// All workers.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<WorkerHandle>,
    common: Arc<Common>,
    /// Their pulses when they were felt last.
    pulses: Vec<u64>,
    /// When the last of them died that were started anew.
    deaths: VecDeque<Instant>,
}

impl Workers {
    /// Starts so many workers.
    ///
    /// # Errors
    /// A thread or its runtime can't be made.
    pub(crate) fn start(
        workers: usize,
        live: &Arc<Live>,
        gate: &Arc<Admission>,
        suspects: Suspects,
    ) -> io::Result<Self> {
        let common = Arc::new(Common {
            live: live.clone(),
            gate: gate.clone(),
            suspects,
            news: Notify::new(),
        });
        let start = |id| WorkerHandle::start(id, common.clone());
        Ok(Self {
            workers: (0..workers).map(start).collect::<io::Result<_>>()?,
            pulses: vec![0; workers],
            deaths: VecDeque::new(),
            common,
        })
    }

    /// In the order of their numbers.
    pub(crate) fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// Waits until every worker has adopted this generation (or a later one); false if it takes longer than `limit`.
    pub(crate) async fn adopted(&self, generation: u64, limit: Duration) -> bool {
        let wait = async {
            while self.common.live.adopted() < generation {
                self.common.news.notified().await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Waits until a worker has ended.
    pub(crate) async fn one_ended(&self) {
        while !self.workers.iter().any(WorkerHandle::has_ended) {
            self.common.news.notified().await;
        }
    }

    /// Starts those anew that have died: their numbers. What was in flight on them is lost; all else went on.
    ///
    /// # Errors
    /// Too many have died of late for a chance fault, or a thread can't be made.
    pub(crate) fn revive(&mut self) -> io::Result<Vec<usize>> {
        let mut revived = Vec::new();
        for (id, worker) in self.workers.iter_mut().enumerate() {
            if !worker.has_ended() {
                continue;
            }
            self.deaths.push_back(Instant::now());
            if self.deaths.len() > DEATHS {
                let first = self.deaths.pop_front();
                if first.is_some_and(|first| first.elapsed() < DEATHS_IN) {
                    return Err(io::Error::other("too many died"));
                }
            }
            worker.join();
            *worker = WorkerHandle::start(id, self.common.clone())?;
            self.pulses[id] = 0;
            revived.push(id);
        }
        Ok(revived)
    }

    /// Tells all of them to announce the end to their connections; new ones are still taken.
    pub(crate) fn announce(&self) {
        for worker in &self.workers {
            worker.tell(WorkerCommand::Announce);
        }
    }

    /// Tells all of them to finish what they have.
    pub(crate) fn drain(&self) {
        for worker in &self.workers {
            worker.tell(WorkerCommand::Drain);
        }
    }

    /// Tells all of them to finish what they have: another process accepts now, except on the sockets of these listeners.
    pub(crate) fn hand_over(&self, ours: &[usize]) {
        let ours: Arc<[usize]> = ours.into();
        for worker in &self.workers {
            worker.tell(WorkerCommand::HandOver(ours.clone()));
        }
    }

    /// Tells all of them that only streams may go on.
    pub(crate) fn cut_requests(&self) {
        for worker in &self.workers {
            worker.tell(WorkerCommand::CutRequests);
        }
    }

    /// Waits until all have ended.
    pub(crate) async fn all_ended(&self) {
        // The thread tells of its end a moment before it is over: looked at again, besides being told.
        while !self.workers.iter().all(WorkerHandle::has_ended) {
            let _ =
                tokio::time::timeout(Duration::from_millis(5), self.common.news.notified()).await;
        }
    }

    /// Ends all of them now, whatever they do. Whether none of them had panicked.
    pub(crate) fn stop(&mut self) -> bool {
        for worker in &self.workers {
            worker.tell(WorkerCommand::Stop);
        }
        let ended: Vec<bool> = self.workers.iter_mut().map(WorkerHandle::join).collect();
        ended.into_iter().all(|well| well)
    }

    /// Whether every worker has made a turn since this was asked last.
    pub(crate) fn is_alive(&mut self) -> bool {
        let now: Vec<u64> = self.workers.iter().map(WorkerHandle::pulse).collect();
        let moved = now.iter().zip(&self.pulses).all(|(now, then)| now > then);
        self.pulses = now;
        moved
    }
}
