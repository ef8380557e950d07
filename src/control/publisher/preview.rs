//! Compiles a configuration to see what it would change, without publishing it.

use std::sync::Arc;

use super::Publisher;
use crate::admin::Preview;
use crate::config::Spec;
use crate::control::history;
use crate::net::clock::wall_s;
use crate::snapshot::{Inputs, Previous, Snapshot};
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

impl Publisher {
    /// Compiles the generation that would follow if the file held `spec`, without any effect: its endpoints and counters are its
    /// own, and the versions that the gate would hold back are those that don't pass their checks now.
    pub(crate) fn preview(&self, spec: &Arc<Spec>) -> Preview {
        let running = self.live.current();
        let inputs = Inputs {
            generation: running.generation + 1,
            spec,
            previous: Previous::Generation(&running),
            passes: &|service, version| self.monitor.passes(&self.registry, service, version),
            rollouts: &|service| self.rollouts.of(service),
            keys: &self.keys,
            access_log: self.log.sink(),
            traces: self.traces.sink(),
            now_s: wall_s(),
        };
        let next = Snapshot::compile(&inputs, &Registry::new(), &Telemetry::new(1));
        Preview {
            changes: history::lines(&running, &next),
            running,
            next,
        }
    }
}
