//! The outcome of a deployment, judged by the status of the running proxy.

use crate::admin::rollout::RolloutStatus;
use crate::admin::status::ProxyStatus;

/// The outcome of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum DeployOutcome {
    /// Not decided yet. Contains what the deployment waits for.
    Waiting(String),
    /// Not decided, and the proxy shows no rollout yet.
    Unknown,
    /// The version is stable, or has gone through all steps.
    Done(String),
    /// The rollout took the traffic back.
    RolledBack(String),
    /// The rollout waits for an operator.
    AwaitingApproval(String),
    /// A later edit or another program replaced the deployment.
    Replaced(String),
}

/// Judges the deployment of `version` that runs since `generation`.
pub(super) fn judge(
    status: &ProxyStatus,
    (service, version): (&str, &str),
    generation: u64,
) -> DeployOutcome {
    if status.adopted < generation.max(status.generation) {
        return DeployOutcome::Waiting("waiting until every worker has adopted it".to_owned());
    }
    let Some(found) = status.services.iter().find(|s| s.name == service) else {
        return DeployOutcome::Replaced(format!("service `{service}` is no longer configured"));
    };
    if found.stable == version {
        return match found.awaiting.iter().any(|v| v == version) {
            true => DeployOutcome::Waiting(format!(
                "waiting until an endpoint of {version} passes its health check"
            )),
            false => DeployOutcome::Done(format!("{version} is stable")),
        };
    }
    match &found.rollout {
        Some(rollout) if rollout.version == version => of_rollout(rollout),
        Some(other) => DeployOutcome::Replaced(format!("{} is under a rollout", other.subject())),
        None if found
            .split
            .desired
            .get(version)
            .is_some_and(|d| d == "rollout") =>
        {
            DeployOutcome::Unknown
        }
        None => DeployOutcome::Replaced(format!(
            "{version} has neither a rollout nor the stable role any more"
        )),
    }
}

fn of_rollout(rollout: &RolloutStatus) -> DeployOutcome {
    let share = &rollout.share;
    let place = format!("step {} of {} at {share}", rollout.step, rollout.steps);
    let with_reason = |text: String| match &rollout.reason {
        Some(reason) => format!("{text}: {reason}"),
        None => text,
    };
    let version = &rollout.version;
    match rollout.state.as_str() {
        "done" => DeployOutcome::Done(format!("{version} has passed all steps and has {share}")),
        "rolled-back" => {
            DeployOutcome::RolledBack(with_reason(format!("{version} was rolled back")))
        }
        "aborted" => {
            DeployOutcome::RolledBack(with_reason(format!("the rollout of {version} was aborted")))
        }
        "awaiting-approval" => DeployOutcome::AwaitingApproval(with_reason(format!(
            "{version} awaits approval, {place}"
        ))),
        "waiting" => DeployOutcome::Waiting(with_reason(format!("{version} is waiting"))),
        "step" => DeployOutcome::Waiting(with_reason(place)),
        state => DeployOutcome::Waiting(with_reason(format!("{state}, {place}"))),
    }
}

/// The rollout of a version, for the report.
pub(super) fn rollout<'s>(
    status: &'s ProxyStatus,
    (service, version): (&str, &str),
) -> Option<&'s RolloutStatus> {
    let service = status.services.iter().find(|s| s.name == service)?;
    service.rollout.as_ref().filter(|r| r.version == version)
}

