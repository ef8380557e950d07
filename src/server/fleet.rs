//! All workers, as the control thread sees them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::worker::{Common, WorkerCommand, WorkerHandle};
use crate::snapshot::Live;
use crate::upstream::outlier::Suspects;
use tokio::sync::Notify;

/// All workers.
#[derive(Debug)]
pub struct Fleet {
    workers: Vec<WorkerHandle>,
    common: Arc<Common>,
    /// Their pulses when they were felt last.
    pulses: Vec<u64>,
}

impl Fleet {
    /// Starts so many workers.
    ///
    /// # Errors
    /// A thread or its runtime can't be made.
    pub fn start(
        workers: usize,
        live: &Arc<Live>,
        gate: &Arc<Gate>,
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
            common,
        })
    }

    /// In the order of their numbers.
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// Waits until every worker has adopted this generation (or a later one); false if it takes longer than `limit`.
    pub async fn adopted(&self, generation: u64, limit: Duration) -> bool {
        let wait = async {
            while self.common.live.adopted() < generation {
                self.common.news.notified().await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Waits until a worker has ended.
    pub async fn one_ended(&self) {
        while !self.workers.iter().any(WorkerHandle::has_ended) {
            self.common.news.notified().await;
        }
    }

    /// Tells all of them to announce the end to their connections; new ones are still taken.
    pub fn announce(&self) {
        for worker in &self.workers {
            worker.tell(WorkerCommand::Announce);
        }
    }

    /// Tells all of them to finish what they have.
    pub fn drain(&self) {
        for worker in &self.workers {
            worker.tell(WorkerCommand::Drain);
        }
    }

    /// Tells all of them to finish what they have: another process accepts now, except on the sockets of these listeners.
    pub fn hand_over(&self, ours: &[usize]) {
        let ours: Arc<[usize]> = ours.into();
        for worker in &self.workers {
            worker.tell(WorkerCommand::HandOver(ours.clone()));
        }
    }

    /// Tells all of them that only streams may go on.
    pub fn cut_requests(&self) {
        for worker in &self.workers {
            worker.tell(WorkerCommand::CutRequests);
        }
    }

    /// Waits until all have ended.
    pub async fn all_ended(&self) {
        // The thread tells of its end a moment before it is over: looked at again, besides being told.
        while !self.workers.iter().all(WorkerHandle::has_ended) {
            let _ =
                tokio::time::timeout(Duration::from_millis(5), self.common.news.notified()).await;
        }
    }

    /// Ends all of them now, whatever they do. Whether none of them had panicked.
    pub fn stop(&mut self) -> bool {
        for worker in &self.workers {
            worker.tell(WorkerCommand::Stop);
        }
        let ended: Vec<bool> = self.workers.iter_mut().map(WorkerHandle::join).collect();
        ended.into_iter().all(|well| well)
    }

    /// Whether every worker has made a turn since this was asked last.
    pub fn is_alive(&mut self) -> bool {
        let now: Vec<u64> = self.workers.iter().map(WorkerHandle::pulse).collect();
        let moved = now.iter().zip(&self.pulses).all(|(now, then)| now > then);
        self.pulses = now;
        moved
    }
}
