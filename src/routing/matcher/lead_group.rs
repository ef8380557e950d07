//! The rules whose leads look at the same subject, and the search for the first of them that a request may match.

use super::super::RequestView;
use super::super::map::Map;
use super::attribute::Attribute;
use super::kinds::{exact_value, with_attribute};
use crate::config::spec::{Condition, Pattern, Subject};

/// The leads that look at one subject. Rules are given by their indices.
#[derive(Debug)]
pub(super) struct LeadGroup {
    pub(super) subject: Subject,
    /// The first and the last rule of the group; rules of other groups may lie between them.
    pub(super) first: usize,
    pub(super) last: usize,
    /// For each exact value, the rules that it satisfies, in order.
    pub(super) by_value: Map<Vec<usize>>,
    /// The patterns that match more than one value, each with its rule, in the order of the rules.
    pub(super) by_pattern: Vec<(usize, Pattern)>,
}

impl LeadGroup {
    /// An empty group, whose first rule will be `first`.
    pub(super) fn new(subject: &Subject, first: usize) -> Self {
        Self {
            subject: subject.clone(),
            first,
            last: first,
            by_value: Map::default(),
            by_pattern: Vec::new(),
        }
    }

    /// Adds a rule with its lead. Rules are added in order.
    pub(super) fn add(&mut self, rule: usize, lead: &Condition) {
        self.last = rule;
        for pattern in &lead.patterns {
            match exact_value(&lead.subject, pattern) {
                Some(value) => {
                    let rules = self.by_value.entry(value).or_default();
                    // A lead may name the same value twice.
                    if rules.last() != Some(&rule) {
                        rules.push(rule);
                    }
                }
                None => self.by_pattern.push((rule, pattern.clone())),
            }
        }
    }

    /// The first rule in `from..below` whose lead holds for the request; `below` if there is none.
    pub(super) fn first_candidate(
        &self,
        request: &impl RequestView,
        from: usize,
        below: usize,
    ) -> usize {
        with_attribute!(&self.subject, |attribute| {
            // No candidate can come before this one, so that the remaining values need not be looked at.
            let earliest = from.max(self.first);
            let mut best = below;
            attribute.any_value(request, |value| {
                best = self.first_match(&attribute, value, from, best);
                best == earliest
            });
            best
        })
    }

    /// The first rule in `from..below` whose lead matches this value; `below` if there is none.
    fn first_match(
        &self,
        attribute: &impl Attribute,
        value: &[u8],
        from: usize,
        below: usize,
    ) -> usize {
        let exact = self.by_value.get(value).and_then(|rules| {
            let start = rules.partition_point(|rule| *rule < from);
            rules.get(start)
        });
        let below = exact.map_or(below, |rule| below.min(*rule));
        // A pattern of a later rule can't improve on the exact match, so that it isn't tried.
        let start = self.by_pattern.partition_point(|(rule, _)| *rule < from);
        self.by_pattern[start..]
            .iter()
            .take_while(|(rule, _)| *rule < below)
            .find(|(_, pattern)| attribute.matches(pattern, value))
            .map_or(below, |(rule, _)| *rule)
    }
}
