//! The display of the demo: a block of lines that is redrawn in place, or a plain line per second if stdout is not a terminal.
//!
//! Lines are cut or broken to the width of the terminal, except commands and paths to be copied: those get shell
//! continuations, or are left to the terminal to wrap, so that they still work when they are pasted.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, interval};

use super::demo_proxy::{DemoProxy, SERVICE};
use super::name::{program, quoted};
use super::tally::{Figures, Tally, shown};
use crate::cli::error::CommandError;

/// Longest bar, in characters.
const BAR: usize = 30;

/// Width in columns if the terminal does not report it.
const COLUMNS: usize = 80;

/// The time over which figures are computed: short, so that an edit shows at once.
const NOW: Duration = Duration::from_secs(1);

/// The display. It reads the tally and prints to stdout.
pub(super) struct DemoView {
    tally: Rc<RefCell<Tally>>,
    messages: Messages,
    is_terminal: bool,
    names: [&'static str; 2],
    url: String,
    file: String,
    /// Lines of the block that is on the screen now.
    drawn: Cell<usize>,
}

/// Lines to print above the block at its next redraw. Clones share one queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Messages {
    queue: Rc<RefCell<Vec<String>>>,
}

impl Messages {
    /// Queues a line.
    pub(super) fn push(&self, line: &str) {
        self.queue.borrow_mut().push(line.to_owned());
    }
}

impl DemoView {
    /// Creates the display. Nothing is printed yet.
    pub(super) fn new(proxy: &DemoProxy, tally: Rc<RefCell<Tally>>) -> Self {
        Self {
            tally,
            messages: Messages::default(),
            is_terminal: std::io::stdout().is_terminal(),
            names: super::VERSIONS.map(|(name, _)| name),
            url: format!("http://{}/", proxy.address),
            file: proxy.file.display().to_string(),
            drawn: Cell::new(0),
        }
    }

    /// The queue of lines to print.
    pub(super) fn messages(&self) -> Messages {
        self.messages.clone()
    }

    /// Prints what the user can do.
    pub(super) fn open(&self, proxy: &DemoProxy) {
        let columns = self.is_terminal.then(columns);
        let (number, line) = proxy.split_line().unwrap_or_default();
        let Self { url, file, .. } = self;
        let title = self.folded(&format!("cutover demo: blue and green behind {url}"));
        let line = columns.map_or(line.clone(), |columns| shortened(&line, columns - 8));
        let shift = format!("shift {SERVICE} green=5%");
        let words = [program(), shift, format!("-c {}", quoted(file))];
        let command = command(&words, columns.map(|columns| columns - 8));
        print(&format!(
            "{title}\n  edit  {file}:{number}\n        {line}\n  or    {command}\n  try   curl -i {url}\n"
        ));
    }

    /// Redraws the display until the proxy fails.
    pub(super) async fn live(&self, proxy: &DemoProxy, begun: Instant) -> Result<(), CommandError> {
        let period = if self.is_terminal { 250 } else { 1000 };
        let mut ticks = interval(Duration::from_millis(period));
        loop {
            ticks.tick().await;
            let status = proxy.admin.status().await?;
            let rejected = status
                .config
                .error
                .as_deref()
                .and_then(|e| e.lines().next());
            let mut text = self.erase_and_print_messages();
            if self.is_terminal {
                let block = self.block(proxy, begun, rejected);
                self.drawn.set(block.lines().count());
                // Auto-wrap is off while the block is drawn, so that it takes exactly as many rows as it has lines.
                let _ = write!(text, "\x1b[?7l{block}\x1b[?7h");
            } else {
                text += &self.plain(begun, rejected);
            }
            print(&text);
        }
    }

    /// Removes the block from the screen and prints the remaining messages.
    pub(super) fn close(&self) {
        print(&self.erase_and_print_messages());
    }

    /// The text that erases the block and prints the queued messages in its place.
    fn erase_and_print_messages(&self) -> String {
        let mut text = String::new();
        let drawn = self.drawn.take();
        if drawn > 0 {
            // CUU to the first line of the block, then ED to clear everything from there.
            let _ = write!(text, "\x1b[{drawn}A\r\x1b[J");
        }
        for line in self.messages.queue.borrow_mut().drain(..) {
            let _ = writeln!(text, "{}", self.folded(&line));
        }
        text
    }

    /// The line broken to the width of the terminal, or unchanged without one.
    fn folded(&self, line: &str) -> String {
        match self.is_terminal {
            true => fold(line, columns()),
            false => line.to_owned(),
        }
    }

    fn plain(&self, begun: Instant, rejected: Option<&str>) -> String {
        let tally = self.tally.borrow();
        let mut text = format!("{:>4.0}s", begun.elapsed().as_secs_f64());
        for (version, name) in self.names.iter().enumerate() {
            let f = tally.figures(version, NOW);
            let _ = write!(text, "  {name} {:>5.1}% {:>3.0}/s", f.share * 100.0, f.rate);
            if f.rate > 0.0 {
                let _ = write!(text, " p50 {} p99 {}", shown(f.p50), shown(f.p99));
            }
        }
        let _ = write!(
            text,
            "  {} requests, {} failed",
            tally.requests(),
            tally.failures()
        );
        if let Some(rejected) = rejected {
            let _ = write!(text, "  rejected: {rejected}");
        }
        text + "\n"
    }

