//! The rules of one service.
//!
//! All conditions of a rule must hold. A condition holds when any of its patterns takes any of the values: a field, cookie
//! or parameter that occurs several times has several. What is absent has none, so that not even `*` takes it.
//! A query parameter's value is compared as typed and as decoded.
//!
//! Rules are not asked one after the other. Each is filed under one of its conditions, its lead, by what that looks at:
//! what several leads look at is looked up once, all their exact values are one hash lookup however many there are, and a
//! rule itself is looked at only where its lead holds.

use std::collections::HashMap;
use std::net::IpAddr;

use super::map::Map;
use super::{RequestView, extract, glob};
use crate::config::spec::{self, Condition, Pattern, Subject};

/// So many rules may fail after their lead held; then the rest are asked one by one. It bounds what a request can cost
/// that repeats a field: no more than a few times what asking one by one costs.
const TRIES: usize = 4;

/// Compiled rules.
#[derive(Debug, Default)]
pub struct Matcher {
    rules: Box<[CompiledRule]>,
    /// In the order of their first rules.
    leads: Box<[Leads]>,
}

#[derive(Debug)]
struct CompiledRule {
    /// The lead, then the others: what is cheap to look at before what is not.
    when: Box<[Condition]>,
    to: usize,
}

/// All leads that look at the same thing.
#[derive(Debug)]
struct Leads {
    subject: Subject,
    /// Rules that are filed here are from this one...
    first: usize,
    /// ...to this one.
    last: usize,
    /// The rules that take a value, in order.
    same: Map<Vec<usize>>,
    /// What must be tried, with its rule, in order.
    like: Vec<(usize, Pattern)>,
}

impl Matcher {
    /// Compiles the rules.
    pub fn new(rules: &[spec::RuleSpec]) -> Self {
        let census = ConditionCounts::of(rules);
        let rules: Box<[CompiledRule]> = rules
            .iter()
            .map(|rule| {
                let mut when = rule.when.clone();
                when.sort_by_key(|condition| look_up(&condition.subject));
                let lead = (0..when.len()).min_by_key(|at| census.price(&when[*at]));
                when[..=lead.expect("a rule has conditions")].rotate_right(1);
                CompiledRule {
                    when: when.into(),
                    to: rule.to,
                }
            })
            .collect();
        let mut leads: Vec<Leads> = Vec::new();
        let mut places = HashMap::new();
        for (index, rule) in rules.iter().enumerate() {
            let lead = &rule.when[0];
            let place = *places.entry(&lead.subject).or_insert(leads.len());
            if place == leads.len() {
                leads.push(Leads::of(&lead.subject, index));
            }
            leads[place].file(index, lead);
        }
        Self {
            leads: leads.into(),
            rules,
        }
    }

    /// The first rule whose conditions all hold: its index and its version.
    ///
    /// Budget: 2,400 instructions (`just instructions`: match_rules).
    /// Budget: 620 instructions (`just instructions`: match_few).
    /// Budget: 620 instructions (`just instructions`: match_many).
    #[inline]
    pub fn find(&self, request: &impl RequestView) -> Option<(usize, usize)> {
        let mut from = 0;
        for _ in 0..TRIES {
            let index = self.led(request, from)?;
            let rule = &self.rules[index];
            if rule.when[1..].iter().all(|also| holds(also, request)) {
                return Some((index, rule.to));
            }
            from = index + 1;
        }
        let holds =
            |rule: &CompiledRule| rule.when.iter().all(|condition| holds(condition, request));
        let index = from + self.rules[from..].iter().position(holds)?;
        Some((index, self.rules[index].to))
    }

    /// The first rule, from this one on, whose lead holds.
    fn led(&self, request: &impl RequestView, from: usize) -> Option<usize> {
        let mut best = self.rules.len();
        for leads in &self.leads {
            if leads.first >= best {
                break;
            }
            if leads.last >= from {
                let least = from.max(leads.first);
                any_value(&leads.subject, request, |value| {
                    best = leads.first_taking(value, from, best);
                    best == least
                });
            }
        }
        (best < self.rules.len()).then_some(best)
    }
}

impl Leads {
    fn of(subject: &Subject, first: usize) -> Self {
        Self {
            subject: subject.clone(),
            first,
            last: first,
            same: Map::default(),
            like: Vec::new(),
        }
    }

    fn file(&mut self, rule: usize, lead: &Condition) {
        self.last = rule;
        for pattern in &lead.patterns {
            match key(&lead.subject, pattern) {
                Some(key) => {
                    let rules = self.same.entry(key).or_default();
                    if rules.last() != Some(&rule) {
                        rules.push(rule);
                    }
                }
                None => self.like.push((rule, pattern.clone())),
            }
        }
    }

