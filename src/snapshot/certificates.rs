//! The state of certificates, for operators.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A certificate of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateState {
    /// The listener's name.
    pub listener: String,
    /// Server names that get it.
    pub names: Vec<String>,
    /// The file that it was read from.
    pub file: PathBuf,
    /// Seconds since the epoch from which it is valid.
    pub not_before: i64,
    /// Seconds since the epoch until which it is valid.
    pub not_after: i64,
    /// Why its files as they are now are not what is used.
    pub error: Option<String>,
    /// When that was noticed.
    pub since: Option<SystemTime>,
}

/// Where the formatter's calendar ends, in seconds since the epoch.
const YEAR_10000: u64 = 253_402_300_800;

/// A time for people: `2026-11-28T17:00:00Z`.
pub(crate) fn date(seconds: i64) -> String {
    // Times before 1970 are a slip of who issued the certificate; the epoch says as much.
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    match since.as_secs() < YEAR_10000 {
        true => humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string(),
        false => "the year 10000 or later".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_of_every_size() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(-5), "1970-01-01T00:00:00Z");
        assert_eq!(date(1_795_000_000), "2026-11-18T11:06:40Z");
        assert_eq!(date(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(date(i64::MAX), "the year 10000 or later");
    }
}
