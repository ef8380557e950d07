//! The match rules of one service.
//!
//! A rule matches when all conditions of one of its alternatives hold, and none of those under `not`. A condition holds when any
//! of its patterns matches any of the values of its subject: a field, cookie or parameter that occurs several times has several
//! values, and an absent one has none, so that not even `*` matches it.
//!
//! The rules aren't tried one after the other. Each is filed under one of its conditions, its *lead*, in the [`LeadGroup`]
//! of the subject that the lead looks at. A request's value of that subject is then extracted once for all rules of the
//! group, all exact values cost one hash lookup however many rules there are, and the other conditions of a rule are
//! evaluated only if its lead holds.
//!
//! Each kind of condition is a file: see [`kinds`].

mod attribute;
mod client_fingerprint;
mod client_san;
mod client_subject;
mod cookie;
mod cost;
mod header;
mod ip;
mod kinds;
mod lead_group;
mod method;
mod path;
mod query;

use std::collections::HashMap;

use self::cost::ConditionCounts;
use self::kinds::{holds, lookup_cost};
use self::lead_group::LeadGroup;
use super::RequestView;
use crate::config::spec::{self, Condition};
use crate::index::RuleIx;
use crate::prefetch::PrefetchList;

/// Most candidates, rules whose lead holds, that are tried by the index. When that many fail on another condition, the
/// remaining rules are tried in order. A new search extracts the values again, so without this bound a request that
/// satisfies many leads and no rule would cost their number times the number of its values.
const INDEXED_TRIES: usize = 4;

/// The compiled rules.
///
/// Immutable. Its order of trial is only for speed: the result is always the first rule, in the order of the configuration, that
/// holds.
#[derive(Debug, Default)]
pub struct Matcher {
    /// The alternatives of all rules, in order.
    rules: Box<[CompiledRule]>,
    /// The groups of leads, in the order of their first rules.
    groups: Box<[LeadGroup]>,
    /// The alternatives without a lead, in order: they have only conditions that must not hold.
    leadless: Box<[usize]>,
}

/// A rule, or one of its alternatives.
#[derive(Debug)]
struct CompiledRule {
    /// The lead, then the other conditions by increasing cost of their lookup. Empty for a leadless rule.
    when: Box<[Condition]>,
    /// Conditions of which none may hold.
    none: Box<[Condition]>,
    /// Index of the rule.
    rule: RuleIx,
}

impl CompiledRule {
    fn new(rule: RuleIx, conditions: &spec::Conditions, counts: &ConditionCounts<'_>) -> Self {
        let mut when = conditions.all.clone();
        when.sort_by_key(|condition| lookup_cost(&condition.subject));
        let lead = (0..when.len()).min_by_key(|at| counts.lead_cost(&when[*at]));
        if let Some(lead) = lead {
            when[..=lead].rotate_right(1);
        }
        let mut none = conditions.none.clone();
        none.sort_by_key(|condition| lookup_cost(&condition.subject));
        Self {
            when: when.into(),
            none: none.into(),
            rule,
        }
    }

    /// Whether all conditions but the lead hold.
    #[inline]
    fn others_hold(&self, request: &impl RequestView) -> bool {
        let mut others = self.when.iter().skip(1);
        others.all(|condition| holds(condition, request)) && self.none_hold(request)
    }

    fn none_hold(&self, request: &impl RequestView) -> bool {
        !self.none.iter().any(|condition| holds(condition, request))
    }
}

impl Matcher {
    /// Adds what most requests need, besides the value itself: the beginning, as there may be many rules.
    pub(super) fn add_to(&self, list: &mut PrefetchList) {
        list.add_start(&*self.groups, 256);
        list.add_start(&*self.rules, 64);
        for group in self.groups.iter().take(2) {
            if let Some((value, rules)) = group.by_value.iter().next() {
                list.add(rules);
                list.add_start(&**value, 64);
            }
        }
    }

    /// Compiles the rules.
    pub fn new(rules: &[spec::RuleSpec]) -> Self {
        let counts = ConditionCounts::of(rules);
        let rules = RuleIx::enumerate(rules).flat_map(|(index, rule)| {
            let alternatives = rule.when.iter();
            alternatives.map(move |conditions| (index, conditions))
        });
        let rules = rules.map(|(rule, conditions)| CompiledRule::new(rule, conditions, &counts));
        let rules: Box<[CompiledRule]> = rules.collect();
        let mut groups: Vec<LeadGroup> = Vec::new();
        let mut group_of = HashMap::new();
        let mut leadless = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let Some(lead) = rule.when.first() else {
                leadless.push(index);
                continue;
            };
            let group = *group_of.entry(&lead.subject).or_insert(groups.len());
            if group == groups.len() {
                groups.push(LeadGroup::new(&lead.subject, index));
            }
            groups[group].add(index, lead);
        }
        Self {
            groups: groups.into(),
            leadless: leadless.into(),
            rules,
        }
    }

    /// The index of the first rule that matches.
    ///
    /// Budget: 2,170 instructions (`just instructions`: match_rules).
    /// Budget: 620 instructions (`just instructions`: match_few).
    /// Budget: 620 instructions (`just instructions`: match_many).
    #[inline]
    pub fn find(&self, request: &impl RequestView) -> Option<RuleIx> {
        // Most services have no rules, and their requests are spared the set-up of a search.
        if self.rules.is_empty() {
            return None;
        }
        self.search(request)
    }

    fn search(&self, request: &impl RequestView) -> Option<RuleIx> {
        let mut from = 0;
        for _ in 0..INDEXED_TRIES {
            let index = self.first_candidate(request, from)?;
            let rule = &self.rules[index];
            if rule.others_hold(request) {
                return Some(rule.rule);
            }
            from = index + 1;
        }
        let matches = |rule: &&CompiledRule| {
            rule.when.iter().all(|c| holds(c, request)) && rule.none_hold(request)
        };
        let found = self.rules[from..].iter().find(matches)?;
        Some(found.rule)
    }

    /// The first alternative, at or after `from`, whose lead holds or that has none.
    fn first_candidate(&self, request: &impl RequestView, from: usize) -> Option<usize> {
        let none = self.rules.len();
        let mut best = none;
        if !self.leadless.is_empty() {
            let next = self.leadless.partition_point(|rule| *rule < from);
            best = self.leadless.get(next).copied().unwrap_or(none);
        }
        for group in &self.groups {
            // The groups that follow begin later still: none of them has an earlier candidate.
            if group.first >= best {
                break;
            }
            if group.last >= from {
                best = group.first_candidate(request, from, best);
            }
        }
        (best < none).then_some(best)
    }
}

#[cfg(test)]
mod tests;
