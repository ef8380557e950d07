//! Checks whether a response meets the expectations of a smoke check.
//!
//! Expected JSON is a subset: an object needs the expected keys, an array begins with the expected elements, and everything else
//! is ignored. Strings are globs, numbers and booleans are exact.

use http::HeaderMap;
use serde_json::{Number, Value};

use super::exchange::OutcallResponse;
use crate::config::glob;
use crate::config::rollout::SmokeCheck;

/// Longest part of a value that a message quotes, in characters.
const QUOTED_CHARS: usize = 60;

/// Compares a response with what `check` expects.
///
/// # Errors
/// The first difference: `expected 200, got 500`.
pub(super) fn compare(check: &SmokeCheck, response: &OutcallResponse) -> Result<(), String> {
    compare_status(check.status, response.status)?;
    for (name, pattern) in &check.expect_headers {
        compare_header(name, pattern, &response.headers)?;
    }
    let Some(expected) = &check.expect_json else {
        return Ok(());
    };
    let found = serde_json::from_slice(&response.body)
        .map_err(|error| format!("expected JSON, got something else: {error}"))?;
    compare_json(expected, &found, "")
}

fn compare_status((first, last): (u16, u16), status: u16) -> Result<(), String> {
    if (first..=last).contains(&status) {
        return Ok(());
    }
    let expected = match (first, last) {
        _ if first == last => first.to_string(),
        _ if first % 100 == 0 && last == first + 99 => format!("{}xx", first / 100),
        _ => format!("{first} to {last}"),
    };
    let hint = match status {
        300..=399 => " (redirects aren't followed)",
        _ => "",
    };
    Err(format!("expected {expected}, got {status}{hint}"))
}

/// Checks that one of the lines with this name matches.
fn compare_header(name: &str, pattern: &str, headers: &HeaderMap) -> Result<(), String> {
    let mut values = headers.get_all(name).iter();
    if values.any(|value| glob::matches(pattern.as_bytes(), value.as_bytes())) {
        return Ok(());
    }
    let expected = format!("expected header {name} to be {pattern:?}");
    Err(match headers.get(name) {
        Some(found) => {
            let found = String::from_utf8_lossy(found.as_bytes());
            format!("{expected}, got {}", quote(&found))
        }
        None => format!("{expected}, but it is missing"),
    })
}

/// Compares JSON values. `path` leads to them: `user.roles[0]`, empty for the whole document.
fn compare_json(expected: &Value, found: &Value, path: &str) -> Result<(), String> {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            expected.iter().try_for_each(|(key, expected)| {
                let path = match path {
                    "" => key.clone(),
                    path => format!("{path}.{key}"),
                };
                match found.get(key) {
                    Some(found) => compare_json(expected, found, &path),
                    None => Err(format!("expected JSON {path}, but it is missing")),
                }
            })
        }
        (Value::Array(expected), Value::Array(found)) => {
            let mut found = found.iter();
            expected.iter().enumerate().try_for_each(|(at, expected)| {
                let path = format!("{path}[{at}]");
                match found.next() {
                    Some(found) => compare_json(expected, found, &path),
                    None => Err(format!("expected JSON {path}, but the array is shorter")),
                }
            })
        }
        _ if is_value(expected, found) => Ok(()),
        _ => {
            let place = if path.is_empty() { "document" } else { path };
            let (expected, found) = (describe(expected), describe(found));
            Err(format!(
                "expected JSON {place} to be {expected}, got {found}"
            ))
        }
    }
}

/// Whether a scalar is the expected one. A glob is compared with the JSON text of a number or boolean.
fn is_value(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(glob), _) if glob == "*" => true,
        (Value::String(glob), Value::String(text)) => {
            glob::matches(glob.as_bytes(), text.as_bytes())
        }
        (Value::String(glob), Value::Number(_) | Value::Bool(_)) => {
            glob::matches(glob.as_bytes(), found.to_string().as_bytes())
        }
        (Value::Number(expected), Value::Number(found)) => is_number(expected, found),
        _ => expected == found,
    }
}

/// Whether a number is the expected one. Integers are compared exactly; 1 and 1.0 are the same.
fn is_number(expected: &Number, found: &Number) -> bool {
    expected == found
        || (expected.is_f64() || found.is_f64()) && expected.as_f64() == found.as_f64()
}

fn describe(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".into(),
        Value::Array(_) => "an array".into(),
        Value::String(text) => quote(text),
        scalar => scalar.to_string(),
    }
}

