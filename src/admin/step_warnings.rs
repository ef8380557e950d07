//! Warns of steps of a rollout that are too small for their guard at the traffic of the last minute.

use std::time::Duration;

use crate::config::rollout::StepHold;
use crate::config::spec::{ServiceSpec, Share};
use crate::rollout::guard::{StepTraffic, step_warning};
use crate::telemetry::windows::StatusWindows;

/// Time over which the traffic is measured.
const OVER: Duration = Duration::from_secs(60);

/// The traffic of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ServiceTraffic {
    /// Requests per second.
    pub rate: f64,
    /// Error rate of stable, from 0 to 1.
    pub stable_errors: f64,
}

impl ServiceTraffic {
    /// The traffic of the last minute.
    pub(crate) fn measured(windows: &StatusWindows, service: &ServiceSpec) -> Self {
        let red = |version: &str| windows.red(&service.name, version, OVER);
        let versions = service.versions.iter();
        Self {
            rate: versions.map(|version| red(&version.name).rate).sum(),
            stable_errors: red(service.stable_name()).error_ratio,
        }
    }
}

/// Returns a warning for each step of the service's plan that can't detect what its guard limits. Without traffic there is nothing
/// to compute with, and no warning. Steps that wait for an approval may last as long as they need.
pub(super) fn warnings(
    service: &ServiceSpec,
    traffic: impl FnOnce() -> ServiceTraffic,
) -> Vec<String> {
    let Some(plan) = &service.rollout else {
        return Vec::new();
    };
    let traffic = traffic();
    let numbered = (1..).zip(&plan.steps);
    let timed = numbered.filter_map(|(number, step)| match step.hold {
        StepHold::For(hold) => Some((number, step.share, hold)),
        StepHold::Approval => None,
    });
    timed
        .filter_map(|(number, share, hold)| {
            let hold_text = humantime::format_duration(hold).to_string();
            let step = format!("step {number} ({share} for {}", hold_text.replace(' ', ""));
            let traffic_of_step = StepTraffic {
                share: f64::from(share.0) / f64::from(Share::WHOLE),
                rate: traffic.rate,
                seconds: hold.as_secs_f64(),
            };
            step_warning(&plan.guard, &step, &traffic_of_step, traffic.stable_errors)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn only_steps_that_are_too_small_are_named() {
        let file = "listen = \":80\"\n[service.shop]\nstable = \"v1\"\nsplit = { v2 = \"rollout\" }\n\
                    versions = { v1 = [\"a:1\"], v2 = [\"b:1\"] }\n[service.shop.rollout]\n\
                    steps = [\"1% for 90s\", \"50% until approved\", \"50% for 1h\"]\n";
        let spec = config::parse(file, "t.toml").unwrap();
        let warned = |rate| {
            let stable_errors = 0.001;
            let traffic = ServiceTraffic {
                rate,
                stable_errors,
            };
            warnings(&spec.services[0], || traffic)
        };
        let busy = warned(500.0);
        assert_eq!(busy.len(), 1, "{busy:?}");
        let start = "step 1 (1% for 1m30s at 500 requests/s: about 450 canary requests)";
        assert!(busy[0].starts_with(start), "{busy:?}");
        assert_eq!(warned(1.0).len(), 2);
        assert!(warned(0.0).is_empty(), "nothing is known");
    }
}
