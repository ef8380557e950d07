//! Compiles a configuration to find out its changes, without publishing it.

use std::sync::Arc;

use super::Publisher;
use crate::admin::Preview;
use crate::config::Spec;
use crate::control::history;
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

impl Publisher {
    /// Compiles the generation that would follow if the file contained `spec`, without any effect. Its endpoints and counters are
    /// its own, and the versions that the gate would hold back are those that don't pass their checks now.
    pub(crate) fn preview(&self, spec: &Arc<Spec>) -> Preview {
        let running = self.live.current();
        let next = self.with_inputs(&running, spec, |inputs| {
            Snapshot::compile(inputs, &Registry::new(), &Telemetry::new(1))
        });
        Preview {
            changes: history::lines(&running, &next),
            running,
            next,
        }
    }
}