/// Quotes the beginning of a text, with control characters escaped.
fn quote(text: &str) -> String {
    let mut beginning: String = text.chars().take(QUOTED_CHARS).collect();
    if beginning.len() < text.len() {
        beginning.push('…');
    }
    format!("{beginning:?}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[test]
    fn statuses_are_ranges() {
        assert_eq!(compare_status((200, 200), 200), Ok(()));
        assert_eq!(compare_status((200, 299), 204), Ok(()));
        let error = |expected, got| compare_status(expected, got).unwrap_err();
        assert_eq!(error((200, 200), 500), "expected 200, got 500");
        assert_eq!(
            error((200, 299), 300),
            "expected 2xx, got 300 (redirects aren't followed)"
        );
        assert_eq!(error((200, 399), 404), "expected 200 to 399, got 404");
    }

    #[test]
    fn any_line_of_a_header_may_match_its_glob() {
        let mut headers = HeaderMap::new();
        headers.append("vary", "accept".parse().unwrap());
        headers.append("vary", "cookie".parse().unwrap());
        let compare = |name, pattern| compare_header(name, pattern, &headers);
        assert_eq!(compare("vary", "cook*"), Ok(()));
        assert_eq!(compare("vary", "accep?"), Ok(()));
        assert_eq!(
            compare("vary", "x*").unwrap_err(),
            "expected header vary to be \"x*\", got \"accept\""
        );
        assert_eq!(
            compare("etag", "*").unwrap_err(),
            "expected header etag to be \"*\", but it is missing"
        );
    }

    #[test]
    fn json_is_a_subset_with_globs() {
        let found = json!({
            "token": "abc123", "n": 3, "price": 1.0, "ok": true, "nothing": null, "list": [1, { "a": "b", "c": 1 }, 3],
            "user": { "name": "ada", "id": 9007199254740993_i64 },
        });
        for expected in [
            json!({}),
            json!({ "token": "*" }),
            json!({ "token": "abc*", "n": 3, "ok": true }),
            json!({ "n": 3.0, "price": 1 }),
            json!({ "n": "3", "ok": "t*", "nothing": "*", "list": "*", "user": "*" }),
            json!({ "list": [] }),
            json!({ "list": [1, { "a": "?" }] }),
            json!({ "user": { "id": 9007199254740993_i64 } }),
            json!("*"),
        ] {
            assert_eq!(compare_json(&expected, &found, ""), Ok(()), "{expected}");
        }
        for (expected, why) in [
            (json!({ "x": "*" }), "expected JSON x, but it is missing"),
            (
                json!({ "token": "x*" }),
                "expected JSON token to be \"x*\", got \"abc123\"",
            ),
            (json!({ "n": 4 }), "expected JSON n to be 4, got 3"),
            (
                json!({ "ok": false }),
                "expected JSON ok to be false, got true",
            ),
            (
                json!({ "nothing": "a*" }),
                "expected JSON nothing to be \"a*\", got null",
            ),
            (
                json!({ "list": [1, 2] }),
                "expected JSON list[1] to be 2, got an object",
            ),
            (
                json!({ "list": [1, { "a": "x" }] }),
                "expected JSON list[1].a to be \"x\", got \"b\"",
            ),
            (
                json!({ "list": [1, "*", 3, 4] }),
                "expected JSON list[3], but the array is shorter",
            ),
            (
                json!({ "user": { "id": 9007199254740992_i64 } }),
                "expected JSON user.id to be 9007199254740992, got 9007199254740993",
            ),
            (
                json!([]),
                "expected JSON document to be an array, got an object",
            ),
        ] {
            assert_eq!(
                compare_json(&expected, &found, "")
                    .as_ref()
                    .map_err(String::as_str),
                Err(why)
            );
        }
    }

    #[test]
    fn a_body_that_is_not_json_is_said_to_be_none() {
        let check = SmokeCheck {
            method: "GET".into(),
            target: "/".into(),
            headers: Vec::new(),
            body: None,
            status: (200, 200),
            expect_headers: Vec::new(),
            expect_json: Some(json!({ "a": 1 })),
        };
        let response = |body: &'static str| OutcallResponse {
            status: 200,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        assert_eq!(compare(&check, &response("{\"a\": 1, \"b\": 2}")), Ok(()));
        let error = compare(&check, &response("<html>")).unwrap_err();
        assert!(
            error.starts_with("expected JSON, got something else"),
            "{error}"
        );
    }

    #[test]
    fn long_values_are_cut_and_escaped() {
        assert_eq!(quote("a\nb"), "\"a\\nb\"");
        assert_eq!(quote(&"é".repeat(61)).chars().count(), 63);
    }
}