    /// The first rule, from `from` up to `below`, whose lead takes the value; `below` if there is none.
    fn first_taking(&self, value: MatchValue<'_>, from: usize, below: usize) -> usize {
        let same = match value {
            MatchValue::Text(text) => self.same.get(text),
            MatchValue::Client(IpAddr::V4(client)) => self.same.get(&client.octets()[..]),
            MatchValue::Client(IpAddr::V6(client)) => self.same.get(&client.octets()[..]),
        };
        let same = same.and_then(|rules| rules.get(rules.partition_point(|rule| *rule < from)));
        let below = same.map_or(below, |rule| below.min(*rule));
        let from = self.like.partition_point(|(rule, _)| *rule < from);
        let mut like = self.like[from..]
            .iter()
            .take_while(|(rule, _)| *rule < below);
        like.find(|(_, pattern)| takes(pattern, value))
            .map_or(below, |(rule, _)| *rule)
    }
}

/// How often the rules ask the same.
struct ConditionCounts<'r> {
    subjects: HashMap<&'r Subject, usize>,
    keys: HashMap<(&'r Subject, Box<[u8]>), usize>,
}

impl<'r> ConditionCounts<'r> {
    fn of(rules: &'r [spec::RuleSpec]) -> Self {
        let mut census = Self {
            subjects: HashMap::new(),
            keys: HashMap::new(),
        };
        for condition in rules.iter().flat_map(|rule| &rule.when) {
            let subject = &condition.subject;
            *census.subjects.entry(subject).or_default() += 1;
            for key in condition.patterns.iter().filter_map(|p| key(subject, p)) {
                *census.keys.entry((subject, key)).or_default() += 1;
            }
        }
        census
    }

    /// What a rule costs a request, in instructions or so, with this condition as its lead: its part of looking the subject up, the
    /// patterns that must be tried, and the other rules that the same value brings up.
    fn price(&self, condition: &Condition) -> usize {
        let subject = &condition.subject;
        let tried = |pattern: &Pattern| match (key(subject, pattern), pattern) {
            (Some(key), _) => 10 * (self.keys[&(subject, key)] - 1),
            (None, Pattern::Regex(_)) => 200,
            (None, Pattern::Glob(_)) => 40,
            (None, _) => 10,
        };
        let tried: usize = condition.patterns.iter().map(tried).sum();
        look_up(subject) / self.subjects[subject] + tried
    }
}

/// What it costs to find the values, in instructions or so.
fn look_up(subject: &Subject) -> usize {
    match subject {
        Subject::Method | Subject::Ip => 5,
        Subject::Path => 10,
        Subject::Header(_) => 150,
        Subject::Query(_) => 200,
        Subject::Cookie(_) => 400,
    }
}

/// What a pattern's value must be, where it can be but one.
fn key(subject: &Subject, pattern: &Pattern) -> Option<Box<[u8]>> {
    match (subject, pattern) {
        (Subject::Ip, Pattern::Net(net)) if net.prefix_len() == net.max_prefix_len() => {
            Some(match net.addr() {
                IpAddr::V4(client) => client.octets().into(),
                IpAddr::V6(client) => client.octets().into(),
            })
        }
        (Subject::Ip, _) => None,
        (_, Pattern::Exact(text)) => Some(text.as_bytes().into()),
        _ => None,
    }
}

/// What a condition looks at in a request.
#[derive(Clone, Copy)]
enum MatchValue<'a> {
    Text(&'a [u8]),
    Client(IpAddr),
}

fn holds(condition: &Condition, request: &impl RequestView) -> bool {
    any_value(&condition.subject, request, |value| {
        condition.patterns.iter().any(|p| takes(p, value))
    })
}

/// Calls `see` with each value, until it returns `true`; says whether it did.
fn any_value(
    subject: &Subject,
    request: &impl RequestView,
    mut see: impl FnMut(MatchValue<'_>) -> bool,
) -> bool {
    match subject {
        Subject::Header(name) => request.any_field(name, &mut |value| see(MatchValue::Text(value))),
        Subject::Cookie(name) => extract::any_cookie(request, name.as_bytes(), |value| {
            see(MatchValue::Text(value))
        }),
        Subject::Query(name) => extract::any_parameter(request, name.as_bytes(), |raw| {
            see(MatchValue::Text(raw))
                || (extract::is_encoded(raw) && see(MatchValue::Text(&extract::decoded(raw))))
        }),
        Subject::Path => see(MatchValue::Text(request.path())),
        Subject::Method => see(MatchValue::Text(request.method())),
        // An IPv4 client on an IPv6 socket is an IPv4 client.
        Subject::Ip => see(MatchValue::Client(request.client().to_canonical())),
    }
}

fn takes(pattern: &Pattern, value: MatchValue<'_>) -> bool {
    match (pattern, value) {
        (Pattern::Exact(text), MatchValue::Text(value)) => text.as_bytes() == value,
        (Pattern::Glob(text), MatchValue::Text(value)) => glob::matches(text.as_bytes(), value),
        (Pattern::Regex(regex), MatchValue::Text(value)) => regex.is_match(value),
        (Pattern::Net(net), MatchValue::Client(client)) => net.contains(&client),
        _ => false,
    }
}

#[cfg(test)]
#[path = "matcher_tests.rs"]
mod tests;
