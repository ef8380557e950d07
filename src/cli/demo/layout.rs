//! Fits texts to the terminal: lines are cut or broken to its width, except commands and paths to be copied. Those get shell
//! continuations, or are left to the terminal to wrap, so that they still work when they are pasted.

use std::fmt::Write as _;
use std::io::Write as _;

use super::tally::{Figures, shown};

/// Longest bar, in characters.
const BAR: usize = 30;

/// Width in columns if the terminal does not report it.
const COLUMNS: usize = 80;

/// The parts of a version's line that fit the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    bar: usize,
    p50: bool,
    p99: bool,
}

impl Layout {
    /// Columns of the line without the bar and the durations.
    const FIXED: usize = 26;
    /// Columns of a duration: three spaces, `p50 ` and seven for the value.
    const DURATION: usize = 14;
    /// Shortest useful bar. If it would be shorter, durations are left out, the median first.
    const MIN_BAR: usize = 8;

    /// The layout for a terminal of this width.
    pub(super) fn of(columns: usize) -> Self {
        let room =
            |durations: usize| columns.saturating_sub(Self::FIXED + durations * Self::DURATION);
        let durations = (0..=2).rev().find(|n| room(*n) >= Self::MIN_BAR);
        let durations = durations.unwrap_or(0);
        Self {
            bar: room(durations).clamp(1, BAR),
            p50: durations == 2,
            p99: durations >= 1,
        }
    }

    /// The line of a version. `colour` is the SGR code of its bar, if colours are shown.
    pub(super) fn line(self, name: &str, colour: Option<u8>, figures: &Figures) -> String {
        let mut line = format!(
            "  {name:<6} {} {:>5.1} %  {:>4.0}/s",
            coloured(&bar(figures.share, self.bar), colour),
            figures.share * 100.0,
            figures.rate,
        );
        let durations = [
            (self.p50, "p50", figures.p50),
            (self.p99, "p99", figures.p99),
        ];
        for (_, what, time) in durations.iter().filter(|(has_room, ..)| *has_room) {
            if figures.rate > 0.0 {
                let _ = write!(line, "   {what} {:>7}", shown(*time));
            }
        }
        line + "\n"
    }
}

/// The width of the terminal in columns, at least 20.
pub(super) fn columns() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stdout());
    let columns = size.map_or(COLUMNS, |(width, _)| usize::from(width.0));
    // A narrower terminal cuts the lines off by itself, and the arithmetic of the layout needs some width.
    columns.max(20)
}

/// Breaks a line between words so that no line is wider than `width` columns. The lines after the first start with `indent` spaces.
pub(super) fn fold(line: &str, width: usize, indent: usize) -> String {
    let mut folded = String::new();
    let mut column = 0;
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column > 0 && column + length > width {
            folded.truncate(folded.trim_end().len());
            folded += &format!("\n{:indent$}", "");
            column = indent;
        }
        folded += word;
        column += word.chars().count();
    }
    folded
}

/// Joins the words of a shell command whose first one is at the column `indent`. Where a line would exceed `width`, the
/// command continues on the next one after a backslash, indented by two more columns.
pub(super) fn command(words: &[String], indent: usize, width: Option<usize>) -> String {
    let mut command = String::new();
    let mut column = indent;
    for word in words {
        let length = word.chars().count();
        if column > indent {
            // Two columns are left for the ` \\` that may follow.
            let breaks = width.is_some_and(|width| column + 1 + length + 2 > width);
            match breaks {
                true => command += &format!(" \\\n{:width$}", "", width = indent + 2),
                false => command.push(' '),
            }
            column = if breaks { indent + 2 } else { column + 1 };
        }
        command += word;
        column += length;
    }
    command
}

/// A line of the configuration file without its comment, if that has no room, and cut if it still has none.
pub(super) fn shortened(line: &str, room: usize) -> String {
    let bare = line.split('#').next().unwrap_or_default().trim_end();
    match line.chars().count() <= room {
        true => line.to_owned(),
        false => cut(bare, room),
    }
}

