//! Typed reads of raw values: quantities with units, numbers with ranges and flags.
//!
//! The readers return `None` after they have reported an error. The `set_…` methods of a table overwrite an existing value, which
//! is how a service's keys override the defaults one by one.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::client_limit::RequestRate;
use super::problems::{Problems, TextSpan};
use super::quantity_hint;
use super::raw::{RawTable, RawValue};
use super::spec::Share;
use super::units::{self, quote};

/// The shortest timeout that is accepted: timers have a resolution of 1 ms.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

impl RawValue<'_> {
    /// Reads a quantity with a unit. A bare number is an error; `bare` says how it is written with a unit.
    fn quantity<T>(
        &self,
        what: &str,
        bare: impl Fn(&str) -> String,
        (parse, meant): (Parse<T>, Meant),
        out: &mut Problems,
    ) -> Option<T> {
        let number = match self.node {
            DeValue::Integer(n) => n.to_string(),
            DeValue::Float(n) => n.to_string(),
            _ => {
                let text = self.text(what, out)?;
                return parse(text.value)
                    .map_err(|why| {
                        let message = format!("{} is not {what}", quote(text.value));
                        let problem = out.error(self.span.clone(), message).label(why);
                        if let Some(meant) = meant(text.value) {
                            problem.help(format!("did you mean \"{meant}\"?"));
                        }
                    })
                    .ok();
            }
        };
        out.error(self.span.clone(), format!("`{}` needs a unit", self.path))
            .label(format!("expected {what}, found a bare number"))
            .help(format!("write {}", bare(&number)));
        None
    }

    /// Reads a duration of at least `least`.
    pub(super) fn duration(&self, least: Duration, out: &mut Problems) -> Option<Duration> {
        let time = self.quantity(
            "a duration such as \"30s\"",
            |n| format!("\"{n}s\" for seconds, \"{n}ms\" for milliseconds"),
            (units::duration, quantity_hint::duration),
            out,
        )?;
        if time < least {
            out.error(self.span.clone(), format!("`{}` is too short", self.path))
                .label(format!(
                    "expected at least {}",
                    humantime::format_duration(least)
                ));
            return None;
        }
        Some(time)
    }

    /// Reads a share from 0 to 100 %.
    pub(super) fn share(&self, out: &mut Problems) -> Option<Share> {
        self.quantity(
            "a share such as \"5%\"",
            bare_share,
            (units::share, quantity_hint::share),
            out,
        )
    }

    /// Reads a share in steps of 0.1 %, as thousandths (0 to 1000).
    fn thousandths(&self, out: &mut Problems) -> Option<u32> {
        let share = self.share(out)?;
        if !share.0.is_multiple_of(100) {
            out.error(self.span.clone(), format!("`{}` is too fine", self.path))
                .label("expected steps of 0.1%");
            return None;
        }
        Some(share.0 / 100)
    }

    /// Reads a rate of requests, whose burst is the default.
    pub(super) fn rate(&self, out: &mut Problems) -> Option<RequestRate> {
        self.quantity(
            "a rate such as \"100/s\"",
            |n| format!("\"{n}/s\" for {n} per second, \"{n}/m\" for {n} per minute"),
            (units::rate, quantity_hint::rate),
            out,
        )
    }

    /// Reads an integer or a float in a range. NaN is outside of every range.
    pub(super) fn number(&self, range: RangeInclusive<f64>, out: &mut Problems) -> Option<f64> {
        let text = match self.node {
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            _ => {
                self.mistyped("a number, without quotes", out);
                return None;
            }
        };
        let number = text.parse().ok().filter(|n| range.contains(n));
        if number.is_none() {
            out.error(
                self.span.clone(),
                format!("`{}` is out of range", self.path),
            )
            .label(format!("expected {} to {}", range.start(), range.end()));
        }
        number
    }

    /// Reads a size in bytes in a range.
    pub(super) fn size(&self, range: RangeInclusive<u64>, out: &mut Problems) -> Option<u64> {
        let bytes = self.quantity(
            "a size such as \"64KiB\"",
            |n| format!("\"{n}B\" for bytes, \"{n}KiB\" for kibibytes"),
            (units::size, quantity_hint::size),
            out,
        )?;
        if !range.contains(&bytes) {
            let (least, most) = (show_size(*range.start()), show_size(*range.end()));
            out.error(
                self.span.clone(),
                format!("`{}` is out of range", self.path),
            )
            .label(format!("expected {least} to {most}"));
            return None;
        }
        Some(bytes)
    }

    /// Reads an integer in a range.
    pub(super) fn count(&self, range: RangeInclusive<u64>, out: &mut Problems) -> Option<u64> {
        let DeValue::Integer(number) = self.node else {
            self.mistyped("a whole number, without quotes", out);
            return None;
        };
        let count = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let count = count.filter(|n| range.contains(n));
        if count.is_none() {
            out.error(
                self.span.clone(),
                format!("`{}` is out of range", self.path),
            )
            .label(format!("expected {} to {}", range.start(), range.end()));
        }
        count
    }

    /// Reads `true` or `false`.
    pub(super) fn flag(&self, out: &mut Problems) -> Option<bool> {
        match self.node {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.mistyped("true or false, without quotes", out);
                None
            }
        }
    }
}

