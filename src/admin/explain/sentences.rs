//! The sentences about the steps of a decision.

use super::CohortExplanation;
use crate::admin::request::DescribedRequest;
use crate::admin::view;
use crate::config::spec::{self, Share};
use crate::index::{RuleIx, VersionIx};
use crate::routing::{AnsweredBy, Found};
use crate::snapshot::Service;

/// The service and the request that a decision is about, and sentences about its steps.
pub(super) struct Subject<'a> {
    pub(super) spec: &'a spec::ServiceSpec,
    pub(super) service: &'a Service,
    pub(super) request: &'a DescribedRequest,
    pub(super) now_s: u64,
}

impl Subject<'_> {
    fn name(&self, version: VersionIx) -> &str {
        &self.spec.versions[version].name
    }

    fn share(&self, version: VersionIx) -> Share {
        self.service.routing.split.share(version)
    }

    pub(super) fn preview(&self, version: VersionIx) -> String {
        format!(
            "the host is a preview host of version {} of service {}: the split does not apply",
            self.name(version),
            self.spec.name
        )
    }

    pub(super) fn rule(&self, rule: RuleIx, version: VersionIx) -> String {
        let (named, to) = (self.named_rule(rule), self.name(version));
        format!("{named} matches and sends it to {to}; the split does not apply")
    }

    pub(super) fn rule_edits(&self, rule: RuleIx) -> String {
        format!("{} matches, and names no version", self.named_rule(rule))
    }

    /// The number of a rule and its conditions.
    fn named_rule(&self, rule: RuleIx) -> String {
        let when = view::when(&self.spec.rules[rule.0].when);
        format!("rule {} ({when})", rule.0 + 1)
    }

    /// The limits on clients that the request counts for, of its rule and of the service.
    pub(super) fn limits(&self, found: Found) -> impl Iterator<Item = String> {
        let matcher = &self.service.routing.matcher;
        // Rules don't apply to preview hosts.
        let rule = match found.preview {
            Some(_) => None,
            None => matcher.find(self.request),
        };
        let of_rule = rule.and_then(|rule| {
            let rate = view::client_rate(self.spec.rules[rule].client_limits.as_ref()?)?;
            Some(format!(
                "{} matches and limits each client to {rate}",
                self.named_rule(rule)
            ))
        });
        let limits = self.spec.policies.client_limits.as_ref();
        let of_service = limits.and_then(view::client_rate).map(|rate| {
            let service = &self.spec.name;
            format!("service {service} limits each client to {rate}")
        });
        of_rule.into_iter().chain(of_service)
    }

    pub(super) fn answers(&self, by: AnsweredBy) -> String {
        let answer = { self.service.actions.answer(by) }.map(view::answer);
        let answer = answer.unwrap_or_default();
        match by {
            AnsweredBy::Rule(rule) => {
                format!("{} matches: {answer}", self.named_rule(rule))
            }
            AnsweredBy::Service => {
                format!("service {} answers by itself: {answer}", self.spec.name)
            }
            AnsweredBy::Version(version) => {
                format!("version {} answers by itself: {answer}", self.name(version))
            }
        }
    }

    /// `None` if the service has no rules.
    pub(super) fn no_rule(&self) -> Option<String> {
        match self.spec.rules.len() {
            0 => None,
            1 => Some("the only rule does not match".to_owned()),
            count => Some(format!("none of the {count} rules matches")),
        }
    }

    pub(super) fn stable(&self, version: VersionIx) -> String {
        let name = self.name(version);
        format!("no canary has a share: {name} is stable and gets all traffic")
    }

    pub(super) fn cohort(&self, key: usize, point: f64) -> CohortExplanation {
        let cohort = self.spec.cohort.as_ref();
        let key = cohort.map(|c| view::cohort_key(&c.by[key]));
        CohortExplanation {
            key: key.unwrap_or_default(),
            point,
        }
    }

    pub(super) fn in_cohort(&self, cohort: &CohortExplanation, version: VersionIx) -> String {
        format!(
            "{} puts this user at cohort point {:.5}, which belongs to {} ({})",
            cohort.key,
            cohort.point,
            self.name(version),
            self.share(version)
        )
    }

    /// Why the exact split decides although the service has a cohort; `None` if it has none.
    pub(super) fn no_cohort_key(&self) -> Option<String> {
        let cohort = self.spec.cohort.as_ref()?;
        let keys: Vec<_> = cohort.by.iter().map(view::cohort_key).collect();
        Some(format!(
            "it has none of the cohort's keys ({})",
            keys.join(", ")
        ))
    }

    pub(super) fn split(&self) -> String {
        let shares: Vec<_> = sharing(self.service)
            .map(|v| format!("{} {}", self.name(v), self.share(v)))
            .collect();
        format!(
            "the exact split picks a version for each request: {}",
            shares.join(", ")
        )
    }
}

/// The versions that have a share.
pub(super) fn sharing(service: &Service) -> impl Iterator<Item = VersionIx> {
    let split = &service.routing.split;
    let versions = split.versions();
    versions.filter(|v| split.share(*v) > Share(0))
}
