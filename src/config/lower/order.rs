//! Two times of which one must not be longer than the other.

use std::time::Duration;

use crate::config::diagnostic::Severity;
use crate::config::problems::{Problem, Problems, TextSpan};

/// A key, its value, and the span of the value if this table sets it (rather than the defaults).
type Time<'k> = (&'k str, Duration, Option<TextSpan>);

/// Reports that `short` is longer than `long`. The caller adds the label, which says why that is wrong.
///
/// If this table sets neither of them, the error is in `[defaults]` and is reported there only.
pub(super) fn order<'p>(
    severity: Severity,
    path: &str,
    short: Time<'_>,
    long: Time<'_>,
    out: &'p mut Problems,
) -> Option<&'p mut Problem> {
    let ((short, short_time, short_at), (long, long_time, long_at)) = (short, long);
    if short_time <= long_time {
        return None;
    }
    let show = humantime::format_duration;
    let (at, also, message) = match (short_at, long_at) {
        (Some(at), also) => {
            let most = show(long_time);
            let message = format!("`{path}.{short}` is longer than `{long}`, which is {most}");
            (at, also, message)
        }
        (None, Some(at)) => {
            let least = show(short_time);
            let message = format!("`{path}.{long}` is shorter than `{short}`, which is {least}");
            (at, None, message)
        }
        (None, None) => return None,
    };
    let problem = match severity {
        Severity::Error => out.error(at, message),
        Severity::Warning => out.warning(at, message),
    };
    if let Some(also) = also {
        problem.also(also, format!("`{long}`"));
    }
    Some(problem)
}