/// Suggests how a number without a percent sign is written as a share: `0.05` as `"5%"`, `5` as `"5%"`.
fn bare_share(number: &str) -> String {
    let value: f64 = number.parse().unwrap_or(f64::NAN);
    if let Some(percent) = quantity_hint::of_one(number) {
        return format!("\"{percent}\", which is {number} of the whole");
    }
    match number {
        "1.0" => "\"100%\" for all of it, or \"1%\" for a hundredth".to_owned(),
        _ if value < 0.0 => "\"0%\" for none of it".to_owned(),
        _ if value > 100.0 => "\"100%\" at most".to_owned(),
        _ if value.is_nan() => "a number with a percent sign, such as \"5%\"".to_owned(),
        _ => format!("\"{number}%\""),
    }
}

/// Parses a quantity; the error is the label beside the caret.
type Parse<T> = fn(&str) -> Result<T, String>;

/// Guesses the quantity that was meant by a text that can't be parsed.
type Meant = fn(&str) -> Option<String>;

/// Each method overwrites a value if the key is set and valid, and then returns the span of the new value.
impl RawTable<'_> {
    /// Reads a duration of at least `least`.
    pub(super) fn set_duration(
        &mut self,
        key: &'static str,
        time: &mut Duration,
        least: Duration,
        out: &mut Problems,
    ) -> Option<TextSpan> {
        let value = self.take(key)?;
        *time = value.duration(least, out)?;
        Some(value.span)
    }

    /// Reads an integer in a range.
    pub(super) fn set_count(
        &mut self,
        key: &'static str,
        count: &mut u32,
        range: RangeInclusive<u32>,
        out: &mut Problems,
    ) -> Option<TextSpan> {
        let value = self.take(key)?;
        let range = u64::from(*range.start())..=u64::from(*range.end());
        // The range ends at a `u32`, so that the cast loses nothing.
        *count = value.count(range, out)? as u32;
        Some(value.span)
    }

    /// Reads a share in steps of 0.1 %, as thousandths (0 to 1000).
    pub(super) fn set_thousandths(
        &mut self,
        key: &'static str,
        thousandths: &mut u32,
        out: &mut Problems,
    ) -> Option<TextSpan> {
        let value = self.take(key)?;
        *thousandths = value.thousandths(out)?;
        Some(value.span)
    }
}

/// Formats a size in the largest unit that divides it.
fn show_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    units
        .into_iter()
        .find(|(factor, _)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(
            || format!("{bytes}B"),
            |(factor, unit)| format!("{}{unit}", bytes / factor),
        )
}
