//! Second tries: a request that is hedged, and the try that doesn't serve it.

use std::time::Instant;

use super::{HEDGED, Recording, observe_try};
use crate::index::{EndpointIx, VersionIx};
use crate::proxy::error::ExchangeError;
use crate::telemetry::record::TryRecord;

impl Recording<'_> {
    /// Records that the current try was cancelled, because a second one had a response before it. It says nothing about the
    /// version or endpoint.
    pub(in crate::proxy) fn cancel_try(&mut self) {
        let (_, took) = self.elapsed();
        self.end_try_as(took, None, None, Some(HEDGED));
    }

    /// Makes a second try, which began at `began`, the current one.
    pub(in crate::proxy) fn begin_second(
        &mut self,
        version: VersionIx,
        member: EndpointIx,
        began: Instant,
    ) {
        self.begin_try(version, Some(member));
        self.try_began = began;
        if let Some(trace) = &mut self.record.trace {
            trace.enter_second(began);
        }
    }

    /// Records a second try that doesn't serve the request. Without an error it was cancelled.
    pub(in crate::proxy) fn lost_second(
        &mut self,
        version: VersionIx,
        (member, began): (EndpointIx, Instant),
        error: Option<&ExchangeError>,
    ) {
        let Some(service) = self.service else { return };
        let of_version = &service.versions[version];
        let attempt = TryRecord {
            version: (&of_version.name, version),
            endpoint: Some((&*of_version.pool.members[member].endpoint.name, member)),
            status: error.and_then(ExchangeError::upstream_status),
            failure: Some(error.map_or(HEDGED, |error| error.failure(false))),
            took: began.elapsed(),
            ..TryRecord::default()
        };
        observe_try(self.worker, service, &self.record, &attempt);
        self.record.lost_second = Some(Box::new(attempt));
        if let Some(trace) = &mut self.record.trace {
            trace.lose_second(began);
        }
    }
}
