//! The answers that the proxy gives to requests itself, and the edits of requests: by service, rule and version.

use super::header_edits::EditTable;
use crate::config::actions::{Answer, Rewrite};
use crate::config::spec;
use crate::index::RuleIx;
use crate::routing::AnsweredBy;

/// The answers of a service, of its rules and of its versions, and how requests are edited.
#[derive(Debug)]
pub struct ServiceActions {
    service: Option<Answer>,
    rules: Box<[Option<Answer>]>,
    versions: Box<[Option<Answer>]>,
    /// Rewrites of the service, and after it of each rule. Empty if there is none.
    rewrites: Box<[Option<Rewrite>]>,
    /// Edits of header fields.
    pub(crate) edits: EditTable,
}

impl ServiceActions {
    pub(super) fn new(spec: &spec::ServiceSpec) -> Self {
        let rules = spec.rules.iter().map(|rule| rule.actions.answer.clone());
        let versions = { spec.versions.iter() }.map(|version| version.actions.answer.clone());
        let of_rules = spec.rules.iter().map(|rule| &rule.actions.rewrite);
        let rewrites = [&spec.actions.rewrite].into_iter().chain(of_rules).cloned();
        let rewrites: Box<[_]> = rewrites.collect();
        Self {
            service: spec.actions.answer.clone(),
            rules: rules.collect(),
            versions: versions.collect(),
            rewrites: match rewrites.iter().any(Option::is_some) {
                true => rewrites,
                false => Box::default(),
            },
            edits: EditTable::new(spec),
        }
    }

    /// The answer that a decision refers to.
    pub fn answer(&self, by: AnsweredBy) -> Option<&Answer> {
        match by {
            AnsweredBy::Service => self.service.as_ref(),
            AnsweredBy::Rule(rule) => self.rules[rule.0].as_ref(),
            AnsweredBy::Version(version) => self.versions[version.0].as_ref(),
        }
    }

    /// How requests that this rule matches are rewritten: as the rule says, else as the service does.
    #[inline]
    pub fn rewrite(&self, rule: Option<RuleIx>) -> Option<&Rewrite> {
        let (service, rules) = self.rewrites.split_first()?;
        rule.and_then(|rule| rules[rule.0].as_ref())
            .or(service.as_ref())
    }
}
