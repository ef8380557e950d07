//! Plans, facts and verdicts for tests.

use std::time::Duration;

use super::events::Facts;
use super::guard::{FailVerdict, GuardKind};
use super::machine::Machine;
use super::state::{RolloutState, SubjectName};
use crate::config::rollout::{
    GuardSpec, HookSpec, Hooks, RolloutSpec, RolloutStep, SmokeCheck, StepHold, UnknownPast,
};
use crate::config::spec::Share;

/// One second.
pub(super) const S: Duration = Duration::from_secs(1);

pub(super) fn share(percent: u32) -> Share {
    Share(percent * 1000)
}

pub(super) fn plan(steps: &[(u32, Option<u64>)]) -> RolloutSpec {
    let step = |(percent, seconds): &(u32, Option<u64>)| RolloutStep {
        share: share(*percent),
        hold: seconds.map_or(StepHold::Approval, |s| {
            StepHold::For(Duration::from_secs(s))
        }),
    };
    RolloutSpec {
        steps: steps.iter().map(step).collect(),
        guard: GuardSpec::default(),
        smoke: Vec::new(),
        hooks: Hooks::default(),
        notify: Vec::new(),
        queries: Vec::new(),
        unknown: UnknownPast::Start,
    }
}

pub(super) fn smoke() -> Vec<SmokeCheck> {
    vec![SmokeCheck {
        method: "GET".to_owned(),
        target: "/".to_owned(),
        headers: Vec::new(),
        body: None,
        status: (200, 200),
        expect_headers: Vec::new(),
        expect_json: None,
    }]
}

pub(super) fn hook() -> Option<HookSpec> {
    Some(HookSpec {
        url: "http://127.0.0.1:1/".to_owned(),
        timeout: S,
        retries: 0,
    })
}

pub(super) fn begin(plan: &RolloutSpec) -> Machine {
    let names = ("print", SubjectName::version("v2", Some("1.1.0")));
    Machine::new(RolloutState::default(), names, plan.unknown, true, 0).0
}

pub(super) fn facts(plan: &RolloutSpec) -> Facts<'_> {
    Facts {
        plan,
        max_share: None,
        in_force: Share(Share::WHOLE),
        gate_open: true,
        stable_usable: true,
        verdict: None,
        obstacle: None,
        leaning: false,
        enough_requests: true,
        requests: 500,
        proven: false,
        store_error: None,
    }
}

pub(super) fn failing() -> FailVerdict {
    FailVerdict {
        guard: "errors x1.5".to_owned(),
        reason: "the canary failed 9 of 10 requests".to_owned(),
        kind: GuardKind::Errors,
        log_e: 5.0,
    }
}