/// Cuts a text that is longer than `room` at its end, and marks the cut with `…`.
pub(super) fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars()
        .take(room.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// Cuts a text that is longer than `room` at its beginning, such as a path, and marks the cut with `…`.
pub(super) fn cut_front(text: &str, room: usize) -> String {
    let count = text.chars().count();
    if count <= room {
        return text.to_owned();
    }
    let end = text.chars().skip(count + 1 - room);
    ['…'].into_iter().chain(end).collect()
}

/// The text in a colour, by its SGR code, if colours are shown.
pub(super) fn coloured(text: &str, colour: Option<u8>) -> String {
    match colour {
        Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
        None => text.to_owned(),
    }
}

/// A bar of this length, filled to a share from 0 to 1.
pub(super) fn bar(share: f64, length: usize) -> String {
    let full = (share * length as f64).round() as usize;
    // A small share shows as one character, not as none.
    let full = full.clamp(usize::from(share > 0.0), length);
    "█".repeat(full) + &"░".repeat(length - full)
}

/// Prints a text at once.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe is ignored: the display has no reader any more.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let full = |share| bar(share, BAR).chars().filter(|c| *c == '█').count();
        assert_eq!(
            [full(0.0), full(0.001), full(0.5), full(1.0)],
            [0, 1, 15, 30]
        );
        assert_eq!(bar(0.3, BAR).chars().count(), BAR);
    }

    /// The longest possible line of a version.
    fn longest(columns: usize) -> String {
        let figures = Figures {
            share: 1.0,
            rate: 9999.0,
            p50: Duration::from_micros(123_456),
            p99: Duration::from_micros(123_456),
        };
        Layout::of(columns).line("green", None, &figures)
    }

    #[test]
    fn a_version_has_one_line_that_fits_whatever_the_width() {
        for columns in 27..200 {
            let line = longest(columns);
            let width = line.trim_end_matches('\n').chars().count();
            assert!(width <= columns, "{width} of {columns}: {line}");
        }
        assert!(longest(80).contains("p50") && longest(80).contains("p99"));
        assert!(longest(50).contains("p99") && longest(50).contains("9999/s"));
        assert_eq!(Layout::of(200).bar, BAR);
    }

    #[test]
    fn sentences_are_broken_between_words() {
        assert_eq!(fold("half and half", 13, 4), "half and half");
        assert_eq!(fold("  half and half", 12, 4), "  half and\n    half");
        assert_eq!(fold("a b c d", 6, 4), "a b c\n    d");
        assert_eq!(fold("unbreakable", 4, 4), "unbreakable");
    }

    #[test]
    fn a_command_that_is_broken_still_works_when_pasted() {
        let words = ["cutover", "shift shop green=5%", "-c /tmp/a"].map(str::to_owned);
        let whole = "cutover shift shop green=5% -c /tmp/a";
        assert_eq!(command(&words, 8, None), whole);
        assert_eq!(command(&words, 8, Some(88)), whole);
        let broken = "cutover shift shop green=5% \\\n          -c /tmp/a";
        assert_eq!(command(&words, 8, Some(40)), broken);
    }

    #[test]
    fn a_comment_without_room_is_left_out() {
        assert_eq!(shortened("split = x  # y", 14), "split = x  # y");
        assert_eq!(shortened("split = x  # y", 13), "split = x");
        assert_eq!(shortened("split = x  # y", 6), "split…");
    }

    #[test]
    fn long_texts_are_cut_at_the_less_important_end() {
        assert_eq!(cut("split = x", 9), "split = x");
        assert_eq!(cut("split = x", 6), "split…");
        assert_eq!(cut_front("/tmp/cutover.toml:8", 15), "…cutover.toml:8");
        assert_eq!(cut_front("/tmp/a:8", 8), "/tmp/a:8");
    }
}
