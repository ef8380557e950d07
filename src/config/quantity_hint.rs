//! Guesses the intended form of a quantity that can't be parsed: `5 %` is `5%`, `30sec` is `30s`, a size of `10m` is `10MiB`.
//!
//! Every suggestion is checked with the parser, so it is always valid and never equal to the input.

use super::units;

/// Suggests a share for texts such as `5`, `0.05`, `5,5%`, `5 %`, `.5%` or `5 percent`.
pub(super) fn share(typed: &str) -> Option<String> {
    let text = plain(typed);
    let number = ["%", "percent", "pct"]
        .iter()
        .find_map(|unit| text.strip_suffix(unit));
    if let Some(number) = number {
        return readable(typed, format!("{}%", decimal(number)?), |t| {
            units::share(t).is_ok()
        });
    }
    of_one(&text).or_else(|| {
        readable(typed, format!("{}%", decimal(&text)?), |t| {
            units::share(t).is_ok()
        })
    })
}

/// Suggests a share for a ratio between 0 and 1, both excluded: `0.05` is `5%`.
pub(super) fn of_one(typed: &str) -> Option<String> {
    let number: f64 = typed.parse().ok()?;
    if !(number > 0.0 && number < 1.0) {
        return None;
    }
    // The smallest step of a share is 0.001 %.
    let percent = format!("{:.3}", number * 100.0);
    let percent = percent.trim_end_matches('0').trim_end_matches('.');
    readable(typed, format!("{percent}%"), |t| {
        units::share(t).is_ok_and(|share| share.0 > 0)
    })
}

/// Suggests a duration for texts such as `30sec`, `5 minutes`, `1,5s` or `30S`.
pub(super) fn duration(typed: &str) -> Option<String> {
    let text = plain(typed);
    let at = text.find(|c: char| c.is_alphabetic())?;
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        // `M` may mean minutes or months.
        _ if unit.starts_with('m') && typed.contains('M') => return None,
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => "ms",
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hr" | "hrs" | "hour" | "hours" => "h",
        "d" | "day" | "days" => "d",
        _ => return None,
    };
    readable(typed, format!("{}{unit}", decimal(number)?), |t| {
        units::duration(t).is_ok()
    })
}

/// Suggests a size for texts such as `64K`, `10m`, `64 KiB`, `64kib` or `10mb`. A bare `k`, `m` or `g` is binary, as in nginx.
pub(super) fn size(typed: &str) -> Option<String> {
    let text = plain(typed);
    let at = text.find(|c: char| c.is_alphabetic())?;
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "b" | "byte" | "bytes" => "B",
        "k" | "ki" | "kib" => "KiB",
        "m" | "mi" | "mib" => "MiB",
        "g" | "gi" | "gib" => "GiB",
        "kb" => "KB",
        "mb" => "MB",
        "gb" => "GB",
        _ => return None,
    };
    readable(typed, format!("{number}{unit}"), |t| units::size(t).is_ok())
}

/// Suggests a rate for texts such as `100r/s` (as nginx writes it), `100/sec`, `100 per minute` or `100rps`.
pub(super) fn rate(typed: &str) -> Option<String> {
    let text = plain(typed).replace("per", "/").replace("rps", "/s");
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(at);
    let (unit, period) = rest.split_once('/')?;
    if !matches!(unit, "" | "r" | "req" | "reqs" | "request" | "requests") {
        return None;
    }
    let period = match period {
        "s" | "1s" | "sec" | "second" => "s",
        "m" | "1m" | "min" | "minute" => "m",
        "h" | "1h" | "hr" | "hour" => "h",
        _ => return None,
    };
    readable(typed, format!("{number}/{period}"), |t| {
        units::rate(t).is_ok()
    })
}

/// Converts to lower case and removes whitespace and a leading plus sign.
fn plain(typed: &str) -> String {
    let text: String = typed.split_whitespace().collect();
    let text = text.to_ascii_lowercase();
    text.strip_prefix('+').unwrap_or(&text).to_owned()
}

/// Normalises a decimal number: a comma becomes a point, and digits are added or the point removed where a side is empty.
fn decimal(number: &str) -> Option<String> {
    let number = number.replacen(',', ".", 1);
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(match fraction {
        "" => whole.to_owned(),
        fraction => format!("{whole}.{fraction}"),
    })
}

fn readable(typed: &str, meant: String, reads: impl Fn(&str) -> bool) -> Option<String> {
    (meant != typed && reads(&meant)).then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (typed, meant) in [
            ("5", "5%"),
            ("0.05", "5%"),
            ("0.005", "0.5%"),
            ("2.5", "2.5%"),
            ("5,5%", "5.5%"),
            ("5 %", "5%"),
            (" 5%", "5%"),
            ("+5%", "5%"),
            (".5%", "0.5%"),
            ("5.%", "5%"),
            ("5 percent", "5%"),
        ] {
            assert_eq!(share(typed).as_deref(), Some(meant), "{typed}");
        }
        for typed in ["", "%", "-5%", "120%", "half", "5%", "0.0000001", "1e1%"] {
            assert_eq!(share(typed), None, "{typed}");
        }
    }

    #[test]
    fn durations() {
        for (typed, meant) in [
            ("30sec", "30s"),
            ("30 Seconds", "30s"),
            ("5min", "5m"),
            ("1,5s", "1.5s"),
            ("30S", "30s"),
            ("250msec", "250ms"),
            ("2 days", "2d"),
        ] {
            assert_eq!(duration(typed).as_deref(), Some(meant), "{typed}");
        }
        for typed in ["", "30", "5M", "-1s", "s", "1 fortnight", "30s"] {
            assert_eq!(duration(typed), None, "{typed}");
        }
    }

    #[test]
    fn rates() {
        for (typed, meant) in [
            ("100r/s", "100/s"),
            ("100 / s", "100/s"),
            ("100 per minute", "100/m"),
            ("100/sec", "100/s"),
            ("100/Hour", "100/h"),
            ("50rps", "50/s"),
        ] {
            assert_eq!(rate(typed).as_deref(), Some(meant), "{typed}");
        }
        for typed in ["", "100", "100/s", "0r/s", "1.5/s", "100/d"] {
            assert_eq!(rate(typed), None, "{typed}");
        }
    }

    #[test]
    fn sizes() {
        for (typed, meant) in [
            ("64K", "64KiB"),
            ("10m", "10MiB"),
            ("64 KiB", "64KiB"),
            ("64kib", "64KiB"),
            ("10mb", "10MB"),
            ("1Gi", "1GiB"),
        ] {
            assert_eq!(size(typed).as_deref(), Some(meant), "{typed}");
        }
        for typed in ["", "64", "-1B", "1.5MiB", "KiB", "64KiB"] {
            assert_eq!(size(typed), None, "{typed}");
        }
    }
}
