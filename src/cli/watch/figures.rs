//! Figures as they are shown, in a few columns each.

use super::screen::{CellStyle, Tone};

/// Formats requests per second.
pub(super) fn rate(rate: f32) -> String {
    match rate {
        r if r >= 10_000.0 => format!("{:.1}k/s", r / 1000.0),
        r if r >= 100.0 => format!("{r:.0}/s"),
        r => format!("{r:.1}/s"),
    }
}

/// Formats a share of failed requests.
pub(super) fn errors(ratio: Option<f32>) -> String {
    match ratio {
        None => "-".to_owned(),
        Some(ratio) if ratio >= 0.1 => format!("{:.1} %", ratio * 100.0),
        Some(ratio) => format!("{:.2} %", ratio * 100.0),
    }
}

/// Formats a duration.
pub(super) fn milliseconds(ms: Option<f32>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms >= 10_000.0 => format!("{:.1} s", ms / 1000.0),
        Some(ms) if ms >= 100.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{ms:.1} ms"),
    }
}

/// The share of failed requests from which a service is in trouble.
pub(super) const BAD_ERRORS: f32 = 0.05;
/// The share of failed requests from which a service is worth a look.
pub(super) const NOTED_ERRORS: f32 = 0.01;

/// The style of a share of failed requests.
pub(super) fn error_style(ratio: Option<f32>) -> CellStyle {
    match ratio {
        Some(ratio) if ratio >= BAD_ERRORS => CellStyle::of(Tone::Bad).bold(),
        Some(ratio) if ratio >= NOTED_ERRORS => CellStyle::of(Tone::Warning),
        _ => CellStyle::PLAIN,
    }
}

/// A bar of this many columns, full up to a share in 0 to 1.
pub(super) fn bar(share: f64, columns: usize) -> (String, String) {
    let full = (share.clamp(0.0, 1.0) * columns as f64).round() as usize;
    ("█".repeat(full), "░".repeat(columns - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_fit_in_eight_columns() {
        assert_eq!(rate(12.34), "12.3/s");
        assert_eq!(rate(9_999.0), "9999/s");
        assert_eq!(rate(1_234_567.0), "1234.6k/s");
        assert_eq!(errors(Some(0.0125)), "1.25 %");
        assert_eq!(errors(Some(1.0)), "100.0 %");
        assert_eq!(errors(None), "-");
        assert_eq!(milliseconds(Some(12.34)), "12.3 ms");
        assert_eq!(milliseconds(Some(123_456.0)), "123.5 s");
        assert_eq!(bar(0.5, 4), ("██".to_owned(), "░░".to_owned()));
        assert_eq!(bar(7.0, 2).0, "██");
    }
}
