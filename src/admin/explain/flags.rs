//! Explains which flags are on for a request.

use serde::{Deserialize, Serialize};

use super::Explanation;
use crate::admin::request::DescribedRequest;
use crate::admin::view;
use crate::config::flag::FlagSpec;
use crate::config::spec::{ServiceSpec, Share};
use crate::routing::{FlagDecision, FlagReason, ServiceRouting};

/// A flag, as the application would be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlagExplanation {
    /// Name of the flag.
    pub name: String,
    /// Whether the flag is on for the request.
    pub on: bool,
}

impl Explanation {
    /// Adds the flags of a request that is forwarded, with a sentence for each.
    pub(super) fn explain_flags(
        &mut self,
        spec: &ServiceSpec,
        routing: &ServiceRouting,
        request: &DescribedRequest,
    ) {
        for (spec, flag) in spec.flags.iter().zip(&routing.flags) {
            let decided = flag.decide(request, || routing.user(request));
            self.why.push(sentence(spec, flag.share, decided));
            self.flags.push(FlagExplanation {
                name: spec.name.clone(),
                on: decided.on,
            });
        }
    }
}

fn sentence(flag: &FlagSpec, share: Share, decided: FlagDecision) -> String {
    let name = &flag.name;
    let on = if decided.on { "on" } else { "off" };
    let why = match decided.reason {
        FlagReason::Targeted => view::when(&flag.when),
        FlagReason::Everyone => format!("its share is {share}"),
        FlagReason::User(point) => {
            format!(
                "the user's point for it is {:.5}, its share {share}",
                point.ratio()
            )
        }
        FlagReason::Unknown => {
            format!("the request has none of the cohort's keys, and its share is {share}")
        }
    };
    format!("flag {name} is {on}: {why}")
}
