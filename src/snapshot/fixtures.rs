//! Snapshots for tests.

use std::sync::Arc;

use super::{Inputs, Keys, Previous, RolloutShare, Snapshot};
use crate::config::Spec;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;
use crate::upstream::resolve::record::Resolutions;

/// Compiles a snapshot with a registry and counters of its own. `passes` applies to every version.
pub fn compiled(
    spec: &Arc<Spec>,
    previous: Previous<'_>,
    passes: bool,
    (keys, now_s): (&Keys, u64),
) -> Snapshot {
    let inputs = Inputs {
        generation: match previous {
            Previous::Generation(running) => running.generation + 1,
            Previous::Nothing | Previous::Process(_) => 1,
        },
        spec,
        previous,
        rollouts: &|_| RolloutShare::default(),
        resolutions: &Resolutions::new(),
        passes: &|_, _| passes,
        limit_members: 1,
        keys,
        access_log: None,
        traces: None,
        now_s,
    };
    Snapshot::compile(&inputs, &Registry::new(), &Telemetry::new(1))
}
