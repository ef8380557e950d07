//! Decides when the queries of a plan are due, and evaluates their answers.

use std::time::{Duration, Instant};

use crate::config::rollout::QuerySpec;
use crate::control::outcall::prometheus::QueryAnswer;

/// The queries of a plan.
#[derive(Debug)]
pub(super) struct Queries(Vec<Query>);

#[derive(Debug)]
struct Query {
    spec: QuerySpec,
    asked: Option<Instant>,
    is_running: bool,
    misses: u32,
    /// Why there is no answer.
    unanswered: Option<String>,
}

impl Queries {
    pub(super) fn new(specs: &[QuerySpec]) -> Self {
        let query = |spec: &QuerySpec| Query {
            spec: spec.clone(),
            asked: None,
            is_running: false,
            misses: 0,
            unanswered: None,
        };
        Self(specs.iter().map(query).collect())
    }

    /// Drops earlier answers.
    pub(super) fn restart(&mut self) {
        for query in &mut self.0 {
            (query.misses, query.unanswered) = (0, None);
        }
    }

    /// The queries that are due, with their indices. They count as running until they are answered.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(usize, QuerySpec)> {
        let is_due = |query: &Query| {
            let age = |at: Instant| now.saturating_duration_since(at);
            // A query without an answer is asked again soon.
            let every = match query.unanswered {
                Some(_) => query.spec.every.min(Duration::from_secs(5)),
                None => query.spec.every,
            };
            !query.is_running && query.asked.is_none_or(|at| age(at) >= every)
        };
        let due = self
            .0
            .iter_mut()
            .enumerate()
            .filter(|(_, query)| is_due(query));
        due.map(|(at, query)| {
            (query.is_running, query.asked) = (true, Some(now));
            (at, query.spec.clone())
        })
        .collect()
    }

    /// Takes an answer. Returns why the rollout ends, if the query has missed too often.
    pub(super) fn answer(&mut self, at: usize, answer: QueryAnswer) -> Option<String> {
        let query = self.0.get_mut(at)?;
        query.is_running = false;
        query.unanswered = None;
        match answer {
            QueryAnswer::Pass(_) => query.misses = 0,
            QueryAnswer::Unanswered(why) => {
                query.unanswered = Some(format!("no answer to a query: {why}"))
            }
            QueryAnswer::Miss(found) => {
                query.misses += 1;
                if query.misses >= query.spec.fails {
                    let (operator, limit) = query.spec.pass;
                    return Some(format!(
                        "query `{}` is {found}, expected {operator} {limit} ({} in a row)",
                        query.spec.query, query.misses
                    ));
                }
            }
        }
        None
    }

    /// The reason why the clock of a step stands, if a query has no answer.
    pub(super) fn obstacle(&self) -> Option<&str> {
        self.0.iter().find_map(|query| query.unanswered.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rollout::Comparison;

    fn queries(fails: u32) -> Queries {
        Queries::new(&[QuerySpec {
            prometheus: "http://127.0.0.1:9090".to_owned(),
            query: "failed".to_owned(),
            pass: (Comparison::Less, 0.05),
            every: Duration::from_secs(30),
            fails,
            token_file: None,
        }])
    }

    #[test]
    fn misses_in_a_row_end_it_and_no_answer_holds_it() {
        let mut queries = queries(2);
        let missed = || QueryAnswer::Miss(0.2);
        assert_eq!(queries.answer(0, missed()), None);
        assert_eq!(queries.answer(0, QueryAnswer::Pass(0.0)), None);
        assert_eq!(queries.answer(0, missed()), None);
        queries.answer(0, QueryAnswer::Unanswered("timeout".to_owned()));
        assert_eq!(queries.obstacle(), Some("no answer to a query: timeout"));
        let end = queries.answer(0, missed()).unwrap();
        assert_eq!(end, "query `failed` is 0.2, expected < 0.05 (2 in a row)");
        assert_eq!(queries.obstacle(), None);
    }

    #[test]
    fn a_query_is_asked_when_it_is_due_and_not_while_it_runs() {
        let mut queries = queries(2);
        let start = Instant::now();
        assert_eq!(queries.due(start).len(), 1);
        let later = start + Duration::from_secs(31);
        assert!(queries.due(later).is_empty(), "it still runs");
        queries.answer(0, QueryAnswer::Pass(0.0));
        assert_eq!(queries.due(later).len(), 1);
        queries.answer(0, QueryAnswer::Unanswered("refused".to_owned()));
        assert_eq!(queries.due(later + Duration::from_secs(5)).len(), 1);
    }
}