    fn block(&self, proxy: &DemoProxy, begun: Instant, rejected: Option<&str>) -> String {
        let tally = self.tally.borrow();
        let columns = columns();
        let layout = Layout::of(columns);
        let mut text = format!(
            "\n  {:.0} s   {} requests, {} failed\n\n",
            begun.elapsed().as_secs_f64(),
            tally.requests(),
            tally.failures()
        );
        for (version, name) in self.names.iter().enumerate() {
            let figures = tally.figures(version, NOW);
            let colour = if version == 0 { 34 } else { 32 };
            text += &layout.line(name, colour, &figures);
        }
        if let Some((number, line)) = proxy.split_line() {
            let file = cut_front(&format!("{}:{number}", self.file), columns - 2);
            let line = shortened(&line, columns - 4);
            let _ = writeln!(text, "\n  {file}\n    {line}");
        }
        match rejected {
            Some(rejected) => {
                let rejected = cut(rejected, columns - 4);
                let _ = writeln!(
                    text,
                    "  \x1b[31mrejected, the previous one is in use:\x1b[0m\n    {rejected}"
                );
            }
            None => text += "  Ctrl-C to stop\n",
        }
        text
    }
}

/// The parts of a version's line that fit the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
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

    fn of(columns: usize) -> Self {
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

    fn line(self, name: &str, colour: u8, figures: &Figures) -> String {
        let mut line = format!(
            "  {name:<6} \x1b[{colour}m{}\x1b[0m {:>5.1} %  {:>4.0}/s",
            bar(figures.share, self.bar),
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
fn columns() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stdout());
    let columns = size.map_or(COLUMNS, |(width, _)| usize::from(width.0));
    // A narrower terminal cuts the lines off by itself, and the arithmetic of the layout needs some width.
    columns.max(20)
}

/// Breaks a line between words, into lines of at most this width. Continuation lines are indented.
fn fold(line: &str, width: usize) -> String {
    const INDENT: &str = "\n    ";
    let mut folded = String::new();
    let mut column = 0;
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column > 0 && column + length > width {
            folded.truncate(folded.trim_end().len());
            folded += INDENT;
            column = INDENT.len() - 1;
        }
        folded += word;
        column += word.chars().count();
    }
    folded
}

/// Joins the words of a shell command. Where the line would exceed `room` columns, it continues on the next line after a
/// backslash, below the first word of a command that is indented by eight columns.
fn command(words: &[String], room: Option<usize>) -> String {
    let mut command = String::new();
    let mut column = 0;
    for word in words {
        let length = word.chars().count();
        if column > 0 {
            // Two columns are left for the ` \\` that may follow.
            let breaks = room.is_some_and(|room| column + 1 + length + 2 > room);
            command += if breaks { " \\\n          " } else { " " };
            column = if breaks { 2 } else { column + 1 };
        }
        command += word;
        column += length;
    }
    command
}

/// A line of the configuration file without its comment, if that has no room, and cut if it still has none.
fn shortened(line: &str, room: usize) -> String {
    let bare = line.split('#').next().unwrap_or_default().trim_end();
    match line.chars().count() <= room {
        true => line.to_owned(),
        false => cut(bare, room),
    }
}

/// Cuts a text that is longer than `room` at its end, and marks the cut with `…`.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars()
        .take(room.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// Cuts a text that is longer than `room` at its beginning, such as a path, and marks the cut with `…`.
fn cut_front(text: &str, room: usize) -> String {
    let count = text.chars().count();
    if count <= room {
        return text.to_owned();
    }
    let end = text.chars().skip(count + 1 - room);
    ['…'].into_iter().chain(end).collect()
}

fn bar(share: f64, length: usize) -> String {
    let full = (share * length as f64).round() as usize;
    // A small share shows as one character, not as none.
    let full = full.clamp(usize::from(share > 0.0), length);
    "█".repeat(full) + &"░".repeat(length - full)
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe is ignored: nobody reads the display any more.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
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

    /// The longest possible line of a version, without colours.
    fn longest(columns: usize) -> String {
        let figures = Figures {
            share: 1.0,
            rate: 9999.0,
            p50: Duration::from_micros(123_456),
            p99: Duration::from_micros(123_456),
        };
        let line = Layout::of(columns).line("green", 32, &figures);
        line.replace("\x1b[32m", "").replace("\x1b[0m", "")
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
        assert_eq!(fold("half and half", 13), "half and half");
        assert_eq!(fold("  half and half", 12), "  half and\n    half");
        assert_eq!(fold("a b c d", 6), "a b c\n    d");
        assert_eq!(fold("unbreakable", 4), "unbreakable");
    }

    #[test]
    fn a_command_that_is_broken_still_works_when_pasted() {
        let words = ["cutover", "shift shop green=5%", "-c /tmp/a"].map(str::to_owned);
        let whole = "cutover shift shop green=5% -c /tmp/a";
        assert_eq!(command(&words, None), whole);
        assert_eq!(command(&words, Some(80)), whole);
        let broken = "cutover shift shop green=5% \\\n          -c /tmp/a";
        assert_eq!(command(&words, Some(32)), broken);
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
