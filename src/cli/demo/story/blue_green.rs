//! The story of a cut-over: green gets all new users once it is ready, and an undo reverses that.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::cli::demo::origin::OriginPlan;
use crate::cli::demo::scene::{SERVICE, Scene};
use crate::cli::demo::stage::{StoryEnd, StoryStage};
use crate::cli::demo::tally::shown;
use crate::cli::demo::users::UserPlan;
use crate::cli::error::CommandError;

/// Time before the cut-over.
const BEFORE: Duration = Duration::from_secs(2);
/// Time after the cut-over was asked for in which green isn't ready.
const STARTING: Duration = Duration::from_millis(1500);
/// Time to watch the users after the cut-over, and after the undo.
const WATCH: Duration = Duration::from_secs(4);

const FILE: &str = r#"stable = "blue"                 # THE line
check  = "/ready"               # green must pass it first
health.interval = "1s"
finish_sessions = "1m"          # sessions end on the version they began on
"#;

/// The set-up.
pub(super) fn scene() -> Scene {
    let origin = |version| OriginPlan::new(version, Duration::from_millis(4));
    let starting = OriginPlan {
        is_ready: false,
        ..origin("green")
    };
    Scene {
        title: String::new(),
        about: &[
            "200 users at a time send 300 requests a second, and leave after a visit of some seconds. Blue answers all of them; green is still starting.",
        ],
        versions: ["blue", "green"],
        origins: vec![origin("blue"), origin("blue"), starting],
        comment: "# The configuration of `cutover demo --story blue-green`.",
        service: FILE.to_owned(),
        marked: "stable",
        clients: 12,
        users: UserPlan {
            count: 200,
            visit: Some(5),
            has_name: true,
        },
    }
}

/// Plays the story.
pub(super) async fn play(stage: &StoryStage<'_>) -> Result<StoryEnd, CommandError> {
    sleep(BEFORE).await;
    stage.say("green is to be stable, while it is still starting:");
    let cut_over = cut_over(stage).await?;
    let cause = "green passed its check";
    let finishing = tell_move(stage, ("blue", "green"), cut_over, cause);
    sleep(WATCH).await;
    tell_sessions(stage, "blue");
    stage.say("green was a mistake. One command takes it back:");
    let undo = stage.edit(&["undo"]).await?;
    let finishing_green = tell_move(stage, ("green", "blue"), undo, "the file was saved");
    sleep(WATCH).await;
    tell_sessions(stage, "green");
    ending(stage, (cut_over, undo), (finishing, finishing_green)).await
}

/// Reports that new users get another version. Returns the number of sessions that stay on the previous one.
fn tell_move(
    stage: &StoryStage<'_>,
    (from, to): (&str, &str),
    after: Duration,
    cause: &str,
) -> u64 {
    let finishing = stage.users.borrow().on(from);
    let took = shown(after);
    stage.say(&format!("  every worker followed {took} after {cause}"));
    stage.say(&format!(
        "new users get {to}; {finishing} sessions that began on {from} stay there"
    ));
    finishing
}

/// Asks for the cut-over, and lets green become ready. Returns the time from green's first passed check until every worker sends
/// new users there.
async fn cut_over(stage: &StoryStage<'_>) -> Result<Duration, CommandError> {
    let generation = stage.proxy.admin.status().await?.generation;
    let before = stage.proxy.lines();
    let becomes_ready = async {
        sleep(STARTING).await;
        stage.tell_changes(&before);
        let awaited = stage.service().await?.awaiting;
        if awaited.iter().any(|version| version == "green") {
            stage.say("  the gate holds it back: green hasn't passed its check, blue answers");
        }
        for origin in stage.origins_of("green") {
            origin.is_ready.set(true);
        }
        // Only now: without an edit in the file there is nothing to wait for.
        stage.in_effect_after(generation).await
    };
    let command = ["shift", SERVICE, "green"];
    let (ran, live) = tokio::join!(stage.run(&command), becomes_ready);
    ran?;
    let live = live?;
    let passed = stage.origins_of("green").filter_map(|o| o.passed.get());
    let Some(passed) = passed.min() else {
        return Err(CommandError::new("green never passed its check"));
    };
    // Both clocks are read at once, to compare a moment of the one with a moment of the other.
    let passed = SystemTime::now() - Instant::now().saturating_duration_since(passed);
    Ok(live.duration_since(passed).unwrap_or_default())
}

/// Reports how many sessions have ended on the version that new users no longer get.
fn tell_sessions(stage: &StoryStage<'_>, version: &str) {
    let left = stage.users.borrow().on(version);
    stage.say(&format!("  {left} sessions are left on {version}"));
}

async fn ending(
    stage: &StoryStage<'_>,
    (cut_over, undo): (Duration, Duration),
    (on_blue, on_green): (u64, u64),
) -> Result<StoryEnd, CommandError> {
    let stable = stage.service().await?.stable;
    let users = stage.users.borrow();
    let moved = users.moves("blue", "green") + users.moves("green", "blue");
    let tally = stage.tally.borrow();
    let (all, failed) = (tally.requests(), tally.failures());
    let mut end = StoryEnd {
        next: vec![
            ("undo", "takes the undo back: green again"),
            ("history shop", "what changed, when and by whom"),
            ("status shop", "versions, endpoints and their health"),
        ],
        ..StoryEnd::default()
    };
    end.fact(
        "cut-over",
        format!("on every worker {} after green's check", shown(cut_over)),
    );
    end.fact(
        "undo",
        format!("on every worker {} after the save", shown(undo)),
    );
    end.fact(
        "sessions",
        format!(
            "{moved} changed their version; {on_blue} were on blue at the cut-over, {on_green} on green at the undo"
        ),
    );
    let visits = users.visits("blue") + users.visits("green");
    end.fact("users", format!("{} came, {visits} left", users.came()));
    end.fact("requests", format!("{all}, {failed} failed"));
    end.check(stable == "blue", "blue isn't stable");
    end.check(moved == 0, "sessions changed their version");
    end.check(failed == 0, "requests failed");
    Ok(end)
}
