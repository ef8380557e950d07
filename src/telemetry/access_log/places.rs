//! A cache of the part of a line about the place that answered. Status, service, version, endpoint and how the version was chosen
//! are the same in most of the lines of an endpoint, and are copied in one piece.

use crate::index::{EndpointIx, VersionIx};
use crate::telemetry::record::{Chosen, RequestRecord};

/// Number of places that are remembered. Each takes about 150 bytes.
const PLACES: usize = 64;

/// The values that the remembered part of a line depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PlaceKey {
    /// See [`super::line::LogLine::service_id`].
    service: u64,
    version: VersionIx,
    endpoint: Option<EndpointIx>,
    chosen: Option<Chosen>,
    status: u16,
}

impl PlaceKey {
    #[inline]
    fn of(service: u64, record: &RequestRecord<'_>) -> Option<Self> {
        let last = record.last_try()?;
        Some(Self {
            service,
            version: last.version.1,
            endpoint: last.endpoint.map(|(_, endpoint)| endpoint),
            chosen: record.chosen,
            status: record.status,
        })
    }

    /// The index at which the place is remembered. Endpoints that follow each other don't displace each other.
    #[inline]
    fn cell(&self) -> usize {
        let endpoint = self.endpoint.map_or(0, |endpoint| endpoint.0);
        let place = (self.service as usize).wrapping_mul(29) + self.version.0 * 13 + endpoint;
        place % PLACES
    }
}

#[derive(Debug, Default)]
struct KnownPlace {
    key: Option<PlaceKey>,
    text: Vec<u8>,
}

/// The latest places that answered, as text in one format.
#[derive(Debug, Default)]
pub(crate) struct KnownPlaces(Vec<KnownPlace>);

impl KnownPlaces {
    /// Appends the text that `write` appends, which must depend on the key alone. For a known place `write` isn't called.
    #[inline]
    pub(super) fn put(
        &mut self,
        out: &mut Vec<u8>,
        (service, record): (Option<u64>, &RequestRecord<'_>),
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(key) = service.and_then(|service| PlaceKey::of(service, record)) else {
            return write(out);
        };
        match self.0.get(key.cell()) {
            Some(known) if known.key == Some(key) => out.extend_from_slice(&known.text),
            _ => self.learn(out, key, write),
        }
    }

    #[cold]
    fn learn(&mut self, out: &mut Vec<u8>, key: PlaceKey, write: impl FnOnce(&mut Vec<u8>)) {
        if self.0.is_empty() {
            self.0.resize_with(PLACES, KnownPlace::default);
        }
        let from = out.len();
        write(out);
        let known = &mut self.0[key.cell()];
        known.key = Some(key);
        known.text.clear();
        known.text.extend_from_slice(&out[from..]);
    }
}
