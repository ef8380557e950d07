//! How the demo looks: a few lines that are redrawn, or without a terminal a plain line a second.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, interval};

use super::name::{program, quoted};
use super::stage::{DemoProxy, SERVICE};
use super::tally::{Figures, Tally, shown};
use crate::cli::fault::CommandError;

/// Longest bar, in characters.
const BAR: usize = 30;

/// Columns where the terminal doesn't say.
const COLUMNS: usize = 80;

/// What is shown is of this time: short, so that an edit is seen at once.
const NOW: Duration = Duration::from_secs(1);

/// The view.
pub(super) struct DemoView {
    tally: Rc<RefCell<Tally>>,
    voice: Voice,
    screen: bool,
    names: [&'static str; 2],
    url: String,
    file: String,
}

/// Whoever has something to say beside the view.
#[derive(Clone, Debug, Default)]
pub(super) struct Voice {
    said: Rc<RefCell<Vec<String>>>,
}

impl Voice {
    /// Prints a line that stays, at the next redraw.
    pub(super) fn say(&self, line: &str) {
        self.said.borrow_mut().push(line.to_owned());
    }
}

impl DemoView {
    /// Of what happens on this stage.
    pub(super) fn new(stage: &DemoProxy, tally: Rc<RefCell<Tally>>) -> Self {
        Self {
            tally,
            voice: Voice::default(),
            screen: std::io::stdout().is_terminal(),
            names: super::VERSIONS.map(|(name, _)| name),
            url: format!("http://{}/", stage.address),
            file: stage.file.display().to_string(),
        }
    }

    /// For the story.
    pub(super) fn voice(&self) -> Voice {
        self.voice.clone()
    }

    /// Says once what there is to do.
    pub(super) fn open(&self, stage: &DemoProxy) {
        let (number, mut line) = stage.line().unwrap_or_default();
        if self.screen {
            line = cut(&line, columns().saturating_sub(10));
        }
        let Self { url, file, .. } = self;
        let (program, quoted) = (program(), quoted(file));
        print(&format!(
            "cutover demo: blue and green behind {url}\n  edit  {file}:{number}\n          {line}\n  or    {program} shift {SERVICE} green=5% -c {quoted}\n  ask   curl -i {url}\n"
        ));
    }

    /// Shows what happens, until something goes wrong with the proxy.
    pub(super) async fn live(&self, stage: &DemoProxy, begun: Instant) -> Result<(), CommandError> {
        let period = if self.screen { 250 } else { 1000 };
        let mut ticks = interval(Duration::from_millis(period));
        let mut drawn = 0;
        loop {
            ticks.tick().await;
            let status = stage.proxy.status().await?;
            let refused = status
                .config
                .error
                .as_deref()
                .and_then(|e| e.lines().next());
            let mut text = String::new();
            if drawn > 0 {
                // Back to the first line of the block, and clear what follows.
                let _ = write!(text, "\x1b[{drawn}A\r\x1b[J");
            }
            for line in self.voice.said.borrow_mut().drain(..) {
                let _ = writeln!(text, "{}", self.folded(&line));
            }
            if self.screen {
                let block = self.block(stage, begun, refused);
                drawn = block.lines().count();
                // Without wrapping, so that a narrow terminal has as many lines as were counted.
                let _ = write!(text, "\x1b[?7l{block}\x1b[?7h");
            } else {
                text += &self.plain(begun, refused);
            }
            print(&text);
        }
    }

    /// Says what is left to say.
    pub(super) fn close(&self) {
        for line in self.voice.said.borrow_mut().drain(..) {
            print(&format!("{}\n", self.folded(&line)));
        }
    }

    /// As a terminal shows it, else in one line.
    fn folded(&self, line: &str) -> String {
        match self.screen {
            true => fold(line, columns()),
            false => line.to_owned(),
        }
    }

    fn plain(&self, begun: Instant, refused: Option<&str>) -> String {
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
        if let Some(refused) = refused {
            let _ = write!(text, "  refused: {refused}");
        }
        text + "\n"
    }

    fn block(&self, stage: &DemoProxy, begun: Instant, refused: Option<&str>) -> String {
        let tally = self.tally.borrow();
        let columns = columns();
        let shape = Shape::of(columns);
        let mut text = format!(
            "\n  {:.0} s   {} requests, {} failed\n\n",
            begun.elapsed().as_secs_f64(),
            tally.requests(),
            tally.failures()
        );
        for (version, name) in self.names.iter().enumerate() {
            let figures = tally.figures(version, NOW);
            let colour = if version == 0 { 34 } else { 32 };
            text += &shape.line(name, colour, &figures);
        }
        if let Some((number, line)) = stage.line() {
            let file = cut_front(&format!("{}:{number}", self.file), columns - 2);
            let line = cut(&line, columns - 4);
            let _ = writeln!(text, "\n  {file}\n    {line}");
        }
        match refused {
            Some(refused) => {
                let refused = cut(refused, columns - 4);
                let _ = writeln!(
                    text,
                    "  \x1b[31mrefused, the old one runs on:\x1b[0m\n    {refused}"
                );
            }
            None => text += "  Ctrl-C ends\n",
        }
        text
    }
}

/// What of a version's figures has room in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    bar: usize,
    p50: bool,
    p99: bool,
}

impl Shape {
    /// Columns beside the bar, without durations.
    const BESIDE: usize = 26;
    /// Columns of a duration: three spaces, `p50 `, and `999.9 ms`.
    const DURATION: usize = 14;
    /// A bar shorter than this says little; then durations go, the median first.
    const SHORTEST: usize = 8;

    fn of(columns: usize) -> Self {
        let room =
            |durations: usize| columns.saturating_sub(Self::BESIDE + durations * Self::DURATION);
        let durations = (0..=2).rev().find(|n| room(*n) >= Self::SHORTEST);
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

/// Of the terminal.
fn columns() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stdout());
    let columns = size.map_or(COLUMNS, |(width, _)| usize::from(width.0));
    // Narrower ones cut off what is too long by themselves.
    columns.max(20)
}

/// The line in lines of this width, broken between words; those that follow are indented.
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

/// The text, or as much of it as has room, and `…`.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars()
        .take(room.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// The same for what is known by its end, such as a path.
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
    // The smallest share is still to be seen.
    let full = full.clamp(usize::from(share > 0.0), length);
    "█".repeat(full) + &"░".repeat(length - full)
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever closed the pipe does not want to see more.
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

    /// The longest line of a version's figures, without colours.
    fn longest(columns: usize) -> String {
        let figures = Figures {
            share: 1.0,
            rate: 9999.0,
            p50: Duration::from_micros(123_456),
            p99: Duration::from_micros(123_456),
        };
        let line = Shape::of(columns).line("green", 32, &figures);
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
        assert_eq!(Shape::of(200).bar, BAR);
    }

    #[test]
    fn sentences_are_broken_between_words() {
        assert_eq!(fold("half and half", 13), "half and half");
        assert_eq!(fold("  half and half", 12), "  half and\n    half");
        assert_eq!(fold("a b c d", 6), "a b c\n    d");
        assert_eq!(fold("unbreakable", 4), "unbreakable");
    }

    #[test]
    fn what_is_too_long_is_cut_at_the_end_that_matters_less() {
        assert_eq!(cut("split = x", 9), "split = x");
        assert_eq!(cut("split = x", 6), "split…");
        assert_eq!(cut_front("/tmp/cutover.toml:8", 15), "…cutover.toml:8");
        assert_eq!(cut_front("/tmp/a:8", 8), "/tmp/a:8");
    }
}
