//! The stage of a story: the running proxy, its origins, the users, and the lines that the story prints.
//!
//! A story changes things only by commands of this program, which it prints and runs as an operator would.

use std::cell::RefCell;
use std::process::{Command, Output, Stdio};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::demo_proxy::DemoProxy;
use super::messages::Messages;
use super::name::{program, quoted};
use super::origin::DemoOrigin;
use super::scene::SERVICE;
use super::tally::Tally;
use super::users::Users;
use crate::admin::rollout::RolloutStatus;
use crate::admin::status::ServiceStatus;
use crate::cli::error::CommandError;

/// Variables that would lead a command to another proxy.
const VARIABLES: [&str; 4] = [
    "CUTOVER_ADMIN",
    "CUTOVER_CONFIG",
    "CUTOVER_TOKEN",
    "CUTOVER_TOKEN_FILE",
];

/// Interval between two checks of the status, when a time is measured.
const CLOSE_LOOK: Duration = Duration::from_millis(2);

/// Longest time that a request takes from the proxy's decision about it to its origin.
const IN_FLIGHT: Duration = Duration::from_millis(300);

/// Longest wait for an edit to be in effect.
const ADOPTION: Duration = Duration::from_secs(15);

/// The stage on which a story is played.
pub(super) struct StoryStage<'a> {
    pub proxy: &'a DemoProxy,
    /// The other members of the fleet, if there is one.
    pub others: &'a [DemoProxy],
    pub origins: &'a [Rc<DemoOrigin>],
    pub tally: Rc<RefCell<Tally>>,
    pub users: Rc<RefCell<Users>>,
    pub messages: Messages,
}

/// The end of a story.
#[derive(Clone, Debug, Default)]
pub(super) struct StoryEnd {
    /// Figures of the story: names and values.
    pub facts: Vec<(&'static str, String)>,
    /// Events that should not have happened. Empty if the story ended as it should.
    pub wrong: Vec<String>,
    /// Commands to try on the running demo, with their effects.
    pub next: Vec<(&'static str, &'static str)>,
}

impl StoryEnd {
    /// Adds a named figure to the story's result.
    pub(super) fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.facts.push((name, value.into()));
    }

    /// Adds `wrong` to the end if `is_right` is false.
    pub(super) fn check(&mut self, is_right: bool, wrong: &str) {
        if !is_right {
            self.wrong.push(wrong.to_owned());
        }
    }
}

impl StoryStage<'_> {
    /// Number of proxies.
    pub(super) fn members(&self) -> usize {
        1 + self.others.len()
    }

    /// All proxies, beginning with the first.
    pub(super) fn proxies(&self) -> impl Iterator<Item = &DemoProxy> {
        std::iter::once(self.proxy).chain(self.others)
    }

    /// Prints a line.
    pub(super) fn say(&self, line: &str) {
        self.messages.push(line);
    }

    /// The origins of a version.
    pub(super) fn origins_of(&self, version: &str) -> impl Iterator<Item = &Rc<DemoOrigin>> {
        let of = move |origin: &&Rc<DemoOrigin>| origin.version == version;
        self.origins.iter().filter(of)
    }

    /// Requests that the origins of a version got, and how many of them failed.
    pub(super) fn requests_of(&self, version: &str) -> (u64, u64) {
        let counts = self
            .origins_of(version)
            .map(|origin| (origin.requests.get(), origin.failed.get()));
        counts.fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1))
    }

    /// The status of the service.
    ///
    /// # Errors
    /// The proxy doesn't answer.
    pub(super) async fn service(&self) -> Result<ServiceStatus, CommandError> {
        service_of(self.proxy).await
    }

    /// The stable version of each proxy.
    ///
    /// # Errors
    /// A proxy doesn't answer.
    pub(super) async fn stable(&self) -> Result<Vec<String>, CommandError> {
        let mut stable = Vec::new();
        for proxy in self.proxies() {
            stable.push(service_of(proxy).await?.stable);
        }
        Ok(stable)
    }

    /// The rollout of the service, if there is one, as seen by the member that drives it, because that one judges.
    ///
    /// # Errors
    /// A proxy doesn't answer.
    pub(super) async fn rollout(&self) -> Result<Option<RolloutStatus>, CommandError> {
        let first = self.service().await?.rollout;
        for other in self.others {
            let rollout = service_of(other).await?.rollout;
            let drives = |rollout: &RolloutStatus| {
                let fleet = rollout.fleet.as_ref();
                fleet.is_some_and(|fleet| fleet.is_driver)
            };
            if rollout.as_ref().is_some_and(drives) {
                return Ok(rollout);
            }
        }
        Ok(first)
    }

    /// Prints a command, runs it on the demo's file, and prints its output.
    ///
    /// # Errors
    /// The command can't be run or fails.
    pub(super) async fn run(&self, words: &[&str]) -> Result<(), CommandError> {
        self.run_on(self.proxy, words).await
    }

    /// Runs a command as [`Self::run`] does, on the file of one proxy.
    ///
    /// # Errors
    /// The command can't be run or fails.
    pub(super) async fn run_on(
        &self,
        proxy: &DemoProxy,
        words: &[&str],
    ) -> Result<(), CommandError> {
        let file = quoted(&proxy.file.display().to_string());
        let words_shown = std::iter::once(program()).chain(options_joined(words));
        let words_shown = words_shown.chain([format!("-c {file}")]);
        self.messages.command(words_shown.collect());
        let output = output(proxy, words).await?;
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        if !output.status.success() {
            let failed = format!("`cutover {}` failed: {}", words.join(" "), output.status);
            let lines = said.iter().flat_map(|text| text.lines());
            return Err(lines.fold(CommandError::new(failed), CommandError::with));
        }
        for line in said[0].lines() {
            self.say(&format!("  {line}"));
        }
        Ok(())
    }

    /// Prints the lines of the file that weren't there before.
    pub(super) fn tell_changes(&self, before: &[String]) {
        let lines = (1..).zip(self.proxy.lines());
        for (number, line) in lines.filter(|(_, line)| !before.contains(line)) {
            self.messages.file_line(number, &line);
        }
    }

    /// Runs a command that edits the file, and prints the lines that it changed. Returns the time from the moment the file was
    /// saved until the edit was in effect on every worker.
    ///
    /// # Errors
    /// The command fails, or its edit isn't in effect in time.
    pub(super) async fn edit(&self, words: &[&str]) -> Result<Duration, CommandError> {
        let before = self.proxy.lines();
        let generation = self.proxy.admin.status().await?.generation;
        let (ran, live) = tokio::join!(self.run(words), self.in_effect_after(generation));
        ran?;
        let live = live?;
        self.tell_changes(&before);
        let saved = std::fs::metadata(&self.proxy.file).and_then(|file| file.modified());
        let saved = saved.map_err(|error| {
            CommandError::new(format!("can't see when the file was saved: {error}"))
        })?;
        Ok(live.duration_since(saved).unwrap_or_default())
    }

    /// Waits until every worker runs the published generation, and requests that were decided before have arrived.
    ///
    /// # Errors
    /// The proxy doesn't answer, or it takes too long.
    pub(super) async fn settled(&self) -> Result<(), CommandError> {
        for proxy in self.proxies() {
            in_effect_after(proxy, 0).await?;
        }
        sleep(IN_FLIGHT).await;
        Ok(())
    }

    /// Waits until every worker runs a later generation and no version is held back by the gate. Returns the moment.
    ///
    /// # Errors
    /// The proxy doesn't answer, or it takes too long.
    pub(super) async fn in_effect_after(
        &self,
        generation: u64,
    ) -> Result<SystemTime, CommandError> {
        in_effect_after(self.proxy, generation).await
    }
}

