//! How the demo looks: a few lines that are redrawn, or without a terminal a plain line a second.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, interval};

use super::stage::{SERVICE, Stage};
use super::tally::{Tally, shown};
use crate::cli::fault::Fault;

/// Of a bar, in characters.
const BAR: usize = 30;

/// What is shown is of this time: short, so that an edit is seen at once.
const NOW: Duration = Duration::from_secs(1);

/// The view.
pub struct View {
    tally: Rc<RefCell<Tally>>,
    voice: Voice,
    screen: bool,
    names: [&'static str; 2],
    url: String,
    file: String,
}

/// Whoever has something to say beside the view.
#[derive(Clone, Debug, Default)]
pub struct Voice {
    said: Rc<RefCell<Vec<String>>>,
}

impl Voice {
    /// Prints a line that stays, at the next redraw.
    pub fn say(&self, line: &str) {
        self.said.borrow_mut().push(line.to_owned());
    }
}

impl View {
    /// Of what happens on this stage.
    pub fn new(stage: &Stage, tally: Rc<RefCell<Tally>>) -> Self {
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
    pub fn voice(&self) -> Voice {
        self.voice.clone()
    }

    /// Says once what there is to do.
    pub fn open(&self, stage: &Stage) {
        let (number, line) = stage.line().unwrap_or_default();
        let Self { url, file, .. } = self;
        print(&format!(
            "cutover demo: blue and green behind {url}\n  edit  {file}:{number}\n          {line}\n  or    cutover shift {SERVICE} green=5% -c {file}\n  ask   curl -i {url}\n"
        ));
    }

    /// Shows what happens, until something goes wrong with the proxy.
    pub async fn live(&self, stage: &Stage, begun: Instant) -> Result<(), Fault> {
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
                let _ = writeln!(text, "{line}");
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
    pub fn close(&self) {
        for line in self.voice.said.borrow_mut().drain(..) {
            print(&format!("{line}\n"));
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

    fn block(&self, stage: &Stage, begun: Instant, refused: Option<&str>) -> String {
        let tally = self.tally.borrow();
        let mut text = format!(
            "\n  {:.0} s   {} requests, {} failed\n\n",
            begun.elapsed().as_secs_f64(),
            tally.requests(),
            tally.failures()
        );
        for (version, name) in self.names.iter().enumerate() {
            let f = tally.figures(version, NOW);
            let colour = if version == 0 { 34 } else { 32 };
            let _ = write!(
                text,
                "  {name:<6} \x1b[{colour}m{}\x1b[0m {:>5.1} %  {:>4.0}/s",
                bar(f.share),
                f.share * 100.0,
                f.rate,
            );
            if f.rate > 0.0 {
                let (p50, p99) = (shown(f.p50), shown(f.p99));
                let _ = write!(text, "   p50 {p50:>7}   p99 {p99:>7}");
            }
            text.push('\n');
        }
        if let Some((number, line)) = stage.line() {
            let _ = writeln!(text, "\n  {}:{number}\n    {line}", self.file);
        }
        match refused {
            Some(refused) => {
                let _ = writeln!(
                    text,
                    "  \x1b[31mrefused, the old one runs on:\x1b[0m {refused}"
                );
            }
            None => text += "  Ctrl-C ends\n",
        }
        text
    }
}

fn bar(share: f64) -> String {
    let full = (share * BAR as f64).round() as usize;
    // The smallest share is still to be seen.
    let full = full.clamp(usize::from(share > 0.0), BAR);
    "█".repeat(full) + &"░".repeat(BAR - full)
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
        let full = |share| bar(share).chars().filter(|c| *c == '█').count();
        assert_eq!(
            [full(0.0), full(0.001), full(0.5), full(1.0)],
            [0, 1, 15, 30]
        );
        assert_eq!(bar(0.3).chars().count(), BAR);
    }
}
