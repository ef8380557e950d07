//! Estimates which condition of a rule should be its lead: the one with the least cost per request.

use std::collections::HashMap;

use super::kinds::{exact_value, lookup_cost};
use crate::config::spec::{Condition, Pattern, RuleSpec, Subject};

/// The number of uses of each subject and each exact value in the rules of a service.
pub(super) struct ConditionCounts<'r> {
    subjects: HashMap<&'r Subject, usize>,
    exact: HashMap<(&'r Subject, Box<[u8]>), usize>,
}

impl<'r> ConditionCounts<'r> {
    pub(super) fn of(rules: &'r [RuleSpec]) -> Self {
        let mut counts = Self {
            subjects: HashMap::new(),
            exact: HashMap::new(),
        };
        let alternatives = rules.iter().flat_map(|rule| &rule.when);
        for condition in alternatives.flat_map(|conditions| &conditions.all) {
            let subject = &condition.subject;
            *counts.subjects.entry(subject).or_default() += 1;
            let patterns = condition.patterns.iter();
            for value in patterns.filter_map(|p| exact_value(subject, p)) {
                *counts.exact.entry((subject, value)).or_default() += 1;
            }
        }
        counts
    }

    /// Estimated cost per request, in instructions, of a rule whose lead is this condition. It is the sum of
    /// * the rule's part of looking up the subject, which all rules with this subject share,
    /// * the patterns that can't be looked up in a hash table and must be tried,
    /// * the other rules that become candidates for the same exact value.
    ///
    /// Panics if the condition isn't of one of the counted rules.
    pub(super) fn lead_cost(&self, condition: &Condition) -> usize {
        let subject = &condition.subject;
        let pattern_cost = |pattern: &Pattern| match (exact_value(subject, pattern), pattern) {
            (Some(value), _) => 10 * (self.exact[&(subject, value)] - 1),
            (None, Pattern::Regex(_)) => 200,
            (None, Pattern::Glob(_)) => 40,
            (None, _) => 10,
        };
        let patterns: usize = condition.patterns.iter().map(pattern_cost).sum();
        lookup_cost(subject) / self.subjects[subject] + patterns
    }
}
