//! The stories of a canary: a release that is rolled back, and one that is promoted.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::admin::rollout::RolloutStatus;
use crate::cli::demo::origin::OriginPlan;
use crate::cli::demo::scene::{SERVICE, Scene};
use crate::cli::demo::stage::{StoryEnd, StoryStage};
use crate::cli::demo::tally::shown;
use crate::cli::demo::users::UserPlan;
use crate::cli::demo::view;
use crate::cli::error::CommandError;

/// Time before the deployment.
const BEFORE: Duration = Duration::from_secs(2);
/// Time after a rollback or a promotion, in which its effect is watched.
const AFTER: Duration = Duration::from_secs(2);
/// Interval between two looks at the rollout.
const LOOK: Duration = Duration::from_millis(100);
/// Longest time that a rollout may take.
const LONGEST: Duration = Duration::from_secs(45);
/// The label of the release.
const LABEL: &str = "2.0.0";
/// How many percent of its requests the bad release fails.
const FAILING: u32 = 20;

/// The steps of the good story.
const GOOD: &str = r#"["10% for 3s", "50% for 3s", "100% for 3s"]"#;
/// Those of the bad one. They are longer than the guard needs.
const BAD: &str = r#"["5% for 15s", "50% for 15s", "100% for 15s"]"#;

/// The service in the file.
fn service(steps: &str) -> String {
    format!(
        r#"stable = "v1"
split  = {{ v2 = "0%" }}
shield = true                   # v2 fails a GET: v1 answers it
cohort.by = ["cookie:uid"]      # users stay on their version

[service.shop.rollout]
steps = {steps}
guard.errors = ["1%", "x1.5"]   # more failures than this: rolled back
guard.p99 = "1s"
guard.min_requests = 20
"#
    )
}

/// The set-up of the bad story.
pub(super) fn bad_scene() -> Scene {
    let scene = good_scene();
    let failing = |origin: &OriginPlan| OriginPlan {
        failing: if origin.version == "v2" { FAILING } else { 0 },
        ..*origin
    };
    Scene {
        about: &[
            "600 users send 300 requests a second. v1 answers all of them; release 2.0.0 of v2 is about to be deployed, and fails one in five.",
        ],
        origins: scene.origins.iter().map(failing).collect(),
        comment: "# The configuration of `cutover demo --story bad-canary`.",
        service: service(BAD),
        ..scene
    }
}

/// The set-up of the good story.
pub(super) fn good_scene() -> Scene {
    let origin = |version| OriginPlan::new(version, Duration::from_millis(4));
    Scene {
        title: String::new(),
        about: &[
            "600 users send 300 requests a second. v1 answers all of them; release 2.0.0 of v2 is about to be deployed.",
        ],
        versions: ["v1", "v2"],
        origins: vec![origin("v1"), origin("v1"), origin("v2")],
        comment: "# The configuration of `cutover demo --story good-canary`.",
        service: service(GOOD),
        marked: "split",
        clients: 12,
        users: UserPlan {
            count: 600,
            visit: None,
            has_name: true,
        },
    }
}

/// How a rollout went.
struct RolloutWalk {
    /// The shares that it had, in order.
    shares: Vec<String>,
    /// Its last status.
    last: RolloutStatus,
    /// When it ended.
    ended: Instant,
}

/// Deploys the release and follows its rollout to the end.
async fn deploy(stage: &StoryStage<'_>, tells_evidence: bool) -> Result<RolloutWalk, CommandError> {
    sleep(BEFORE).await;
    stage.say("the release is deployed, and its rollout begins:");
    let command = ["deploy", SERVICE, "v2", "--label", LABEL];
    stage.edit(&command).await?;
    if tells_evidence {
        stage.say("every second the guard compares v2 with v1; evidence of 10^2 (99%) fails v2:");
    }
    follow(stage, tells_evidence).await
}

async fn follow(stage: &StoryStage<'_>, tells_evidence: bool) -> Result<RolloutWalk, CommandError> {
    let begun = Instant::now();
    let mut shares: Vec<String> = Vec::new();
    let (mut counted, mut held) = (0, None);
    loop {
        let rollout = stage.rollout().await?.unwrap_or_default();
        // A step is told when its share is in force, which is a moment after it has begun.
        if shares.last() != Some(&rollout.share) && !matches!(&*rollout.share, "" | "0%") {
            shares.push(rollout.share.clone());
            tell_step(stage, &rollout);
        }
        let now = rollout.counted.canary_requests;
        if tells_evidence && now != counted {
            counted = now;
            stage.say(&evidence(&rollout));
        }
        if rollout.state == "held" && rollout.reason != held {
            held.clone_from(&rollout.reason);
            let reason = held.as_deref().unwrap_or("no reason");
            stage.say(&format!("held: {reason}"));
        }
        if matches!(&*rollout.state, "done" | "rolled-back" | "aborted") {
            return Ok(RolloutWalk {
                shares,
                last: rollout,
                ended: Instant::now(),
            });
        }
        if begun.elapsed() > LONGEST {
            let state = crate::cli::rollout::summary(&rollout);
            return Err(CommandError::new(format!(
                "the rollout did not end within {LONGEST:?}: {state}"
            )));
        }
        sleep(LOOK).await;
    }
}

