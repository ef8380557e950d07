//! Compares two responses. Pure: it lists the differences, and keeps no value that might be a secret.

use serde_json::Value;

use super::answer::{ComparedAnswer, ComparedBody};
use super::redact;
use crate::config::mirror::{MirrorDiff, MirrorSpec};
use crate::telemetry::mirror::MirrorFinding;

/// Most findings of one comparison. A response that differs everywhere would otherwise list each of its values.
const MAX_FINDINGS: usize = 20;
/// Longest path of a finding in bytes, because applications choose its parts.
const MAX_PATH: usize = 200;

/// The result of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// The differences between the responses. Each kind occurs once.
    pub findings: Vec<MirrorFinding>,
    /// Whether a part could not be compared.
    pub is_partial: bool,
    /// Both JSON bodies, if they differ and are kept.
    pub bodies: Option<(String, String)>,
}

/// Compares the response that a user got with that to the copy.
pub(super) fn compare(
    spec: &MirrorSpec,
    live: &ComparedAnswer,
    copy: &ComparedAnswer,
) -> Comparison {
    let mut found = Comparison::default();
    let mut fields = live.fields.iter().zip(&copy.fields);
    for diff in &spec.diff {
        match diff {
            MirrorDiff::Status => found.status(live.status, copy.status),
            MirrorDiff::Header(name) => {
                if let Some((live, copy)) = fields.next() {
                    found.field(name, live.as_deref(), copy.as_deref());
                }
            }
            // The body of an error can't be compared with that of a success.
            MirrorDiff::Json if live.status != copy.status => {
                found.is_partial |= !spec.diff.contains(&MirrorDiff::Status);
            }
            MirrorDiff::Json => found.json(spec.bodies, &live.body, &copy.body),
        }
    }
    found
}

impl Comparison {
    fn add(&mut self, kind: String, live: String, copy: String) {
        let is_known = self.findings.iter().any(|finding| finding.kind == kind);
        if !is_known && self.findings.len() < MAX_FINDINGS {
            self.findings.push(MirrorFinding { kind, live, copy });
        }
    }

    fn status(&mut self, live: u16, copy: u16) {
        if live != copy {
            self.add("status".to_owned(), live.to_string(), copy.to_string());
        }
    }

    fn field(&mut self, name: &str, live: Option<&str>, copy: Option<&str>) {
        let shown = |value: Option<&str>| {
            value.map_or_else(|| "absent".to_owned(), |value| redact::value(name, value))
        };
        if live != copy {
            self.add(format!("header:{name}"), shown(live), shown(copy));
        }
    }

    fn json(&mut self, keeps_bodies: bool, live: &ComparedBody, copy: &ComparedBody) {
        let (live, copy) = match (live, copy) {
            (ComparedBody::Unusable, _) | (_, ComparedBody::Unusable) => {
                self.is_partial = true;
                return;
            }
            (ComparedBody::NotJson, ComparedBody::NotJson) => return,
            (ComparedBody::Json(live), ComparedBody::Json(copy)) if live == copy => return,
            (ComparedBody::Json(live), ComparedBody::Json(copy)) => (parsed(live), parsed(copy)),
            (ComparedBody::Json(_), ComparedBody::NotJson) => (Ok(Value::Null), Err("not JSON")),
            (ComparedBody::NotJson, ComparedBody::Json(_)) => (Err("not JSON"), Ok(Value::Null)),
        };
        match (live, copy) {
            (Ok(live), Ok(copy)) => {
                let before = self.findings.len();
                Walk {
                    found: self,
                    shows_values: keeps_bodies,
                }
                .values(&mut "$".to_owned(), "", &live, &copy);
                if keeps_bodies && self.findings.len() > before {
                    self.bodies = Some((redact::document(live), redact::document(copy)));
                }
            }
            (Err(_), Err(_)) => self.is_partial = true,
            (live, copy) => {
                let shown = |body: Result<Value, &str>| body.err().unwrap_or("JSON").to_owned();
                self.add("json:$".to_owned(), shown(live), shown(copy));
            }
        }
    }
}

fn parsed(text: &[u8]) -> Result<Value, &'static str> {
    serde_json::from_slice(text).map_err(|_| "malformed")
}