/// The evidence of a rollout in lines: one for each rule of the guard.
pub(super) fn evidence(rollout: &RolloutStatus) -> Vec<String> {
    let rows = rollout.evidence.iter();
    let mut lines: Vec<String> = rows
        .map(|(rule, log10)| format!("evidence {rule}: {log10:.2} (log10)"))
        .collect();
    if !lines.is_empty() {
        let (total, threshold) = (rollout.total_evidence, rollout.threshold);
        lines.push(format!(
            "total evidence: {total:.2}, threshold: {threshold:.2} (log10)"
        ));
    }
    let counted = &rollout.counted;
    if counted.canary_requests > 0 {
        lines.push(format!(
            "{} of {} requests failed, on stable {} of {}",
            counted.canary_failures,
            counted.canary_requests,
            counted.stable_failures,
            counted.stable_requests
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What the status of a proxy with these services says about the deployment of v2.
    fn judged_by(services: &[Value], adopted: u64) -> DeployOutcome {
        let status = json!({
            "version": "", "pid": 1, "phase": "ready", "generation": 4, "adopted": adopted, "uptime_s": 1,
            "config": { "path": "cutover.toml", "hash": "", "ok": true },
            "listeners": [], "services": services,
        });
        let status: ProxyStatus = serde_json::from_value(status).unwrap();
        judge(&status, ("shop", "v2"), 4)
    }

    fn judged(mut service: Value, adopted: u64) -> DeployOutcome {
        service["name"] = json!("shop");
        service["versions"] = json!([]);
        if service.get("split").is_none() {
            let shares = json!({ "v2": "rollout" });
            service["split"] = json!({ "desired": shares, "effective": {} });
        }
        judged_by(&[service], adopted)
    }

    fn state(state: &str, reason: Option<&str>) -> DeployOutcome {
        let rollout = json!({
            "version": "v2", "label": "1.1", "state": state, "step": 2, "steps": 5, "share": "5%", "reason": reason,
            "evidence": { "errors x1.5": 2.4 }, "total_evidence": 2.5, "threshold": 2.0,
        });
        judged(json!({ "stable": "v1", "rollout": rollout }), 4)
    }

    #[test]
    fn a_cut_over_is_done_when_the_gate_has_opened() {
        let stable = json!({ "stable": "v2" });
        assert!(matches!(
            judged(stable.clone(), 3),
            DeployOutcome::Waiting(_)
        ));
        assert!(matches!(judged(stable, 4), DeployOutcome::Done(_)));
        let held = json!({ "stable": "v2", "awaiting": ["v2"] });
        assert!(matches!(judged(held, 4), DeployOutcome::Waiting(_)));
        let other = json!({ "stable": "v2", "awaiting": ["v3"] });
        assert!(matches!(judged(other, 4), DeployOutcome::Done(_)));
    }

    #[test]
    fn each_state_of_a_rollout_has_an_outcome() {
        assert_eq!(
            state("step", None),
            DeployOutcome::Waiting("step 2 of 5 at 5%".into())
        );
        assert_eq!(
            state("held", Some("too few requests")),
            DeployOutcome::Waiting("held, step 2 of 5 at 5%: too few requests".into())
        );
        assert!(matches!(state("paused", None), DeployOutcome::Waiting(_)));
        assert!(matches!(state("waiting", None), DeployOutcome::Waiting(_)));
        assert!(matches!(state("done", None), DeployOutcome::Done(_)));
        let worse = state("rolled-back", Some("errors x1.5"));
        assert_eq!(
            worse,
            DeployOutcome::RolledBack("v2 was rolled back: errors x1.5".into())
        );
        assert!(matches!(
            state("aborted", None),
            DeployOutcome::RolledBack(_)
        ));
        let approval = state("awaiting-approval", None);
        assert!(matches!(approval, DeployOutcome::AwaitingApproval(_)));
    }

    #[test]
    fn a_deployment_that_is_gone_is_replaced() {
        let none = judged(json!({ "stable": "v1" }), 4);
        assert_eq!(none, DeployOutcome::Unknown);
        let split = json!({ "desired": { "v2": "0%" }, "effective": {} });
        let edited = judged(json!({ "stable": "v1", "split": split }), 4);
        assert!(matches!(edited, DeployOutcome::Replaced(_)), "{edited:?}");
        let other = json!({ "version": "v3", "state": "step" });
        let other = judged(json!({ "stable": "v1", "rollout": other }), 4);
        assert!(matches!(other, DeployOutcome::Replaced(_)), "{other:?}");
        let gone = judged_by(&[], 4);
        assert!(matches!(gone, DeployOutcome::Replaced(_)), "{gone:?}");
    }

    #[test]
    fn the_evidence_is_listed() {
        let rollout = json!({
            "version": "v2", "state": "rolled-back", "evidence": { "errors x1.5": 2.4, "p99 x1.3": -0.5 },
            "total_evidence": 2.5, "threshold": 2.0,
            "counted": { "canary_requests": 20, "canary_failures": 9, "stable_requests": 100, "stable_failures": 1 },
        });
        let rollout: RolloutStatus = serde_json::from_value(rollout).unwrap();
        let expected = [
            "evidence errors x1.5: 2.40 (log10)",
            "evidence p99 x1.3: -0.50 (log10)",
            "total evidence: 2.50, threshold: 2.00 (log10)",
            "9 of 20 requests failed, on stable 1 of 100",
        ];
        assert_eq!(evidence(&rollout), expected);
    }
}
