//! The state of certificates, for operators.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The state of one certificate of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateState {
    /// The listener's name.
    pub listener: String,
    /// Server names (SNI) that it is presented for.
    pub names: Vec<String>,
    /// The file that holds the certificate chain.
    pub file: PathBuf,
    /// Start of the validity period, in seconds since the Unix epoch.
    pub not_before: i64,
    /// End of the validity period, in seconds since the Unix epoch.
    pub not_after: i64,
    /// Why the current files were refused, if an older certificate is still in use.
    pub error: Option<String>,
    /// When `error` was first seen.
    pub since: Option<SystemTime>,
}

/// Seconds since the epoch at which `humantime` can't format a time any more; it panics there.
const YEAR_10000: u64 = 253_402_300_800;

/// Formats seconds since the Unix epoch for people: `2026-11-28T17:00:00Z` (RFC 3339).
pub(crate) fn date(seconds: i64) -> String {
    // Nobody issues certificates for times before 1970 on purpose; the epoch is close enough.
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
