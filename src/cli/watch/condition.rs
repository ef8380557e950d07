//! The condition of a service in a few words, and its urgency.

use super::figures::{BAD_ERRORS, NOTED_ERRORS};
use super::series::figures;
use crate::admin::status::{ServiceStatus, VersionStatus};

/// Urgency of a service; the most urgent are listed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Clients get errors, or a version was taken back.
    Bad,
    /// A condition that waits for an operator or is not as configured.
    Warning,
    /// A rollout is under way.
    Moving,
    Calm,
}

/// The most urgent condition of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceCondition {
    pub urgency: Urgency,
    pub text: String,
}

impl ServiceCondition {
    /// The most urgent of all conditions of a service.
    pub(super) fn of(service: &ServiceStatus) -> Self {
        let mut found = vec![errors(service), rollout(service)];
        found.extend(service.versions.iter().map(|v| endpoints(v, service)));
        found.extend(service.awaiting.iter().map(|version| {
            let text = format!("{version} waits for a passing check");
            Some(Self::new(Urgency::Warning, text))
        }));
        if let Some(warning) = service.warnings.first() {
            found.push(Some(Self::new(Urgency::Warning, warning)));
        }
        if let Some(group) = service.new_errors.first() {
            found.push(Some(Self::new(
                Urgency::Warning,
                format!("new: {}", group.line()),
            )));
        }
        if let Some(answer) = &service.answer {
            found.push(Some(Self::new(
                Urgency::Calm,
                format!("answers itself: {answer}"),
            )));
        }
        let most = found.into_iter().flatten().min_by_key(|c| c.urgency);
        most.unwrap_or_else(|| Self::new(Urgency::Calm, "ok"))
    }

    fn new(urgency: Urgency, text: impl Into<String>) -> Self {
        Self {
            urgency,
            text: text.into(),
        }
    }
}

fn errors(service: &ServiceStatus) -> Option<ServiceCondition> {
    let (_, ratio, _) = figures(service);
    let ratio = ratio?;
    let urgency = match ratio {
        BAD_ERRORS.. => Urgency::Bad,
        NOTED_ERRORS.. => Urgency::Warning,
        _ => return None,
    };
    let text = format!("{:.1} % errors", ratio * 100.0);
    Some(ServiceCondition::new(urgency, text))
}

fn rollout(service: &ServiceStatus) -> Option<ServiceCondition> {
    let rollout = service.rollout.as_ref()?;
    let urgency = match &*rollout.state {
        "rolled-back" if rollout.latched => Urgency::Bad,
        "aborted" if !rollout.latched => return None,
        "held" | "paused" | "awaiting-approval" | "aborted" => Urgency::Warning,
        "waiting" | "step" => Urgency::Moving,
        _ => return None,
    };
    let mut text = format!("{} {}", rollout.subject(), rollout.state);
    if rollout.step > 0 {
        text += &format!(" {}/{} at {}", rollout.step, rollout.steps, rollout.share);
    }
    if let Some(reason) = &rollout.reason {
        text += &format!(": {reason}");
    }
    Some(ServiceCondition::new(urgency, text))
}

fn endpoints(version: &VersionStatus, service: &ServiceStatus) -> Option<ServiceCondition> {
    let all = version.endpoints.len();
    let out = version.endpoints.iter().filter(|e| !e.is_usable()).count();
    let has_traffic = version.share != "0%";
    let name = &version.name;
    match (out, has_traffic) {
        (0, _) if all > 0 || !has_traffic || service.answer.is_some() => None,
        (0, _) => Some(ServiceCondition::new(
            Urgency::Bad,
            format!("{name} has no endpoint"),
        )),
        (out, true) if out == all => {
            let text = format!("no endpoint of {name} is usable");
            Some(ServiceCondition::new(Urgency::Bad, text))
        }
        (out, true) => {
            let text = format!("{out} of {all} endpoints of {name} are out");
            Some(ServiceCondition::new(Urgency::Warning, text))
        }
        // A version without traffic, such as one that is being replaced, is no problem yet.
        (_, false) => None,
    }
}
