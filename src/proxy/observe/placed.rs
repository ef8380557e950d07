//! The service and version of a recording, and the origin of its request.

use super::Recording;
use crate::index::VersionIx;
use crate::proxy::judged::User;
use crate::proxy::peer::Peer;
use crate::proxy::traces::TraceOrigin;
use crate::snapshot::Service;

impl<'a> Recording<'a> {
    /// Records that the proxy answers for this version.
    pub(crate) fn answers_for(&mut self, version: VersionIx) {
        let name = self.service.map(|service| &*service.versions[version].name);
        self.answering = name.map(|name| (name, version));
    }

    /// The service, if there is one.
    #[inline]
    pub(in crate::proxy) fn service(&self) -> Option<&'a Service> {
        self.service
    }

    /// Name and index of the version that is being tried, or was tried last.
    #[inline]
    pub(in crate::proxy) fn version(&self) -> Option<(&'a str, VersionIx)> {
        self.answering
            .or_else(|| self.record.last_try().map(|attempt| attempt.version))
    }

    /// The origin of the request, for its trace.
    pub(super) fn trace_origin(&self) -> TraceOrigin {
        TraceOrigin {
            started: self.started,
            is_tls: self.peer.tls,
            cohort: match self.user {
                User::Cohort(point) => Some(point as f64 / u64::MAX as f64),
                User::Session(_) | User::Anyone => None,
            },
        }
    }

    /// The peer of the connection.
    pub(in crate::proxy) fn peer(&self) -> &'a Peer {
        self.peer
    }
}
