//! The lines of the access log that were received.

use std::collections::VecDeque;

use crate::cli::logs::filter::LogFilter;

/// Largest number of lines that are kept.
const KEPT: usize = 5_000;

/// A line of the log, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogRow {
    /// The status that the client got; 0 for a notice.
    pub status: u64,
    pub text: String,
}

/// The log view.
#[derive(Debug, Default)]
pub(super) struct LogModel {
    pub filter: LogFilter,
    pub rows: VecDeque<LogRow>,
    /// Number of rows at the end that are below the screen; 0 follows the newest.
    pub below: usize,
    /// Number of lines that came faster than they could be taken.
    pub dropped: u64,
    /// Why no lines come; `None` while they do.
    pub broken: Option<String>,
}

impl LogModel {
    /// Adds a row. Rows that the operator reads stay where they are.
    pub(super) fn add(&mut self, row: LogRow) {
        self.broken = None;
        self.rows.push_back(row);
        if self.below > 0 {
            self.below += 1;
        }
        if self.rows.len() > KEPT {
            self.rows.pop_front();
        }
        self.below = self.below.min(self.rows.len());
    }

    /// Moves the rows that are shown, towards the newest if positive.
    pub(super) fn scroll(&mut self, rows: isize) {
        let most = self.rows.len().saturating_sub(1);
        self.below = self.below.saturating_add_signed(-rows).min(most);
    }

    /// Begins again with another filter.
    pub(super) fn select(&mut self, filter: LogFilter) {
        *self = Self {
            filter,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64) -> LogRow {
        LogRow {
            status: number,
            text: String::new(),
        }
    }

    #[test]
    fn rows_that_are_looked_at_stay() {
        let mut log = LogModel::default();
        (0..10).for_each(|n| log.add(row(n)));
        log.scroll(-3);
        log.add(row(10));
        assert_eq!(log.below, 4);
        log.scroll(100);
        assert_eq!(log.below, 0);
        log.scroll(-100);
        assert_eq!(log.below, 10);
    }

    #[test]
    fn old_rows_make_room() {
        let mut log = LogModel::default();
        (0..6_000).for_each(|n| log.add(row(n)));
        assert_eq!(log.rows.len(), KEPT);
        assert_eq!(log.rows.back(), Some(&row(5_999)));
    }
}
