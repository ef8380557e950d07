//! The lines of the access log that were received, and which of them are asked for.

use std::collections::VecDeque;

/// Lines that are kept.
const KEPT: usize = 5_000;

/// A line of the log, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogRow {
    /// The status that the client got; 0 for a notice.
    pub status: u64,
    pub text: String,
}

/// Which lines the proxy is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogFilter {
    pub service: Option<String>,
    pub failed: bool,
    pub canary: bool,
}

impl LogFilter {
    /// The path of the admin API.
    pub(super) fn path(&self) -> String {
        let mut parameters = Vec::new();
        if let Some(service) = &self.service {
            // Names of services consist of characters that need no escape.
            parameters.push(format!("service={service}"));
        }
        for (is_set, name) in [(self.failed, "failed"), (self.canary, "canary")] {
            if is_set {
                parameters.push(format!("{name}=true"));
            }
        }
        format!("/api/v1/logs?{}", parameters.join("&"))
    }

    /// In words.
    pub(super) fn describe(&self) -> String {
        let mut words = Vec::new();
        if self.failed {
            words.push("failed".to_owned());
        }
        if self.canary {
            words.push("canary".to_owned());
        }
        words.push(match &self.service {
            Some(service) => format!("requests to {service}"),
            None => "requests to all services".to_owned(),
        });
        words.join(" ")
    }
}

/// The log view.
#[derive(Debug, Default)]
pub(super) struct LogModel {
    pub filter: LogFilter,
    pub rows: VecDeque<LogRow>,
    /// How many rows at the end are below the screen; 0 follows the newest.
    pub below: usize,
    /// Lines that came faster than they could be taken.
    pub dropped: u64,
    /// Why no lines come, if so.
    pub broken: Option<String>,
}

impl LogModel {
    /// Adds a row. Rows that are being looked at stay where they are.
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

    #[test]
    fn filters_are_parameters() {
        let filter = LogFilter {
            service: Some("shop".to_owned()),
            failed: true,
            canary: true,
        };
        assert_eq!(
            filter.path(),
            "/api/v1/logs?service=shop&failed=true&canary=true"
        );
        assert_eq!(filter.describe(), "failed canary requests to shop");
        assert_eq!(LogFilter::default().path(), "/api/v1/logs?");
    }
}
