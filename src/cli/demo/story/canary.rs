//! The stories of a canary: a release that is rolled back, and one that is promoted.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::admin::rollout::RolloutStatus;
use crate::cli::demo::members::{MembersWatch, listed, name};
use crate::cli::demo::origin::OriginPlan;
use crate::cli::demo::scene::{SERVICE, Scene};
use crate::cli::demo::stage::{StoryEnd, StoryStage};
use crate::cli::demo::tally::shown;
use crate::cli::demo::users::UserPlan;
use crate::cli::demo::view;
use crate::cli::error::CommandError;

/// Time before the deployment.
const BEFORE: Duration = Duration::from_secs(2);
/// Time for which the effect of a rollback or a promotion is watched.
const AFTER: Duration = Duration::from_secs(2);
/// Interval between two checks of the rollout.
const LOOK: Duration = Duration::from_millis(100);
/// Longest time between the first and the last member of a fleet that follow a change of a rollout.
const MOST_APART: Duration = Duration::from_secs(1);
/// Longest time that a rollout may take.
const LONGEST: Duration = Duration::from_secs(45);
/// The label of the release.
const LABEL: &str = "2.0.0";
/// Share of requests that the bad release fails, in percent.
const FAILING: u32 = 20;

/// The steps of the good story.
const GOOD: &str = r#"["10% for 3s", "50% for 3s", "100% for 3s"]"#;
/// The steps of the bad story. They are longer than the guard needs.
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

/// The course of a rollout.
struct RolloutWalk {
    /// Shares that it had, in order.
    shares: Vec<String>,
    /// Last status of the rollout.
    last: RolloutStatus,
    /// Time at which the rollout ended.
    ended: Instant,
    /// The rollout on the members of a fleet, if there is one.
    members: Option<MembersWatch>,
}

/// Deploys the release and follows its rollout to the end.
async fn deploy(stage: &StoryStage<'_>, tells_evidence: bool) -> Result<RolloutWalk, CommandError> {
    sleep(BEFORE).await;
    stage.say("the release is deployed, and its rollout begins:");
    let members = (stage.members() > 1).then(|| MembersWatch::start(stage.proxies()));
    let command = ["deploy", SERVICE, "v2", "--label", LABEL];
    stage.edit(&command).await?;
    if members.is_some() {
        stage.say("each proxy has a file of its own, so that the others get the release as well:");
    }
    for other in stage.others {
        stage.run_on(other, &command).await?;
    }
    if tells_evidence {
        stage.say(match &members {
            None => "every second the guard compares v2 with v1; evidence of 10^2 (99%) fails v2:",
            // Half of the 1% is left to the members' own guards.
            Some(_) => "every second one member compares v2 with v1, by what all have counted; evidence of 10^2.3 (99.5%) fails v2:",
        });
    }
    let walk = follow(stage, tells_evidence).await?;
    Ok(RolloutWalk { members, ..walk })
}

async fn follow(stage: &StoryStage<'_>, tells_evidence: bool) -> Result<RolloutWalk, CommandError> {
    let begun = Instant::now();
    let mut shares: Vec<String> = Vec::new();
    let (mut counted, mut held, mut driver) = (0, None, None);
    loop {
        let rollout = stage.rollout().await?.unwrap_or_default();
        let fleet = rollout.fleet.clone().unwrap_or_default();
        if fleet.driver.is_some() && driver != fleet.driver {
            driver = fleet.driver;
            tell_driver(stage, driver.as_deref().unwrap_or_default());
        }
        // A step is reported when its share is in force, which is a moment after it has begun.
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
                members: None,
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

/// Reports which member drives the rollout.
fn tell_driver(stage: &StoryStage<'_>, driver: &str) {
    let names: Vec<String> = (0..stage.members()).map(name).collect();
    let members = listed(&names);
    stage.say(&format!(
        "{members} share the rollout; {driver} drives it, and judges what all of them count"
    ));
}

/// Reports the step before, if there was one, and the one that begins.
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

/// The failures that the guard has counted, in words.
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

/// Adds the longest time between the members of a fleet in a state with these shares.
fn add_together(end: &mut StoryEnd, walk: &RolloutWalk, (state, shares): (&str, &[String])) {
    let Some(members) = &walk.members else { return };
    let spreads: Option<Vec<Duration>> = { shares.iter() }
        .map(|share| members.spread(state, share))
        .collect();
    // Without a share there is nothing to compare.
    let Some(most) = spreads.and_then(|spreads| spreads.into_iter().max()) else {
        end.check(false, "not all members followed the rollout");
        return;
    };
    end.fact(
        "together",
        format!("all members within {} of each other", shown(most)),
    );
    end.check(most < MOST_APART, "members followed late");
    if let Some(fleet) = &walk.last.fleet {
        let driver = fleet.driver.as_deref().unwrap_or_default();
        end.fact(
            "counted by",
            format!("{} proxies, added up by {driver}", fleet.counting),
        );
    }
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
    let rolled_back = ["0%".to_owned()];
    add_together(&mut end, &walk, ("rolled-back", &rolled_back[..]));
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

/// Adds the reason of the rollback, and that the plan is latched.
fn add_verdict(end: &mut StoryEnd, rollout: &RolloutStatus) {
    end.fact("reason", rollout.reason.clone().unwrap_or_default());
    let (evidence, threshold) = (rollout.total_evidence, rollout.threshold);
    let value = match &rollout.fleet {
        None => format!("10^{evidence:.1}; a verdict needs 10^{threshold:.1} (99%)"),
        Some(_) if evidence >= threshold => {
            format!("10^{evidence:.1}; a verdict needs 10^{threshold:.1} (99.5%)")
        }
        Some(_) => format!(
            "10^{evidence:.1} of 10^{threshold:.1} by what all have counted; the guard of one member was certain before, and its veto is for all"
        ),
    };
    end.fact("evidence", value);
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
    let all_stable = stage.stable().await?;
    let stable = &all_stable[0];
    let users = stage.users.borrow();
    let back = users.moves("v2", "v1");
    let tally = stage.tally.borrow();
    let (all, failed) = (tally.requests(), tally.failures());
    end.fact("steps", walk.shares.join(", "));
    let files = match all_stable.len() {
        1 => "by a line of the file".to_owned(),
        files => format!("by a line of each of the {files} files"),
    };
    end.fact("stable", format!("{stable}, {files}"));
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
    // The first step begins while the files are edited one after the other.
    let later = walk.shares.get(1..).unwrap_or_default();
    add_together(&mut end, &walk, ("step", later));
    let is_stable = all_stable.iter().all(|stable| stable == "v2");
    end.check(is_stable, "v2 isn't stable");
    end.check(back == 0, "users moved back");
    end.check(failed == 0, "requests failed");
    Ok(end)
}
