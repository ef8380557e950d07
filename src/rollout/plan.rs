//! The identity of a plan: the parts that must change before another rollout begins.

use std::fmt::Write;

use xxhash_rust::xxh3::xxh3_64;

use crate::config::condition::Pattern;
use crate::config::flag::FlagSpec;
use crate::config::rollout::{
    ErrorLimit, GuardSpec, LatencyLimit, RolloutSpec, RolloutSubject, StepHold,
};
use crate::config::spec::{EndpointSpec, ServiceSpec, VersionSpec};

/// The fingerprint of the rollout of a service, as 16 hex digits: of the version, its label and endpoints, or the flag and its
/// conditions, then the steps and the guard. `None` if nothing follows a rollout.
///
/// The text that is hashed is spelt out here, so that it is the same in every release.
pub fn fingerprint(service: &ServiceSpec) -> Option<String> {
    let plan = service.rollout.as_ref()?;
    let mut text = String::new();
    match service.rolling? {
        RolloutSubject::Version(version) => write_version(&mut text, &service.versions[version]),
        RolloutSubject::Flag(flag) => write_flag(&mut text, &service.flags[flag]),
    }
    write_steps(&mut text, plan);
    write_guard(&mut text, &plan.guard);
    Some(format!("{:016x}", xxh3_64(text.as_bytes())))
}

fn write_version(text: &mut String, version: &VersionSpec) {
    let label = version.label.as_deref().unwrap_or("");
    // Writing to a string can't fail.
    let _ = writeln!(text, "version {}\nlabel {label}", version.name);
    let endpoint = |e: &EndpointSpec| format!("endpoint {e} {}\n", e.weight);
    let mut endpoints: Vec<String> = version.endpoints.iter().map(endpoint).collect();
    // The order in the file says nothing about the version.
    endpoints.sort_unstable();
    text.extend(endpoints);
}

fn write_flag(text: &mut String, flag: &FlagSpec) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "flag {}", flag.name);
    for conditions in &flag.when {
        text.push_str("when\n");
        for (what, list) in [("is", &conditions.all), ("not", &conditions.none)] {
            for condition in list {
                let _ = writeln!(text, "{what} {}", condition.subject);
                condition
                    .patterns
                    .iter()
                    .for_each(|pattern| write_pattern(text, pattern));
            }
        }
    }
}

fn write_pattern(text: &mut String, pattern: &Pattern) {
    let _ = match pattern {
        Pattern::Exact(value) => writeln!(text, "exact {value:?}"),
        Pattern::Glob(glob) => writeln!(text, "glob {glob:?}"),
        Pattern::Regex(regex) => writeln!(text, "regex {:?}", regex.as_str()),
        Pattern::Net(net) => writeln!(text, "net {net}"),
    };
}

fn write_steps(text: &mut String, plan: &RolloutSpec) {
    for step in &plan.steps {
        let _ = match step.hold {
            StepHold::For(time) => writeln!(text, "step {} {}", step.share.0, time.as_millis()),
            StepHold::Approval => writeln!(text, "step {} approval", step.share.0),
        };
    }
}

fn write_guard(text: &mut String, guard: &GuardSpec) {
    for limit in &guard.errors {
        let _ = match limit {
            ErrorLimit::Absolute(m) => writeln!(text, "errors {m}"),
            ErrorLimit::Difference(d) => writeln!(text, "errors +{d}"),
            ErrorLimit::Ratio(r) => writeln!(text, "errors x{r}"),
        };
    }
    for latency in &guard.latency {
        for limit in &latency.limits {
            let _ = match limit {
                LatencyLimit::Absolute(time) => {
                    writeln!(text, "{} {}us", latency.quantile, time.as_micros())
                }
                LatencyLimit::Ratio(r) => writeln!(text, "{} x{r}", latency.quantile),
            };
        }
    }
    for (goal, ratio) in &guard.goals {
        let _ = writeln!(text, "goal {goal} x{ratio}");
    }
    let _ = writeln!(
        text,
        "confidence {}\nmin_requests {}\non_silence {}\non_fail {}\nwarmup {}\nearly {}",
        guard.confidence,
        guard.min_requests,
        guard.on_silence,
        guard.on_fail,
        guard.warmup.as_millis(),
        guard.early
    );
}
