//! Generations of the running configuration, after changes by checks, names or rollouts.

use super::Publisher;
use crate::admin::history::ChangeCause;
use crate::control::rollouts::shares::SharesInForce;
use crate::control::{audit, history};
use crate::edge::worker::WorkerCommand;

impl Publisher {
    /// Opens the stable gate for versions that pass their checks now: publishes a generation in which they have the role or share
    /// that the configuration gives them. Returns whether there were any.
    pub(crate) async fn open_gate(&mut self) -> bool {
        let opens = self.live.current().can_open();
        if opens {
            let generation = self.republish(ChangeCause::Gate, true).await;
            tracing::info!(
                generation,
                "awaited versions pass their checks, generation adopted by every worker"
            );
        }
        opens
    }

    /// Publishes a generation with the addresses that names have now. The history records it only if it opens or closes the stable
    /// gate, because an address isn't part of the configuration.
    pub(crate) async fn publish_names(&mut self) {
        let generation = self.republish(ChangeCause::Gate, false).await;
        tracing::debug!(generation, "addresses of names adopted by every worker");
    }

    /// Publishes a generation of the running configuration with the present effective state, and returns its number once every
    /// worker has adopted it. `always`: it is recorded even if nothing but endpoints differs.
    async fn republish(&mut self, cause: ChangeCause, always: bool) -> u64 {
        let running = self.live.current();
        let next = self.compile(&running, &running.spec);
        let generation = next.generation;
        self.publish(next);
        for worker in self.workers.workers() {
            worker.tell(WorkerCommand::Adopt);
        }
        self.wait_until_adopted(generation).await;
        let now = self.live.current();
        let changes = audit::changes(&running, &now);
        audit::log(generation, &changes);
        if changes.is_empty() && !always {
            return generation;
        }
        let hash = self.live.source().hash;
        let lines = history::lines_of(&changes, (&running, &now));
        self.history
            .record(generation, lines, (&hash, None), Some(cause.into()));
        generation
    }

    /// Divides `limits.requests` among this many members of the fleet, if that changes anything.
    pub(crate) async fn divide_limits(&mut self, members: u32) {
        if self.limit_members == members {
            return;
        }
        self.limit_members = members;
        let generation = self.republish(ChangeCause::Gate, false).await;
        tracing::debug!(
            generation,
            members,
            "divided limits adopted by every worker"
        );
    }

    /// Sets the shares that rollouts have reached. They take effect with the next generation.
    pub(crate) fn set_rollouts(&mut self, shares: SharesInForce) {
        self.rollouts = shares;
    }

    /// Publishes a generation with the shares that rollouts have reached.
    pub(crate) async fn publish_rollouts(&mut self) {
        let generation = self.republish(ChangeCause::Rollout, true).await;
        tracing::debug!(generation, "rollout shares adopted by every worker");
    }
}
