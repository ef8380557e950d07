//! Quantities with units, as they are typed: `"30s"`, `"0.1%"`, `"64KiB"`. An error says what is wrong, without the place.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::spec::Share;

/// Longer times are slips: a year.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const DURATION_UNITS: [&str; 5] = ["ms", "s", "m", "h", "d"];

/// `30s`, `250ms`, `5m`, `1m30s`, `1.5s`; units are `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// No unit, an unknown unit, no number, or more than [`LONGEST`].
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    // The parser also knows `M` for months, which a person who types it means as minutes.
    let units = text
        .split(|c: char| !c.is_alphabetic())
        .filter(|run| !run.is_empty());
    for unit in units {
        if !DURATION_UNITS.contains(&unit) {
            return Err(format!(
                "unknown unit {}: the units are ms, s, m, h and d",
                quote(unit)
            ));
        }
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.is_empty() {
        return Err(format!(
            "no unit: \"{text}s\" for seconds, \"{text}ms\" for milliseconds"
        ));
    }
    let time = humantime::parse_duration(text)
        .map_err(|_| "not a duration such as \"30s\", \"250ms\" or \"1m30s\"".to_owned())?;
    if time > LONGEST {
        return Err("longer than 365d".to_owned());
    }
    Ok(time)
}

/// `5%`, `0.1%`, `33.333%`: from 0 to 100 %, in steps of 0.001 %.
///
/// # Errors
/// No percent sign, not a number, finer than 0.001 %, above 100 %.
pub(crate) fn share(text: &str) -> Result<Share, String> {
    if text.starts_with('-') {
        return Err("less than 0%: \"0%\" takes all traffic away".to_owned());
    }
    let Some(number) = text.strip_suffix('%') else {
        return Err("no percent sign: a share is written as \"5%\" or \"0.1%\"".to_owned());
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err("not a share such as \"5%\" or \"0.1%\"".to_owned());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 3 {
        return Err("finer than 0.001%, the smallest step".to_owned());
    }
    let thousandths: u32 = format!("{fraction:0<3}").parse().unwrap_or(0);
    whole
        .parse::<u32>()
        .ok()
        .and_then(|whole| whole.checked_mul(1000)?.checked_add(thousandths))
        .filter(|steps| *steps <= Share::WHOLE)
        .map(Share)
        .ok_or_else(|| "more than 100%".to_owned())
}

/// `64KiB`, `10MiB`, `1GB`, `512B`: bytes.
///
/// # Errors
/// No unit, an unknown unit, not a whole number, or more than 2^63.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit {
        "" => return Err(format!("no unit: such as \"{text}KiB\"")),
        "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ if number.is_empty() => {
            return Err("not a size such as \"64KiB\" or \"10MiB\"".to_owned());
        }
        _ => {
            return Err(format!(
                "unknown unit {}: the units are B, KB, MB, GB, KiB, MiB and GiB",
                quote(unit)
            ));
        }
    };
    number
        .parse::<u64>()
        .map_err(|_| {
            if number.is_empty() {
                "no number before the unit".to_owned()
            } else {
                "too large".to_owned()
            }
        })?
        .checked_mul(factor)
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| "too large".to_owned())
}

/// What was typed, fit for one line of a message: escaped, shortened, in back-ticks.
pub(super) fn quote(typed: &str) -> String {
    const LONGEST_SHOWN: usize = 80;
    let mut shown: String = typed.chars().take(LONGEST_SHOWN).collect();
    if shown.len() < typed.len() {
        shown.push('…');
    }
    format!(
        "`{}`",
        shown
            .escape_debug()
            .to_string()
            .replace("\\\"", "\"")
            .replace("\\'", "'")
    )
}

impl fmt::Display for Share {
    /// As it is typed: `5%`, `0.1%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, thousandths) = (self.0 / 1000, self.0 % 1000);
        if thousandths == 0 {
            return write!(f, "{whole}%");
        }
        let digits = format!("{thousandths:03}");
        write!(f, "{whole}.{}%", digits.trim_end_matches('0'))
    }
}

impl FromStr for Share {
    type Err = String;

    /// See [`share`].
    fn from_str(text: &str) -> Result<Self, String> {
        share(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn durations_that_are_none() {
        for text in [
            "",
            " ",
            "30",
            "0",
            "s",
            "-1s",
            "1 fortnight",
            "5M",
            "366d",
            "1s1",
            "9999999999999d",
        ] {
            assert!(duration(text).is_err(), "{text:?}");
        }
        assert!(duration("30").unwrap_err().contains("\"30s\""));
        assert!(duration("5M").unwrap_err().contains("`M`"));
    }

    #[test]
    fn shares() {
        assert_eq!(share("5%"), Ok(Share(5_000)));
        assert_eq!(share("0%"), Ok(Share(0)));
        assert_eq!(share("100%"), Ok(Share(100_000)));
        assert_eq!(share("100.000%"), Ok(Share(100_000)));
        assert_eq!(share("0.1%"), Ok(Share(100)));
        assert_eq!(share("0.001%"), Ok(Share(1)));
        assert_eq!(share("33.3330%"), Ok(Share(33_333)));
    }

    #[test]
    fn shares_that_are_none() {
        for text in [
            "",
            "%",
            "5",
            "5 %",
            "-5%",
            "+5%",
            "100.001%",
            "0.0001%",
            "1e1%",
            "5.%",
            ".5%",
            "99999999999%",
        ] {
            assert!(share(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_share_is_shown_as_it_is_typed() {
        for text in ["0%", "5%", "0.1%", "0.001%", "33.333%", "12.5%", "100%"] {
            assert_eq!(share(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("10MB"), Ok(10_000_000));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("7B"), Ok(7));
        for text in [
            "",
            "KiB",
            "64",
            "64 KiB",
            "-1B",
            "1.5MiB",
            "64kib",
            "99999999999999GiB",
            "99999999999999999999999B",
        ] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }
}
