//! `Retry-After` of receivers that can't take a message now.

use std::time::Duration;

use http::{HeaderMap, header};

/// Longest pause between two attempts, also if the receiver asks for a longer one.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The seconds that `Retry-After` asks for (RFC 9110 section 10.2.3), up to [`LONGEST_PAUSE`]; 0 without it, or with a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(header::RETRY_AFTER);
    let seconds = seconds.and_then(|s| s.to_str().ok()?.trim().parse().ok());
    seconds
        .map_or(Duration::ZERO, Duration::from_secs)
        .min(LONGEST_PAUSE)
}
