//! Parsers for quantities with units: `"30s"`, `"0.1%"`, `"64KiB"`, `"100/s"`.
//!
//! Each returns its error as a short reason, which the caller shows beside the caret.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::client_limit::{RatePeriod, RequestRate};
use super::spec::Share;

/// The longest duration that is accepted, one year. Anything longer is taken for a typing error.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const DURATION_UNITS: [&str; 5] = ["ms", "s", "m", "h", "d"];

/// Parses a duration such as `30s`, `250ms`, `1m30s` or `1.5s`. The units are `ms`, `s`, `m`, `h` and `d`.
///
/// # Errors
/// Fails without a unit or number, with an unknown unit, or above [`LONGEST`].
pub fn duration(text: &str) -> Result<Duration, String> {
    // humantime accepts more units, among them `M` for months, which is more likely meant as minutes.
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

/// Parses a share such as `5%`, `0.1%` or `33.333%`, from 0 to 100 % in steps of 0.001 %.
///
/// The digits are parsed as integers, because a float can't represent most shares exactly.
///
/// # Errors
/// Fails without a percent sign or number, for steps finer than 0.001 %, below 0 % or above 100 %.
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

/// Parses a size such as `64KiB`, `1GB` or `512B` and returns it in bytes. `KB` is 1000 bytes, `KiB` 1024.
///
/// # Errors
/// Fails without a unit, with an unknown unit, if the number isn't an integer, or at 2^63 bytes and above.
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

/// Parses a rate of requests such as `100/s`, `600/m` or `1000/h`, with the burst that it allows by default.
///
/// # Errors
/// Fails without a number or a period, with an unknown period, at 0, or above 1,000,000.
pub(crate) fn rate(text: &str) -> Result<RequestRate, String> {
    let Some((number, period)) = text.split_once('/') else {
        return Err(
            "no period: a rate is written as \"100/s\", \"600/m\" or \"1000/h\"".to_owned(),
        );
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a rate such as \"100/s\"".to_owned());
    }
    let per = RatePeriod::parse(period).ok_or_else(|| {
        format!(
            "unknown period {}: the periods are s, m and h",
            quote(period)
        )
    })?;
    let requests = number.parse().unwrap_or(u32::MAX);
    match requests {
        0 => Err("less than one request".to_owned()),
        1..=1_000_000 => Ok(RequestRate {
            requests,
            per,
            burst: requests,
        }),
        _ => Err("more than 1000000 requests".to_owned()),
    }
}

/// Quotes input for a one-line message: escapes control characters, shortens it to 80 characters and adds backticks.
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
    /// Writes the share as in the configuration, with as few digits as possible: `5%`, `0.1%`.
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

    /// Parses a share as in the configuration: from `0%` to `100%`, in steps of `0.001%`.
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
    fn rates() {
        let rate_of = |text| rate(text).map(|r| (r.requests, r.per.length().as_secs(), r.burst));
        assert_eq!(rate_of("100/s"), Ok((100, 1, 100)));
        assert_eq!(rate_of("5/m"), Ok((5, 60, 5)));
        assert_eq!(rate_of("1000000/h"), Ok((1_000_000, 3600, 1_000_000)));
        for text in [
            "",
            "/",
            "100",
            "100/",
            "/s",
            "0/s",
            "-1/s",
            "1.5/s",
            "100/d",
            "100 /s",
            "100/ s",
            "1000001/s",
            "99999999999/s",
            "100/s/s",
        ] {
            assert!(rate(text).is_err(), "{text:?}");
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
