//! The status of a rollout, for the API.

use std::f64::consts::LN_10;
use std::time::{Duration, Instant, SystemTime};

use super::service::ServiceRollout;
use crate::admin::rollout::{
    CountedStatus, RatioStatus, RolloutStatus, SharedStatus, VerdictStatus,
};
use crate::config::rollout::StepHold;
use crate::config::spec::Share;
use crate::rollout::state::{RolloutPhase, SubjectKind};
use crate::rollout::store::StoreError;

/// The status of a service's rollout; `None` without one.
pub(super) fn status(rollout: &ServiceRollout) -> Option<RolloutStatus> {
    let Some(state) = rollout.state() else {
        return damaged(rollout).or_else(|| apart(rollout));
    };
    let guard = rollout.deciding_guard();
    let evidence = guard.evidence().into_iter();
    let step = state
        .step
        .checked_sub(1)
        .and_then(|at| rollout.plan.steps.get(at));
    let hold_s = step.and_then(|step| match step.hold {
        StepHold::For(time) => Some(time.as_secs_f64() * if state.prolonged { 2.0 } else { 1.0 }),
        StepHold::Approval => None,
    });
    let counted = guard.counts();
    let estimate = guard.estimate();
    let bound = |bound: f64| (bound.is_finite() && bound > 0.0).then_some(bound);
    let verdict = match state.phase {
        RolloutPhase::Done => Some(("all", "pass")),
        _ => state.failed_rule.as_deref().map(|rule| (rule, "fail")),
    };
    let time = guard.time_to_verdict().filter(|_| !state.has_ended());
    Some(RolloutStatus {
        version: only(state.kind == SubjectKind::Version, &state.name).unwrap_or_default(),
        flag: only(state.kind == SubjectKind::Flag, &state.name),
        label: state.label.clone(),
        state: state.phase.to_string(),
        step: state.step,
        steps: rollout.plan.steps.len(),
        share: rollout.in_force().share.to_string(),
        since: rfc3339(state.since_s),
        held_s: state.held_ms as f64 / 1000.0,
        hold_s,
        reason: state.reason.clone(),
        latched: state.latch(&state.plan).is_some(),
        verdict: verdict.map(|(guard, outcome)| VerdictStatus {
            guard: guard.to_owned(),
            outcome: outcome.to_owned(),
        }),
        evidence: evidence.map(|e| (e.name, e.log_e / LN_10)).collect(),
        total_evidence: guard.total_evidence() / LN_10,
        threshold: guard.threshold() / LN_10,
        counted: CountedStatus {
            canary_requests: counted.canary.requests,
            canary_failures: counted.canary.events,
            stable_requests: counted.stable.requests,
            stable_failures: counted.stable.events,
        },
        ratio: estimate
            .ratio
            .filter(|ratio| ratio.is_finite())
            .map(|ratio| RatioStatus {
                ratio,
                low: bound(estimate.low),
                high: bound(estimate.high),
            }),
        time_to_verdict_s: time.map(|time| time.median),
        time_to_verdict_p90_s: time.map(|time| time.nine_of_ten),
        plan: state.plan.clone(),
        fleet: fleet(rollout),
        warnings: { rollout.store_error.iter() }
            .map(ToString::to_string)
            .chain(rollout.silence())
            .collect(),
    })
}

/// The driver of a rollout that a fleet shares, and this member's part in it.
fn fleet(rollout: &ServiceRollout) -> Option<SharedStatus> {
    let side = rollout.shared.as_ref()?;
    Some(SharedStatus {
        driver: Some(side.replica.driver().to_owned()).filter(|driver| !driver.is_empty()),
        is_driver: side.replica.is_driver(),
        term: side.replica.term(),
        counting: side.counting(),
        takes_part: rollout.why_apart().is_none(),
        lag_s: side.replica.silence(Instant::now()).as_secs_f64(),
    })
}

/// The status of a shared rollout that this member takes no part in.
fn apart(rollout: &ServiceRollout) -> Option<RolloutStatus> {
    let why = rollout.why_apart()?;
    let (kind, name) = rollout.rolling()?;
    Some(RolloutStatus {
        version: only(kind == SubjectKind::Version, name).unwrap_or_default(),
        flag: only(kind == SubjectKind::Flag, name),
        state: RolloutPhase::Waiting.to_string(),
        steps: rollout.plan.steps.len(),
        share: rollout.in_force().share.to_string(),
        since: rfc3339(0),
        reason: Some(why),
        fleet: fleet(rollout),
        warnings: rollout.silence().into_iter().collect(),
        ..RolloutStatus::default()
    })
}

/// The status of a rollout whose state can't be read.
fn damaged(rollout: &ServiceRollout) -> Option<RolloutStatus> {
    let error = rollout.store_error.as_ref()?;
    let (kind, name) = rollout.rolling()?;
    let effect = match (error, kind) {
        (StoreError::Corrupt(_), SubjectKind::Version) => "stable only: ",
        (StoreError::Corrupt(_), SubjectKind::Flag) => "off for all users: ",
        (StoreError::Conflict | StoreError::Io(_), _) => "",
    };
    Some(RolloutStatus {
        version: only(kind == SubjectKind::Version, name).unwrap_or_default(),
        flag: only(kind == SubjectKind::Flag, name),
        state: RolloutPhase::Held.to_string(),
        steps: rollout.plan.steps.len(),
        share: Share(0).to_string(),
        since: rfc3339(0),
        reason: Some(format!("{effect}{error}")),
        warnings: vec![error.to_string()],
        ..RolloutStatus::default()
    })
}

/// The name, if the subject is of this kind.
fn only(is: bool, name: &str) -> Option<String> {
    is.then(|| name.to_owned())
}

fn rfc3339(seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}