/// Waits until every worker of a proxy runs a later generation and no version is held back by the gate. Returns the moment.
async fn in_effect_after(proxy: &DemoProxy, generation: u64) -> Result<SystemTime, CommandError> {
    let begun = Instant::now();
    while begun.elapsed() < ADOPTION {
        let status = proxy.admin.status().await?;
        let is_held = status.services.iter().any(|s| !s.awaiting.is_empty());
        let is_everywhere = status.adopted >= status.generation;
        if status.generation > generation && is_everywhere && !is_held {
            return Ok(SystemTime::now());
        }
        sleep(CLOSE_LOOK).await;
    }
    Err(CommandError::new(format!(
        "the edit is not in effect after {ADOPTION:?}"
    )))
}

/// The status of the service on a proxy.
async fn service_of(proxy: &DemoProxy) -> Result<ServiceStatus, CommandError> {
    let status = proxy.admin.status().await?;
    let mut services = status.services.into_iter();
    let found = services.find(|service| service.name == SERVICE);
    found.ok_or_else(|| CommandError::new(format!("service {SERVICE} is gone from the file")))
}

/// Runs a command of this program on the file of a proxy.
async fn output(proxy: &DemoProxy, words: &[&str]) -> Result<Output, CommandError> {
    let cannot = |error: std::io::Error| CommandError::new(format!("can't run it: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command.args(words).arg("-c").arg(&proxy.file);
    command.stdin(Stdio::null());
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    let (done, output) = oneshot::channel();
    let run = move || {
        // The receiver is gone if the demo was interrupted.
        let _ = done.send(command.output());
    };
    let thread = std::thread::Builder::new().name("command".into());
    thread.spawn(run).map_err(cannot)?;
    let ended = output.await;
    ended
        .map_err(|_| CommandError::new("the thread of a command ended"))?
        .map_err(cannot)
}

/// The words for a shell, each option with its value.
fn options_joined(words: &[&str]) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    let mut takes_value = false;
    for word in words {
        match joined.last_mut() {
            Some(option) if takes_value => *option += &format!(" {}", quoted(word)),
            _ => joined.push(quoted(word)),
        }
        takes_value = word.starts_with("--") && !takes_value;
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_stays_with_its_value() {
        let words = ["deploy", "shop", "v2", "--label", "2.0 beta", "--wait"];
        let shown = ["deploy", "shop", "v2", "--label '2.0 beta'", "--wait"];
        assert_eq!(options_joined(&words), shown);
    }
}
