//! An OpenAPI description, and whether answers are as it says.
//!
//! Only the keywords that `docs/openapi.json` uses are known; any other is a failure, so that no rule is passed over. Beyond the
//! standard, an object whose schema has `properties` may have no others, unless the schema says so: what is sent must be described.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::wire::Message;

/// The description.
pub struct Description {
    document: Value,
    /// Method, path and status of the answers that were checked.
    seen: BTreeSet<(String, String, u16)>,
}

impl Description {
    pub fn parse(text: &[u8]) -> Self {
        Self {
            document: serde_json::from_slice(text).expect("JSON"),
            seen: BTreeSet::new(),
        }
    }

    /// Checks an answer to a request with this method and target, and returns its body.
    #[track_caller]
    pub fn check(&mut self, method: &str, target: &str, answer: &Message) -> Value {
        let asked = format!("{method} {target} {}", answer.status());
        let path = self
            .path(target)
            .unwrap_or_else(|| panic!("{asked}: not described"));
        let answers = &self.document["paths"][&path][method.to_lowercase()]["responses"];
        let described = &answers[answer.status().to_string()];
        assert!(
            described.is_object(),
            "{asked}: not described\n{}",
            answer.text()
        );
        let Some(kinds) = described["content"].as_object() else {
            return Value::Null;
        };
        let kind = answer.field("content-type").expect("a content-type");
        let content = kinds
            .get(&kind)
            .unwrap_or_else(|| panic!("{asked}: {kind} is not described"));
        let body = match &*kind {
            "application/json" => serde_json::from_slice(&answer.body).expect("JSON"),
            _ => Value::from(answer.text()),
        };
        self.fits(&content["schema"], &body, &asked);
        self.seen.insert((method.to_owned(), path, answer.status()));
        body
    }

    /// Checks a document against a schema of the description.
    #[track_caller]
    pub fn check_document(&self, schema: &str, document: &Value) {
        let reference = serde_json::json!({ "$ref": format!("#/components/schemas/{schema}") });
        self.fits(&reference, document, schema);
    }

    /// The operations without a checked answer of success, or without one of an error although errors are described.
    pub fn unseen(&self) -> Vec<String> {
        let mut unseen = Vec::new();
        for (method, path, responses) in self.operations() {
            for is_error in [false, true] {
                let mut statuses = responses
                    .keys()
                    .map(|s| s.parse::<u16>().expect("a status"));
                let is_described = statuses.any(|status| (status >= 400) == is_error);
                let mut seen = self.seen.iter();
                let was =
                    seen.any(|(m, p, s)| *m == method && *p == path && (*s >= 400) == is_error);
                if is_described && !was {
                    let what = if is_error { "an error" } else { "success" };
                    unseen.push(format!("{method} {path}: {what}"));
                }
            }
        }
        unseen
    }

    /// Method, path and answers of every operation.
    pub fn operations(&self) -> Vec<(String, String, &Map<String, Value>)> {
        let paths = self.document["paths"].as_object().expect("paths");
        let of = |(path, operations): (&String, &'_ Value)| {
            let operations = operations.as_object().expect("operations").clone();
            let methods = operations
                .keys()
                .map(|method| (method.to_uppercase(), path.clone()));
            methods.collect::<Vec<_>>()
        };
        let all = paths.iter().flat_map(of);
        all.map(|(method, path)| {
            let operation = &paths[&path][method.to_lowercase()];
            let responses = operation["responses"].as_object().expect("responses");
            (method, path, responses)
        })
        .collect()
    }

    /// The path of the description that a target has.
    fn path(&self, target: &str) -> Option<String> {
        let target = target.split('?').next().unwrap_or_default();
        let is_it = |path: &&String| {
            let (described, real) = (path.split('/'), target.split('/'));
            let same = |(d, r): (&str, &str)| d == r || d.starts_with('{') && !r.is_empty();
            described.clone().count() == real.clone().count() && described.zip(real).all(same)
        };
        let paths = self.document["paths"].as_object().expect("paths");
        paths.keys().find(is_it).cloned()
    }

    #[track_caller]
    fn fits(&self, schema: &Value, value: &Value, at: &str) {
        if let Err(why) = self.misfit(schema, value, at) {
            panic!("{why}");
        }
    }

    /// Why a value doesn't fit.
    fn misfit(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let rules = schema
            .as_object()
            .ok_or_else(|| format!("{at}: no schema"))?;
        let wrong = |why: String| Err(format!("{at}: {why}: {value}"));
        for (keyword, rule) in rules {
            let holds = match (keyword.as_str(), rule) {
                ("description" | "required" | "additionalProperties", _) => true,
                ("$ref", Value::String(reference)) => {
                    let pointer = reference
                        .strip_prefix('#')
                        .expect("a reference to this document");
                    let target = self.document.pointer(pointer);
                    let target = target.ok_or_else(|| format!("{reference} leads nowhere"))?;
                    self.misfit(target, value, at)?;
                    true
                }
                ("anyOf", Value::Array(schemas)) => {
                    let fits = schemas.iter().map(|schema| self.misfit(schema, value, at));
                    let misfits: Vec<_> = fits.filter_map(Result::err).collect();
                    if misfits.len() == schemas.len() {
                        return wrong(misfits.join("; "));
                    }
                    true
                }
                ("type", Value::String(kind)) => is_of(kind, value),
                ("type", Value::Array(kinds)) => {
                    let mut kinds = kinds.iter().filter_map(Value::as_str);
                    kinds.any(|kind| is_of(kind, value))
                }
                ("enum", Value::Array(values)) => values.contains(value),
                ("minimum", least) => value.as_f64().is_none_or(|v| Some(v) >= least.as_f64()),
                ("maximum", most) => value.as_f64().is_none_or(|v| Some(v) <= most.as_f64()),
                ("pattern", Value::String(pattern)) => {
                    let pattern = regex::Regex::new(pattern).expect("a pattern");
                    value.as_str().is_none_or(|text| pattern.is_match(text))
                }
                ("format", Value::String(format)) if format == "date-time" => value
                    .as_str()
                    .is_none_or(|text| humantime::parse_rfc3339(text).is_ok()),
                ("items", schema) => {
                    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.misfit(schema, item, &format!("{at}[{number}]"))?;
                    }
                    true
                }
                ("properties", Value::Object(_)) => true,
                _ => return Err(format!("{at}: unknown keyword {keyword}: {rule}")),
            };
            if !holds {
                return wrong(format!("{keyword} {rule}"));
            }
        }
        match value.as_object() {
            Some(object) => self.misfit_of_object(rules, object, at),
            None => Ok(()),
        }
    }

    fn misfit_of_object(
        &self,
        rules: &Map<String, Value>,
        object: &Map<String, Value>,
        at: &str,
    ) -> Result<(), String> {
        let required = rules.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(key) {
                return Err(format!("{at}: {key} is missing"));
            }
        }
        let properties = rules.get("properties").and_then(Value::as_object);
        for (key, value) in object {
            let at = format!("{at}.{key}");
            match (
                properties.and_then(|p| p.get(key)),
                rules.get("additionalProperties"),
            ) {
                (Some(schema), _) => self.misfit(schema, value, &at)?,
                (None, Some(Value::Bool(true))) => {}
                (None, Some(schema @ Value::Object(_))) => self.misfit(schema, value, &at)?,
                (None, None) if properties.is_none() => {}
                (None, _) => return Err(format!("{at} is not described")),
            }
        }
        Ok(())
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("unknown type {kind}"),
    }
}
