//! `balance` and `hash_by`: how an endpoint is chosen.

use super::{rules, unknown_word};
use crate::config::problems::Problems;
use crate::config::raw::{Table, Value};
use crate::config::spec::{Balance, CohortKey};

const KNOWN: [(&str, Balance); 5] = [
    ("least_request", Balance::LeastRequest),
    ("round_robin", Balance::RoundRobin),
    ("peak_ewma", Balance::PeakEwma),
    ("hash", Balance::Hash),
    ("random", Balance::Random),
];

/// How, and by what a hash is made.
pub(super) fn balance(table: &mut Table<'_>, out: &mut Problems) -> (Balance, Vec<CohortKey>) {
    let before = out.len();
    let written = table.take("balance");
    let balance = written.as_ref().and_then(|value| read(value, out));
    let doubtful = out.len() > before;
    let balance = balance.unwrap_or_default();
    let Some(value) = table.take("hash_by") else {
        return (balance, vec![CohortKey::Ip]);
    };
    if balance != Balance::Hash && !doubtful {
        let message = format!("`{}` is only for `balance = \"hash\"`", value.path);
        let problem = out.error(value.key.clone(), message);
        problem
            .label("nothing is hashed here")
            .help("write `balance = \"hash\"`, or leave this out");
        if let Some(written) = written {
            problem.also(written.span, "endpoints are chosen this way");
        }
    }
    let mut keys = rules::request_keys(&value, out);
    if keys.is_empty() {
        keys.push(CohortKey::Ip); // Something was said about it.
    }
    (balance, keys)
}

fn read(value: &Value<'_>, out: &mut Problems) -> Option<Balance> {
    let text = value.text("a word such as \"least_request\"", out)?;
    let found = KNOWN.iter().find(|(name, _)| *name == text.value);
    if found.is_none() {
        unknown_word(&text, &value.path, &KNOWN.map(|(name, _)| name), out);
    }
    found.map(|(_, balance)| *balance)
}