/// A walk through two JSON documents.
struct Walk<'a> {
    found: &'a mut Comparison,
    shows_values: bool,
}

impl Walk<'_> {
    /// Compares two values at `path`, the last part of which is `name`. The depth is bounded by the parser.
    fn values(&mut self, path: &mut String, name: &str, live: &Value, copy: &Value) {
        let length = path.len();
        match (live, copy) {
            (Value::Object(left), Value::Object(right)) => {
                for (key, value) in left {
                    push_key(path, key);
                    match right.get(key) {
                        Some(other) => self.values(path, key, value, other),
                        None => self.differ(path, key, Some(value), None),
                    }
                    path.truncate(length);
                }
                for (key, value) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
                    push_key(path, key);
                    self.differ(path, key, None, Some(value));
                    path.truncate(length);
                }
            }
            (Value::Array(left), Value::Array(right)) => {
                if left.len() != right.len() {
                    let kind = format!("json:{path}.length");
                    let (live, copy) = (left.len().to_string(), right.len().to_string());
                    self.found.add(kind, live, copy);
                }
                // The path omits the index, so that the number of kinds doesn't grow with the length.
                path.push_str("[]");
                for (left, right) in left.iter().zip(right) {
                    self.values(path, name, left, right);
                }
                path.truncate(length);
            }
            _ if is_same(live, copy) => {}
            _ => self.differ(path, name, Some(live), Some(copy)),
        }
    }

    fn differ(&mut self, path: &str, name: &str, live: Option<&Value>, copy: Option<&Value>) {
        let (mut left, mut right) = (kind_of(live).to_owned(), kind_of(copy).to_owned());
        if self.shows_values {
            (left, right) = (self.shown(name, live), self.shown(name, copy));
        } else if left == right {
            right = format!("another {right}");
        }
        let end = path.floor_char_boundary(MAX_PATH);
        self.found
            .add(format!("json:{}", &path[..end]), left, right);
    }

    fn shown(&self, name: &str, value: Option<&Value>) -> String {
        match value {
            None | Some(Value::Object(_) | Value::Array(_)) => kind_of(value).to_owned(),
            Some(scalar) => redact::value(name, &scalar.to_string()),
        }
    }
}

/// Whether two scalars are equal. `1` and `1.0` are.
fn is_same(live: &Value, copy: &Value) -> bool {
    let as_numbers = || live.as_f64().is_some() && live.as_f64() == copy.as_f64();
    let both_whole = (live.is_i64() || live.is_u64()) && (copy.is_i64() || copy.is_u64());
    live == copy || (!both_whole && as_numbers())
}

fn kind_of(value: Option<&Value>) -> &'static str {
    match value {
        None => "absent",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
    }
}

