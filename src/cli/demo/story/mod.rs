//! The stories of `cutover demo --story`: deployments that are played from beginning to end by the real commands.

mod blue_green;
mod canary;

use clap::ValueEnum;

use super::name::{program, quoted};
use super::scene::Scene;
use super::stage::{StoryEnd, StoryStage};
use crate::cli::error::CommandError;

/// A deployment that the demo plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Story {
    /// A release that fails one request in five: its rollout is rolled back, and no user sees a failure
    BadCanary,
    /// A good release: its rollout walks all steps, and it becomes stable
    GoodCanary,
    /// A cut-over to green, once green is ready, and its undo; sessions stay
    BlueGreen,
}

impl Story {
    /// The name on the command line.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether the story has a rollout.
    pub(super) fn is_canary(self) -> bool {
        self != Self::BlueGreen
    }

    /// The set-up.
    pub(super) fn scene(self) -> Scene {
        let scene = match self {
            Self::BadCanary => canary::bad_scene(),
            Self::GoodCanary => canary::good_scene(),
            Self::BlueGreen => blue_green::scene(),
        };
        Scene {
            title: format!("cutover demo --story {}", self.name()),
            ..scene
        }
    }

    /// Plays the story to its end.
    ///
    /// # Errors
    /// The proxy doesn't answer, or a command fails.
    pub(super) async fn play(self, stage: &StoryStage<'_>) -> Result<StoryEnd, CommandError> {
        match self {
            Self::BadCanary => canary::play_bad(stage).await,
            Self::GoodCanary => canary::play_good(stage).await,
            Self::BlueGreen => blue_green::play(stage).await,
        }
    }

    /// Prints the end of the story, and commands to try next. `stays`: the demo keeps running.
    pub(super) fn tell_end(self, end: &StoryEnd, stage: &StoryStage<'_>, stays: bool) {
        let messages = &stage.messages;
        messages.push("");
        let width = end.facts.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0);
        for (name, value) in &end.facts {
            messages.fact(name, width, value);
        }
        for wrong in &end.wrong {
            messages.push(&format!("not as it should be: {wrong}"));
        }
        messages.push("");
        let program = program();
        if !stays {
            let story = format!("--story {}", self.name());
            let fleet = stage.members();
            let fleet = (fleet > 1).then(|| format!("--fleet {fleet}"));
            let commands = end.next.iter();
            let commands: Vec<String> = commands
                .map(|(command, _)| format!("`cutover {command}`"))
                .collect();
            messages.push(&format!(
                "next: keep the demo running, and try {} on it",
                commands.join(", ")
            ));
            let words = [program, "demo".to_owned(), story].into_iter();
            let words = words.chain(fleet).chain(["--for 10m".to_owned()]);
            messages.command(words.collect());
            return;
        }
        messages.push("next: the demo keeps running; try, in another terminal");
        let file = quoted(&stage.proxy.file.display().to_string());
        for (command, what) in &end.next {
            messages.push(&format!("  {what}:"));
            let words = command.split(' ').map(str::to_owned);
            let words = std::iter::once(program.clone()).chain(words);
            messages.command(words.chain([format!("-c {file}")]).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::scene::tests::parsed;

    #[test]
    fn every_story_has_a_valid_file() {
        for story in Story::value_variants() {
            let scene = story.scene();
            let spec = parsed(&scene, None);
            let service = &spec.services[0];
            let names = service.versions.iter().map(|v| v.name.as_str());
            assert!(names.eq(scene.versions), "{}", story.name());
            assert_eq!(
                service.rollout.is_some(),
                story.is_canary(),
                "{}",
                story.name()
            );
        }
    }
}
