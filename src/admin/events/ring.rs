//! The latest events, as the bytes that streams send.

use std::collections::VecDeque;
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Most bytes of events that are kept for streams that lag or resume. The newest batch is kept whatever its size.
const KEPT_BYTES: usize = 4 << 20;

/// Memory that an event takes beside its text, roughly.
const OVERHEAD_BYTES: usize = 96;

/// Events that were made at the same time, in one piece of memory that all streams share.
#[derive(Debug)]
struct Batch {
    text: Bytes,
    events: Vec<PlacedEvent>,
}

impl Batch {
    fn cost(&self) -> usize {
        self.text.len() + self.events.len() * OVERHEAD_BYTES
    }
}

#[derive(Debug)]
struct PlacedEvent {
    number: u64,
    text: Range<usize>,
    /// The services that the event concerns; none if it concerns the proxy as a whole.
    services: Vec<Arc<str>>,
}

/// The result of asking for the events after a number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextEvents {
    /// These bytes, whose last event has this number.
    Some(Bytes, u64),
    /// Nothing; the newest event has this number.
    None(u64),
    /// Events that should have been sent are not kept any more.
    Gone,
}

/// The latest events, the newest at the end.
#[derive(Debug, Default)]
pub(super) struct EventRing {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// The number of the newest event; 0 before the first.
    newest: u64,
}

impl EventRing {
    /// The number of the newest event; 0 before the first.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Begins a batch of events, which [`Self::add`] ends.
    pub(super) fn begin(&self) -> NewBatch {
        NewBatch {
            number: self.newest,
            text: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Adds a batch and drops the oldest ones beyond the limit. Returns whether it has events.
    pub(super) fn add(&mut self, batch: NewBatch) -> bool {
        if batch.events.is_empty() {
            return false;
        }
        self.newest = batch.number;
        let batch = Batch {
            text: batch.text.into(),
            events: batch.events,
        };
        self.bytes += batch.cost();
        self.batches.push_back(batch);
        while self.bytes > KEPT_BYTES && self.batches.len() > 1 {
            self.bytes -= self.batches.pop_front().map_or(0, |oldest| oldest.cost());
        }
        true
    }

    /// The events after the one with this number: of all services, or of one.
    pub(super) fn after(&self, seen: u64, service: Option<&str>) -> NextEvents {
        if seen == self.newest {
            return NextEvents::None(seen);
        }
        let first = |batch: &Batch| batch.events.first().map_or(0, |event| event.number);
        let is_kept = self.batches.front().is_some_and(|b| first(b) <= seen + 1);
        if seen > self.newest || !is_kept {
            return NextEvents::Gone;
        }
        let newer = self.batches.partition_point(|batch| first(batch) <= seen);
        // The events that follow may end in the batch before.
        let batches = self.batches.range(newer.saturating_sub(1)..);
        match service {
            None => Self::of_all(batches, seen),
            Some(service) => self.of_one(batches, seen, service),
        }
    }

    /// The rest of the first batch that has one, without a copy.
    fn of_all<'a>(batches: impl Iterator<Item = &'a Batch>, seen: u64) -> NextEvents {
        for batch in batches {
            let mut unseen = batch.events.iter().filter(|event| event.number > seen);
            if let (Some(first), Some(last)) = (unseen.next(), batch.events.last()) {
                return NextEvents::Some(batch.text.slice(first.text.start..), last.number);
            }
        }
        NextEvents::None(seen)
    }

    fn of_one<'a>(
        &self,
        batches: impl Iterator<Item = &'a Batch>,
        seen: u64,
        service: &str,
    ) -> NextEvents {
        let mut text = BytesMut::new();
        for batch in batches {
            let unseen = batch.events.iter().filter(|event| event.number > seen);
            for event in unseen.filter(|event| event.services.iter().any(|s| **s == *service)) {
                text.extend_from_slice(&batch.text[event.text.clone()]);
            }
        }
        match text.is_empty() {
            true => NextEvents::None(self.newest),
            false => NextEvents::Some(text.freeze(), self.newest),
        }
    }
}

/// A batch that is being made.
#[derive(Debug)]
pub(super) struct NewBatch {
    number: u64,
    text: Vec<u8>,
    events: Vec<PlacedEvent>,
}

impl NewBatch {
    /// Adds an event that concerns these services, or the proxy as a whole.
    pub(super) fn push(&mut self, epoch: &str, kind: &str, json: &[u8], services: Vec<Arc<str>>) {
        self.number += 1;
        let start = self.text.len();
        write_event(&mut self.text, (epoch, self.number), kind, json);
        self.events.push(PlacedEvent {
            number: self.number,
            text: start..self.text.len(),
            services,
        });
    }
}

/// Writes an event as the HTML standard describes it (section 9.2.6). JSON has no line breaks outside of strings, and inside they
/// are escaped, so that the data is one line.
pub(super) fn write_event(
    text: &mut Vec<u8>,
    (epoch, number): (&str, u64),
    kind: &str,
    json: &[u8],
) {
    // Writing to a vector does not fail.
    let _ = write!(text, "id: {epoch}-{number}\nevent: {kind}\ndata: ");
    text.extend_from_slice(json);
    text.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(batches: &[&[(&str, &str)]]) -> EventRing {
        let mut ring = EventRing::default();
        for events in batches {
            let mut batch = ring.begin();
            for (json, service) in *events {
                let services = (!service.is_empty()).then(|| Arc::from(*service));
                batch.push("e", "x", json.as_bytes(), services.into_iter().collect());
            }
            ring.add(batch);
        }
        ring
    }

    fn text(next: NextEvents) -> (String, u64) {
        match next {
            NextEvents::Some(bytes, number) => (String::from_utf8(bytes.into()).unwrap(), number),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_stream_gets_what_it_has_not_seen() {
        let ring = ring(&[&[("1", "a"), ("2", "b")], &[("3", "a"), ("4", "")]]);
        let one = |number: u64| format!("id: e-{number}\nevent: x\ndata: {number}\n\n");
        assert_eq!(text(ring.after(0, None)), (one(1) + &one(2), 2));
        assert_eq!(text(ring.after(1, None)), (one(2), 2));
        assert_eq!(text(ring.after(2, None)), (one(3) + &one(4), 4));
        assert_eq!(ring.after(4, None), NextEvents::None(4));
        assert_eq!(text(ring.after(0, Some("a"))), (one(1) + &one(3), 4));
        assert_eq!(text(ring.after(1, Some("a"))), (one(3), 4));
        assert_eq!(ring.after(2, Some("b")), NextEvents::None(4));
        assert_eq!(ring.after(5, None), NextEvents::Gone);
    }

    #[test]
    fn memory_is_bounded_and_who_lags_is_told() {
        let large = "9".repeat(KEPT_BYTES / 4);
        let event: &[(&str, &str)] = &[(&large, "a")];
        let mut ring = ring(&[event; 6]);
        assert!(ring.bytes <= KEPT_BYTES, "{} bytes", ring.bytes);
        assert_eq!(ring.batches.len(), 3);
        assert_eq!(ring.after(2, None), NextEvents::Gone);
        assert_eq!(ring.after(2, Some("b")), NextEvents::Gone);
        assert_eq!(text(ring.after(3, None)).1, 4);
        let mut batch = ring.begin();
        batch.push("e", "x", "9".repeat(2 * KEPT_BYTES).as_bytes(), Vec::new());
        assert!(ring.add(batch));
        assert_eq!(ring.batches.len(), 1, "the newest is kept");
        assert!(!ring.add(ring.begin()), "an empty batch is none");
        assert_eq!(ring.newest(), 7);
    }
}
