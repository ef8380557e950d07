//! `balance` and `hash_by`: the load-balancing policy of a service.

use super::{rules, unknown_word};
use crate::config::problems::Problems;
use crate::config::raw::{RawTable, RawValue};
use crate::config::spec::{Balance, CohortKey};

/// Reads the policy, and the request attributes that are hashed.
pub(super) fn balance(table: &mut RawTable<'_>, out: &mut Problems) -> (Balance, Vec<CohortKey>) {
    let before = out.len();
    let written = table.take("balance");
    let balance = written.as_ref().and_then(|value| read(value, out));
    let failed = out.len() > before;
    let balance = balance.unwrap_or_default();
    let Some(value) = table.take("hash_by") else {
        return (balance, vec![CohortKey::Ip]);
    };
    // With an invalid `balance`, it is unknown whether `hash_by` applies.
    if balance != Balance::Hash && !failed {
        let message = format!("`{}` is only for `balance = \"hash\"`", value.path);
        let problem = out.error(value.key.clone(), message);
        problem
            .label("nothing is hashed here")
            .help("write `balance = \"hash\"`, or leave this out");
        if let Some(written) = written {
            problem.also(written.span, "this is how endpoints are picked");
        }
    }
    let mut keys = rules::request_keys(&value, out);
    if keys.is_empty() {
        keys.push(CohortKey::Ip); // A placeholder: the error is reported.
    }
    (balance, keys)
}

fn read(value: &RawValue<'_>, out: &mut Problems) -> Option<Balance> {
    let text = value.text("a word such as \"least_request\"", out)?;
    let found = Balance::parse(text.value);
    if found.is_none() {
        let known: Vec<_> = Balance::ALL.iter().map(|known| known.as_str()).collect();
        let problem = unknown_word(&text, &value.path, &known, out);
        if let Some(meant) = of_other_proxies(text.value) {
            problem.help(meant);
        }
    }
    found
}

/// Translates policy names of nginx, HAProxy, Envoy and Traefik.
fn of_other_proxies(typed: &str) -> Option<&'static str> {
    let word = typed.to_ascii_lowercase().replace(['-', ' '], "_");
    Some(match word.as_str() {
        "least_conn"
        | "leastconn"
        | "least_connections"
        | "leastrequest"
        | "p2c"
        | "random_two"
        | "random_two_least_conn"
        | "power_of_two_choices"
        | "least_request" => {
            "did you mean `least_request`? of two endpoints, the one with fewer requests in flight"
        }
        "roundrobin" | "round_robin" | "rr" | "wrr" | "static_rr" | "weighted_round_robin" => {
            "did you mean `round_robin`? it respects weights"
        }
        "ip_hash" | "iphash" | "source" | "src" => {
            "did you mean `hash`? it hashes the client's address unless `hash_by` says otherwise"
        }
        "maglev" | "ring_hash" | "consistent_hash" | "consistent" | "hdr" | "cookie"
        | "url_hash" | "uri" | "url_param" => {
            "did you mean `hash`? `hash_by = [\"header:x-user-id\"]` says what is hashed"
        }
        "least_time" | "ewma" | "peakewma" | "peak_ewma" => {
            "did you mean `peak_ewma`? it prefers endpoints that answer fast"
        }
        "rand" | "random" => "did you mean `random`?",
        _ => return None,
    })
}