/// Appends `.key`, or `["key"]` if the key has other characters than a name. Control characters are escaped.
fn push_key(path: &mut String, key: &str) {
    let is_name = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match is_name {
        true => {
            path.push('.');
            path.push_str(key);
        }
        false => {
            path.push_str("[\"");
            path.extend(key.escape_debug());
            path.push_str("\"]");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: ComparedBody) -> ComparedAnswer {
        ComparedAnswer {
            status,
            fields: Vec::new(),
            body,
        }
    }

    fn json(text: &str) -> ComparedAnswer {
        answer(200, ComparedBody::Json(text.as_bytes().to_vec()))
    }

    fn spec(bodies: bool) -> MirrorSpec {
        let mut spec = MirrorSpec::to(crate::index::VersionIx(0));
        spec.diff = vec![MirrorDiff::Status, MirrorDiff::Json];
        spec.bodies = bodies;
        spec
    }

    /// The findings as `kind live -> copy`.
    fn found(bodies: bool, live: &ComparedAnswer, copy: &ComparedAnswer) -> Vec<String> {
        let found = compare(&spec(bodies), live, copy).findings.into_iter();
        found
            .map(|f| format!("{} {} -> {}", f.kind, f.live, f.copy))
            .collect()
    }

    #[test]
    fn json_differs_by_path() {
        let live = r#"{"id":1,"price":10.0,"tags":["a","b"],"items":[{"n":1},{"n":2}],"gone":true,"x y":0}"#;
        let copy =
            r#"{"id":1,"price":10,"tags":["a"],"items":[{"n":3},{"n":4}],"new":{},"x y":""}"#;
        assert_eq!(
            found(false, &json(live), &json(copy)),
            [
                "json:$.tags.length 2 -> 1",
                "json:$.items[].n number -> another number",
                "json:$.gone boolean -> absent",
                "json:$[\"x y\"] number -> string",
                "json:$.new absent -> object",
            ]
        );
    }

    #[test]
    fn order_and_space_are_no_difference() {
        let (live, copy) = (json(r#"{"a":1,"b":[2]}"#), json("{ \"b\": [2], \"a\": 1 }"));
        assert_eq!(compare(&spec(true), &live, &copy), Comparison::default());
        // Whole numbers are compared exactly.
        let (live, copy) = (json("9007199254740993"), json("9007199254740992"));
        assert_eq!(found(false, &live, &copy).len(), 1);
    }

    #[test]
    fn values_are_shown_only_where_bodies_are_kept_and_never_secrets() {
        let live = json(r#"{"name":"ann","api_key":"one"}"#);
        let copy = json(r#"{"name":"bob","api_key":"two"}"#);
        let hidden = compare(&spec(false), &live, &copy);
        assert_eq!(hidden.bodies, None);
        assert!(!format!("{hidden:?}").contains("ann"));
        let shown = compare(&spec(true), &live, &copy);
        assert_eq!(shown.findings[0].live, "\"ann\"");
        let text = format!("{shown:?}");
        assert!(!text.contains("one") && !text.contains("two"), "{text}");
        let (live, _) = shown.bodies.expect("bodies");
        assert_eq!(live, r#"{"name":"ann","api_key":"[redacted]"}"#);
    }

    #[test]
    fn bodies_are_compared_only_under_the_same_status() {
        let (good, bad) = (json("1"), answer(500, ComparedBody::NotJson));
        assert_eq!(found(false, &good, &bad), ["status 200 -> 500"]);
        let mut spec = spec(false);
        spec.diff = vec![MirrorDiff::Json];
        assert!(compare(&spec, &good, &bad).is_partial);
    }

    #[test]
    fn what_is_not_json() {
        let plain = answer(200, ComparedBody::NotJson);
        assert_eq!(found(false, &plain, &plain), Vec::<String>::new());
        assert_eq!(
            found(false, &json("1"), &plain),
            ["json:$ JSON -> not JSON"]
        );
        assert_eq!(
            found(false, &json("1"), &json("{")),
            ["json:$ JSON -> malformed"]
        );
        let unusable = answer(200, ComparedBody::Unusable);
        assert!(compare(&spec(false), &json("1"), &unusable).is_partial);
    }

    #[test]
    fn fields_are_compared_and_secret_ones_are_not_shown() {
        let mut spec = spec(false);
        spec.diff = vec![
            MirrorDiff::Header("content-type".to_owned()),
            MirrorDiff::Header("set-cookie".to_owned()),
        ];
        let with = |kind: Option<&str>, cookie: &str| ComparedAnswer {
            fields: vec![kind.map(str::to_owned), Some(cookie.to_owned())],
            ..answer(200, ComparedBody::NotJson)
        };
        let found = compare(&spec, &with(Some("a/b"), "x"), &with(None, "y")).findings;
        assert_eq!((&*found[0].live, &*found[0].copy), ("a/b", "absent"));
        assert_eq!(found[1].kind, "header:set-cookie");
        assert_eq!(found[1].live, found[1].copy);
    }

    #[test]
    fn findings_are_bounded() {
        let wide = |n: usize| {
            let keys = (0..n).map(|k| format!("\"{}{k}\":1", "k".repeat(300)));
            json(&format!("{{{}}}", keys.collect::<Vec<_>>().join(",")))
        };
        let found = compare(&spec(false), &wide(1000), &wide(0)).findings;
        assert!(found.len() <= MAX_FINDINGS);
        assert!(
            found
                .iter()
                .all(|f| f.kind.len() <= "json:".len() + MAX_PATH)
        );
    }
}