/// Tells the step before, if there was one, and the one that begins.
fn tell_step(stage: &StoryStage<'_>, rollout: &RolloutStatus) {
    let (step, steps, share) = (rollout.step, rollout.steps, &rollout.share);
    if step > 1 {
        stage.say(&format!(
            "  step {} passed: {}",
            step - 1,
            failures(rollout)
        ));
    }
    stage.say(&format!(
        "step {step} of {steps}: {share} of the users get v2"
    ));
}

/// What the guard has counted.
fn failures(rollout: &RolloutStatus) -> String {
    let counted = &rollout.counted;
    format!(
        "v2 failed {} of {}, v1 {} of {}",
        counted.canary_failures,
        counted.canary_requests,
        counted.stable_failures,
        counted.stable_requests
    )
}

/// The evidence against the release, after a second of the guard.
fn evidence(rollout: &RolloutStatus) -> String {
    let evidence = view::evidence(rollout, None);
    format!("  {evidence}: {}", failures(rollout))
}

/// Plays the bad story.
pub(super) async fn play_bad(stage: &StoryStage<'_>) -> Result<StoryEnd, CommandError> {
    let walk = deploy(stage, true).await?;
    let mut end = StoryEnd {
        next: vec![
            ("status shop", "the state and the evidence"),
            ("retry shop", "the same release once more"),
            (
                "deploy shop v2 --label 2.0.1",
                "a new label starts a new rollout",
            ),
        ],
        ..StoryEnd::default()
    };
    if walk.last.state != "rolled-back" {
        end.wrong.push(format!("v2 is {}", walk.last.state));
        return Ok(end);
    }
    stage.say("rolled back: v1 answers all users again");
    stage.settled().await?;
    let (requests, failed) = stage.requests_of("v2");
    sleep(AFTER).await;
    let later = stage.requests_of("v2").0 - requests;
    let first = stage.origins_of("v2").filter_map(|o| o.first.get()).min();
    let took = first.map(|first| walk.ended - first).unwrap_or_default();
    end.fact(
        "rolled back",
        format!("{:.1} s after the first request to v2", took.as_secs_f64()),
    );
    let all = stage.tally.borrow().requests();
    end.fact(
        "v2 answered",
        format!(
            "{requests} of {all} requests, {failed} of them with a failure (the guard counts a user's once a minute); {later} since"
        ),
    );
    end.check(later == 0, "v2 got requests after the rollback");
    add_verdict(&mut end, &walk.last);
    let users = stage.users.borrow();
    let (came, disappointed) = (users.came(), users.disappointed());
    end.fact(
        "users",
        format!("{disappointed} of {came} saw a failure: v1 answered in place of v2"),
    );
    end.check(disappointed == 0, "a user saw a failure");
    Ok(end)
}

/// Adds why the rollout was rolled back, and that it is latched.
fn add_verdict(end: &mut StoryEnd, rollout: &RolloutStatus) {
    end.fact("reason", rollout.reason.clone().unwrap_or_default());
    let (evidence, threshold) = (rollout.total_evidence, rollout.threshold);
    end.fact(
        "evidence",
        format!("10^{evidence:.1}; a verdict needs 10^{threshold:.1} (99%)"),
    );
    if rollout.latched {
        end.fact(
            "latched",
            "this release starts again only by `cutover retry`; a new label or new endpoints start a new one",
        );
    }
    end.check(rollout.latched, "the plan isn't latched");
}

/// Plays the good story.
pub(super) async fn play_good(stage: &StoryStage<'_>) -> Result<StoryEnd, CommandError> {
    let walk = deploy(stage, false).await?;
    let mut end = StoryEnd {
        next: vec![
            ("history shop", "what changed, when and by whom"),
            ("status shop", "versions, shares and latencies"),
            ("undo", "back to the file before the promotion"),
        ],
        ..StoryEnd::default()
    };
    if walk.last.state != "done" {
        let why = walk.last.reason.unwrap_or_default();
        end.wrong.push(format!("v2 is {}: {why}", walk.last.state));
        return Ok(end);
    }
    stage.say(&format!("  all steps passed: {}", failures(&walk.last)));
    stage.say("v2 becomes stable, in the file:");
    let live = stage.edit(&["promote", SERVICE]).await?;
    stage.say(&format!("  live on every worker after {}", shown(live)));
    sleep(AFTER).await;
    let stable = stage.service().await?.stable;
    let users = stage.users.borrow();
    let back = users.moves("v2", "v1");
    let tally = stage.tally.borrow();
    let (all, failed) = (tally.requests(), tally.failures());
    end.fact("steps", walk.shares.join(", "));
    end.fact("stable", format!("{stable}, by a line of the file"));
    end.fact(
        "users",
        format!(
            "{} of {} moved from v1 to v2, {back} moved back",
            users.moves("v1", "v2"),
            users.came()
        ),
    );
    end.fact("requests", format!("{all}, {failed} failed"));
    end.check(walk.shares == ["10%", "50%", "100%"], "a step was left out");
    end.check(stable == "v2", "v2 isn't stable");
    end.check(back == 0, "users moved back");
    end.check(failed == 0, "requests failed");
    Ok(end)
}
