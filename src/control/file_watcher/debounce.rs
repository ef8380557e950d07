//! Decides when a file that is being changed should be read. Pure: the time is an argument.
//!
//! Most saves are a burst of events within a millisecond or two, so a short silence is enough. While a writer has the file open
//! it isn't read, because half of a valid file may be a valid file too.

use std::time::Duration;

use tokio::time::Instant;

/// The kinds of change to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Written or truncated by a writer that has the file open.
    Writing,
    /// Closed after writing, renamed, created, removed, or its mode changed: the file may be complete.
    Settled,
}

/// The limits of a debounce.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delays {
    /// Silence after the last event, after which the file is read.
    pub quiet: Duration,
    /// Longest delay after the first event of a burst, if events don't cease.
    pub burst: Duration,
    /// Longest wait for a writer to close the file.
    pub writer: Duration,
}

/// Merges the events of one save into one read of the file.
#[derive(Debug)]
pub(super) struct Debounce {
    delays: Delays,
    burst: Option<Burst>,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Instant,
    last: Instant,
    writing: bool,
}

impl Debounce {
    /// Creates a debounce without pending events.
    pub(super) fn new(delays: Delays) -> Self {
        Self {
            delays,
            burst: None,
        }
    }

    /// Records an event at `now`.
    pub(super) fn record(&mut self, now: Instant, change: Change) {
        let writing = change == Change::Writing;
        self.burst = Some(match self.burst {
            // The writer is done: the limit of the burst counts from the first moment at which the file may be complete.
            Some(burst) if burst.writing && !writing => Burst {
                first: now,
                last: now,
                writing,
            },
            Some(burst) => Burst {
                last: now,
                writing,
                ..burst
            },
            None => Burst {
                first: now,
                last: now,
                writing,
            },
        });
    }

    /// When the file should be read; `None` if no event is pending.
    pub(super) fn due(&self) -> Option<Instant> {
        let burst = self.burst?;
        Some(if burst.writing {
            burst.first + self.delays.writer
        } else {
            (burst.last + self.delays.quiet).min(burst.first + self.delays.burst)
        })
    }

    /// Forgets the pending events, because the file is read now.
    pub(super) fn done(&mut self) {
        self.burst = None;
    }

    /// Whether events are pending.
    pub(super) fn pending(&self) -> bool {
        self.burst.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn debounce() -> Debounce {
        Debounce::new(Delays {
            quiet: 10 * MS,
            burst: 40 * MS,
            writer: 1000 * MS,
        })
    }

    #[test]
    fn nothing_seen_nothing_due() {
        assert_eq!(debounce().due(), None);
    }

    #[test]
    fn one_save_is_due_after_the_silence() {
        let (mut d, t) = (debounce(), Instant::now());
        d.record(t, Change::Settled);
        d.record(t + 3 * MS, Change::Settled);
        assert_eq!(d.due(), Some(t + 13 * MS));
    }

    #[test]
    fn a_burst_without_end_is_read_after_forty_milliseconds() {
        let (mut d, t) = (debounce(), Instant::now());
        for i in 0..20 {
            d.record(t + i * 4 * MS, Change::Settled);
        }
        assert_eq!(d.due(), Some(t + 40 * MS));
    }

    #[test]
    fn a_writer_that_has_not_closed_is_waited_for() {
        let (mut d, t) = (debounce(), Instant::now());
        d.record(t, Change::Settled);
        d.record(t + MS, Change::Writing);
        assert_eq!(d.due(), Some(t + 1000 * MS));
        d.record(t + 300 * MS, Change::Settled);
        assert_eq!(d.due(), Some(t + 310 * MS));
    }

    #[test]
    fn after_reading_a_new_burst_begins() {
        let (mut d, t) = (debounce(), Instant::now());
        d.record(t, Change::Settled);
        d.done();
        assert_eq!(d.due(), None);
        d.record(t + 500 * MS, Change::Settled);
        assert_eq!(d.due(), Some(t + 510 * MS));
    }
}
