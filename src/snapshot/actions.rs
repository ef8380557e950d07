//! What the proxy does with the requests of a service itself, by what decided about them.

use crate::config::actions::Answer;
use crate::config::spec;
use crate::routing::AnsweredBy;

/// The answers of a service, of its rules and of its versions.
#[derive(Debug)]
pub(crate) struct ServiceActions {
    service: Option<Answer>,
    rules: Box<[Option<Answer>]>,
    versions: Box<[Option<Answer>]>,
}

impl ServiceActions {
    pub(super) fn new(spec: &spec::ServiceSpec) -> Self {
        let rules = spec.rules.iter().map(|rule| rule.actions.answer.clone());
        let versions = { spec.versions.iter() }.map(|version| version.actions.answer.clone());
        Self {
            service: spec.actions.answer.clone(),
            rules: rules.collect(),
            versions: versions.collect(),
        }
    }

    /// The answer that a decision refers to.
    pub(crate) fn answer(&self, by: AnsweredBy) -> Option<&Answer> {
        match by {
            AnsweredBy::Service => self.service.as_ref(),
            AnsweredBy::Rule(rule) => self.rules[rule].as_ref(),
            AnsweredBy::Version(version) => self.versions[version].as_ref(),
        }
    }
}
