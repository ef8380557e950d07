//! When is a file that is being changed worth reading? Pure: time comes in as an argument.
//!
//! Most saves are a burst of events within a millisecond or two, so a short silence is enough. A writer that still has
//! the file open is waited for: reading earlier would find half of it, and half of a valid file can be valid.

use std::time::Duration;

use tokio::time::Instant;

/// What was seen happening to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Bytes were written or cut off by somebody who has not closed the file yet.
    Writing,
    /// It was closed after writing, renamed, created, removed, or its mode changed: it may be whole.
    Settled,
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Silence after the last event.
    pub quiet: Duration,
    /// Longest delay after the first event of a burst of settled files.
    pub burst: Duration,
    /// Longest wait for a writer to close the file.
    pub writer: Duration,
}

/// Joins the events of one save to one reading of the file.
#[derive(Debug)]
pub(super) struct Debounce {
    patience: Patience,
    burst: Option<Burst>,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Instant,
    last: Instant,
    writing: bool,
}

impl Debounce {
    /// Nothing seen yet.
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            burst: None,
        }
    }

    /// Something happened at `now`.
    pub(super) fn saw(&mut self, now: Instant, sight: Sight) {
        let writing = sight == Sight::Writing;
        self.burst = Some(match self.burst {
            // The limit for a burst counts from where the file first was whole.
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

    /// When the file should be read; `None` when there is nothing to read.
    pub(super) fn due(&self) -> Option<Instant> {
        let burst = self.burst?;
        Some(if burst.writing {
            burst.first + self.patience.writer
        } else {
            (burst.last + self.patience.quiet).min(burst.first + self.patience.burst)
        })
    }

    /// The file is read now: a new burst begins with the next event.
    pub(super) fn done(&mut self) {
        self.burst = None;
    }

    /// Whether something was seen that has not been read yet.
    pub(super) fn pending(&self) -> bool {
        self.burst.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn debounce() -> Debounce {
        Debounce::new(Patience {
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
        d.saw(t, Sight::Settled);
        d.saw(t + 3 * MS, Sight::Settled);
        assert_eq!(d.due(), Some(t + 13 * MS));
    }

    #[test]
    fn a_burst_without_end_is_read_after_forty_milliseconds() {
        let (mut d, t) = (debounce(), Instant::now());
        for i in 0..20 {
            d.saw(t + i * 4 * MS, Sight::Settled);
        }
        assert_eq!(d.due(), Some(t + 40 * MS));
    }

    #[test]
    fn a_writer_that_has_not_closed_is_waited_for() {
        let (mut d, t) = (debounce(), Instant::now());
        d.saw(t, Sight::Settled);
        d.saw(t + MS, Sight::Writing);
        assert_eq!(d.due(), Some(t + 1000 * MS));
        d.saw(t + 300 * MS, Sight::Settled);
        assert_eq!(d.due(), Some(t + 310 * MS));
    }

    #[test]
    fn after_reading_a_new_burst_begins() {
        let (mut d, t) = (debounce(), Instant::now());
        d.saw(t, Sight::Settled);
        d.done();
        assert_eq!(d.due(), None);
        d.saw(t + 500 * MS, Sight::Settled);
        assert_eq!(d.due(), Some(t + 510 * MS));
    }
}
