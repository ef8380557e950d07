//! Vectors of an independent implementation of the same formulas.

use serde_json::Value;

use crate::config::rollout::{ErrorLimit, GuardSpec};
use crate::rollout::guard::burstiness::Burstiness;
use crate::rollout::guard::process::WORSE;
use crate::rollout::guard::stratum::{Null, Stratum};
use crate::rollout::guard::{EventTally, Guard, SecondCounts, SideCounts};

const VECTORS: &str = include_str!("../../../../tests/guard/vectors.json");

fn vectors(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    let all = all["vectors"].as_array().unwrap();
    all.iter().filter(|v| v["type"] == kind).cloned().collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[track_caller]
fn assert_close(found: f64, expected: &Value, what: &str) {
    let expected = number(expected);
    // Figures near 0 are differences of figures near 1.
    let off = (found - expected).abs() / expected.abs().max(1e-4);
    assert!(off < 1e-9, "{what}: {found}, not {expected}");
}

#[test]
fn strata_match_the_reference() {
    let vectors = vectors("block");
    assert_eq!(vectors.len(), 6);
    for vector in vectors {
        let name = vector["name"].as_str().unwrap();
        let null = match vector["kind"].as_str().unwrap() {
            "linear" => Null::Linear {
                ratio: number(&vector["r"]),
                difference: number(&vector["d"]),
            },
            "absolute" => Null::Rate(number(&vector["m"])),
            _ => Null::Equal(1.0 - number(&vector["q"])),
        };
        let s = &vector["stratum"];
        let stratum = Stratum {
            canary_requests: number(&s["nc"]),
            canary_events: number(&s["xc"]),
            stable_requests: number(&s["ns"]),
            stable_events: number(&s["xs"]),
        };
        let expected = vector["expect"]["log_e_per_k"].as_array().unwrap();
        for (k, expected) in WORSE.iter().zip(expected) {
            assert_close(null.log_e(*k, &stratum), expected, name);
        }
    }
}

fn endpoints(requests: &Value, events: &Value) -> Vec<EventTally> {
    let numbers = |value: &Value| -> Vec<u64> {
        let list = value.as_array().unwrap().iter();
        list.map(|n| n.as_u64().unwrap()).collect()
    };
    let pairs = numbers(requests).into_iter().zip(numbers(events));
    pairs.map(|(n, x)| EventTally::new(n, x)).collect()
}

fn sum(endpoints: &[EventTally]) -> EventTally {
    let requests = endpoints.iter().map(|t| t.requests).sum();
    EventTally::new(requests, endpoints.iter().map(|t| t.events).sum())
}

/// A guard with the vector's rules. Where they have half of the weight, latency has the other half.
fn guard(vector: &Value) -> Guard {
    let rules = vector["rules"].as_array().unwrap().iter();
    let errors = rules.map(|rule| match rule[0].as_str().unwrap() {
        "absolute" => ErrorLimit::Absolute(number(&rule[1])),
        "difference" => ErrorLimit::Difference(number(&rule[1])),
        _ => ErrorLimit::Ratio(number(&rule[1])),
    });
    let mut spec = GuardSpec {
        errors: errors.collect(),
        ..GuardSpec::default()
    };
    let weights = vector["weights"].as_array().unwrap();
    if number(&weights[0]) == 1.0 {
        spec.latency.clear();
    }
    let mut guard = Guard::new(&spec);
    guard.state.signals[0].burstiness = Burstiness::new(Some(number(&vector["base"])));
    guard
}

fn check(guard: &Guard, vector: &Value, expected: &Value, what: &str) {
    if let Some(worse) = guard.state.signals[0].worse() {
        assert_close(worse, &expected["worse"], what);
    }
    let rules = expected["rules"].as_array().unwrap();
    for (ix, expected) in rules.iter().enumerate() {
        assert_close(guard.log_e(ix), expected, what);
    }
    if number(&vector["weights"][0]) == guard.rules.rules[0].weight {
        assert_close(guard.total_evidence(), &expected["total"], what);
    } else {
        let all = (0.25 * guard.log_e(0).exp() + 0.75).ln();
        assert_close(all, &expected["total"], what);
    }
}

#[test]
fn sequences_match_the_reference() {
    let vectors = vectors("sequence");
    assert_eq!(vectors.len(), 14);
    for vector in vectors {
        let name = vector["name"].as_str().unwrap();
        let mut guard = guard(&vector);
        for second in vector["before"].as_array().unwrap() {
            let stable = endpoints(&second[0], &second[1]);
            guard.before(&SecondCounts {
                errors: SideCounts {
                    stable: sum(&stable),
                    stable_endpoints: &stable,
                    ..SideCounts::default()
                },
                ..SecondCounts::default()
            });
        }
        let mut failed_at = None;
        for (second, counts) in vector["seconds"].as_array().unwrap().iter().enumerate() {
            let stable = endpoints(&counts[2], &counts[3]);
            let rate = number(&vector["rate"]);
            let canary_endpoints = vector["canary_endpoints"].as_u64().unwrap() as usize;
            let brakes = guard.state.signals[0]
                .burstiness
                .brakes(rate / canary_endpoints as f64);
            guard.second(&SecondCounts {
                errors: SideCounts {
                    canary: EventTally::new(
                        counts[0].as_u64().unwrap(),
                        counts[1].as_u64().unwrap(),
                    ),
                    stable: sum(&stable),
                    stable_endpoints: &stable,
                },
                canary_rate: rate,
                canary_endpoints,
                ..SecondCounts::default()
            });
            let what = format!("{name}, second {}", second + 1);
            if let Some(expected) = vector["expect"]["at"].get((second + 1).to_string()) {
                assert_close(brakes.power, &expected["eta"], &what);
                assert_close(brakes.ceiling, &expected["ceiling"], &what);
                check(&guard, &vector, expected, &what);
            }
            if failed_at.is_none() && guard.verdict().is_some() {
                failed_at = Some(second as u64 + 1);
            }
        }
        let expected = vector["expect"]["verdict_at"].as_u64();
        assert_eq!(failed_at, expected, "{name}");
    }
}
