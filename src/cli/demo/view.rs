//! The display of the demo: a block of lines that is redrawn in place, or a plain line per second if stdout is not a terminal.
//! The messages of the demo stand above the block.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::rc::Rc;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use tokio::time::{Instant, interval};

use super::demo_proxy::DemoProxy;
use super::layout::{Layout, bar, coloured, columns, command, cut, cut_front, print, shortened};
use super::members::{listed, name};
use super::messages::Messages;
use super::name::{program, quoted};
use super::scene::{SERVICE, Scene};
use super::tally::{Tally, shown};
use crate::admin::rollout::RolloutStatus;
use crate::admin::status::ProxyStatus;
use crate::cli::error::CommandError;
use crate::cli::rollout;
use crate::cli::rollout_view::evidence_share;

/// Time over which figures are computed: short, so that an edit shows at once.
const NOW: Duration = Duration::from_secs(1);

/// SGR codes of the versions and of bad news: blue, green, red.
const VERSION_COLOURS: [u8; 2] = [34, 32];
const RED: u8 = 31;

/// Length of the bar of the evidence, in characters.
const EVIDENCE_BAR: usize = 20;

/// The display. It reads the tally and prints to stdout.
pub(super) struct DemoView {
    scene: Scene,
    tally: Rc<RefCell<Tally>>,
    messages: Messages,
    /// Whether lines can be redrawn.
    is_terminal: bool,
    has_colour: bool,
    url: String,
    file: String,
    /// Number of lines of the block that is on the screen now.
    drawn: Cell<usize>,
}

impl DemoView {
    /// Creates the display. Nothing is printed yet.
    pub(super) fn new(scene: &Scene, proxy: &DemoProxy, tally: Rc<RefCell<Tally>>) -> Self {
        let stdout = std::io::stdout();
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_terminal = stdout.is_terminal() && !is_dumb;
        Self {
            scene: scene.clone(),
            tally,
            messages: Messages::default(),
            is_terminal,
            // The choice also heeds NO_COLOR.
            has_colour: is_terminal && AutoStream::choice(&stdout) != ColorChoice::Never,
            url: url(proxy),
            file: proxy.file.display().to_string(),
            drawn: Cell::new(0),
        }
    }

    /// The queue of lines to print.
    pub(super) fn messages(&self) -> Messages {
        self.messages.clone()
    }

