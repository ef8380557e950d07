//! Flags and goals of a request: the decision about them, and their counters.

use super::{Recording, judging};
use crate::index::FlagIx;
use crate::proxy::Worker;
use crate::proxy::judged::User;
use crate::routing::{CohortPoint, RequestView};
use crate::snapshot::Service;
use crate::telemetry::record::{RequestFlags, RequestRecord, TryRecord};

impl<'a> Recording<'a> {
    /// Decides which flags of the service are on for the request.
    pub(crate) fn decide_flags(
        &mut self,
        service: &'a Service,
        request: &impl RequestView,
        user: User,
    ) {
        let place = match user {
            User::Cohort(place) => Some(CohortPoint(place)),
            User::Session(_) | User::Anyone => None,
        };
        self.record.flags = Some(RequestFlags {
            on: service.routing.flags_on(request, place),
            names: &service.routing.flag_names,
        });
        self.flag_drawn = service.rolling_flag.as_ref().and_then(|rolling| {
            let user = || place.or_else(|| service.routing.user(request));
            service.routing.flags[rolling.flag].drawn(request, user)
        });
    }
}

/// Counts a request of a service by the states of its flags.
pub(super) fn note_request(worker: &Worker, service: &Service, flags: RequestFlags<'_>) {
    for (index, flag) in FlagIx::enumerate(&service.flags) {
        flag.requests.request(worker.id, flags.state(index));
    }
}

/// Counts a complete response by the goals of the service: for its version, and for each flag by its state.
pub(super) fn note_goals(
    worker: &Worker,
    service: &Service,
    record: &RequestRecord<'_>,
    (attempt, status): (&TryRecord<'_>, u16),
) {
    let version = &service.versions[attempt.version.1];
    for (goal, spec) in service.goals.iter().enumerate() {
        let reached = judging::is_reached(spec, record, status);
        version.goals[goal].request(worker.id, reached);
        let Some(flags) = record.flags else { continue };
        for (index, flag) in FlagIx::enumerate(&service.flags) {
            flag.goals[goal][flags.state(index).index()].request(worker.id, reached);
        }
    }
}