    /// Prints the actions that the user can take, or the events to come.
    pub(super) fn open(&self, proxy: &DemoProxy, others: &[DemoProxy]) {
        let [first, second] = self.scene.versions;
        let title = &self.scene.title;
        let others = others.iter().map(url);
        let urls: Vec<String> = std::iter::once(self.url.clone()).chain(others).collect();
        let urls = listed(&urls);
        self.messages
            .push(&format!("{title}: {first} and {second} behind {urls}"));
        match self.scene.about {
            [] => print(&(self.taken() + &self.invitation(proxy))),
            about => {
                about.iter().for_each(|line| self.messages.push(line));
                let file = format!("the file, {}:", self.file);
                self.messages.push(&file);
                let lines = (1..).zip(proxy.lines());
                let heading = format!("[service.{SERVICE}]");
                let lines = lines.skip_while(|(_, line)| *line != heading);
                for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
                    self.messages.file_line(number, &line);
                }
                print(&self.taken());
            }
        }
    }

    /// The line to edit, and the commands to try.
    fn invitation(&self, proxy: &DemoProxy) -> String {
        let columns = self.is_terminal.then(columns);
        let (number, line) = proxy.line_of(self.scene.marked).unwrap_or_default();
        let Self { url, file, .. } = self;
        let line = columns.map_or(line.clone(), |columns| shortened(&line, columns - 8));
        let shift = format!("shift {SERVICE} {}=5%", self.scene.versions[1]);
        let words = [program(), shift, format!("-c {}", quoted(file))];
        let command = command(&words, 8, columns);
        format!(
            "  edit  {file}:{number}\n        {line}\n  or    {command}\n  try   curl -i {url}\n"
        )
    }

    /// Redraws the display until a proxy fails.
    pub(super) async fn live(
        &self,
        proxy: &DemoProxy,
        others: &[DemoProxy],
        begun: Instant,
    ) -> Result<(), CommandError> {
        let period = if self.is_terminal { 250 } else { 1000 };
        let mut ticks = interval(Duration::from_millis(period));
        loop {
            ticks.tick().await;
            let mut status = proxy.admin.status().await?;
            let mut members = vec![member(0, &status)];
            for (number, other) in (1..).zip(others) {
                let other = other.admin.status().await?;
                members.push(member(number, &other));
                if drives(&other) {
                    status = other;
                }
            }
            let mut text = self.erase_and_print_messages();
            if self.is_terminal {
                let mut block = self.block(proxy, begun, &status);
                if !others.is_empty() {
                    let line = cut(&members.join("  "), columns().saturating_sub(11));
                    let _ = writeln!(block, "  members  {line}");
                }
                self.drawn.set(block.lines().count());
                // Auto-wrap is off while the block is drawn, so that it takes exactly as many rows as it has lines.
                let _ = write!(text, "\x1b[?7l{block}\x1b[?7h");
            } else {
                text += &self.plain(begun, &status);
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
        text + &self.taken()
    }

    /// The queued messages, laid out for the terminal.
    fn taken(&self) -> String {
        self.messages
            .take(self.is_terminal.then(columns), self.has_colour)
    }

    fn plain(&self, begun: Instant, status: &ProxyStatus) -> String {
        let tally = self.tally.borrow();
        let mut text = format!("{:>4.0}s", begun.elapsed().as_secs_f64());
        for (version, name) in self.scene.versions.iter().enumerate() {
            let f = tally.figures(version, NOW);
            let _ = write!(text, "  {name} {:>5.1}% {:>3.0}/s", f.share * 100.0, f.rate);
            // A story has more messages, and shorter lines.
            if f.rate > 0.0 && self.scene.about.is_empty() {
                let _ = write!(text, " p50 {} p99 {}", shown(f.p50), shown(f.p99));
            }
        }
        text += &format!("  {}", self.totals());
        if let Some(rejected) = rejected(status) {
            let _ = write!(text, "  rejected: {rejected}");
        }
        text + "\n"
    }

    /// Requests and failures so far.
    fn totals(&self) -> String {
        let tally = self.tally.borrow();
        let (requests, failed) = (tally.requests(), tally.failures());
        format!("{requests} requests, {failed} failed")
    }

    fn block(&self, proxy: &DemoProxy, begun: Instant, status: &ProxyStatus) -> String {
        let tally = self.tally.borrow();
        let columns = columns();
        let layout = Layout::of(columns);
        let seconds = begun.elapsed().as_secs_f64();
        let mut text = format!("\n  {seconds:.0} s   {}\n\n", self.totals());
        for (version, name) in self.scene.versions.iter().enumerate() {
            let figures = tally.figures(version, NOW);
            let colour = self.has_colour.then_some(VERSION_COLOURS[version]);
            text += &layout.line(name, colour, &figures);
        }
        if let Some(rollout) = rollout_of(status) {
            text += &self.rollout(rollout, columns);
        }
        if let Some((number, line)) = proxy.line_of(self.scene.marked) {
            let file = cut_front(&format!("{}:{number}", self.file), columns - 2);
            let line = shortened(&line, columns - 4);
            let _ = writeln!(text, "\n  {file}\n    {line}");
        }
        match rejected(status) {
            Some(rejected) => {
                let red = self.has_colour.then_some(RED);
                let title = coloured("rejected, the previous one is in use:", red);
                let _ = writeln!(text, "  {title}\n    {}", cut(rejected, columns - 4));
            }
            None => text += "  Ctrl-C to stop\n",
        }
        text
    }

    /// The state of a rollout, and the evidence against its version.
    fn rollout(&self, rollout: &RolloutStatus, columns: usize) -> String {
        let state = cut(&rollout::summary(rollout), columns.saturating_sub(11));
        let evidence = evidence(rollout, self.has_colour.then_some(RED));
        format!("\n  rollout  {state}\n  evidence {evidence}\n")
    }
}

/// The URL of a proxy's listener.
fn url(proxy: &DemoProxy) -> String {
    format!("http://{}/", proxy.address)
}

/// The rollout of the demo's service.
fn rollout_of(status: &ProxyStatus) -> Option<&RolloutStatus> {
    let found = status.services.iter().find(|s| s.name == SERVICE);
    found.and_then(|service| service.rollout.as_ref())
}

/// Whether a proxy drives the rollout of its fleet.
fn drives(status: &ProxyStatus) -> bool {
    let fleet = rollout_of(status).and_then(|rollout| rollout.fleet.as_ref());
    fleet.is_some_and(|fleet| fleet.is_driver)
}

/// A member of a fleet and the share that it gives: `b 5% drives`.
fn member(number: usize, status: &ProxyStatus) -> String {
    let share = rollout_of(status).map_or("0%", |rollout| &rollout.share);
    let drives = if drives(status) { " drives" } else { "" };
    format!("{} {share}{drives}", name(number))
}

/// The evidence against a version, as a bar and in figures.
pub(super) fn evidence(rollout: &RolloutStatus, colour: Option<u8>) -> String {
    let (evidence, threshold) = (rollout.total_evidence, rollout.threshold);
    let bar = bar(evidence_share(evidence, threshold), EVIDENCE_BAR);
    let bar = coloured(&bar, colour);
    format!("{bar} 10^{evidence:.1} of 10^{threshold:.1}")
}

/// The first line of the reason why the current file isn't in use.
fn rejected(status: &ProxyStatus) -> Option<&str> {
    let error = status.config.error.as_deref();
    error.and_then(|error| error.lines().next())
}
