//! Renders answers, as the file writes them.

use serde_json::{Map, Value, json};

use super::time;
use crate::config::actions::{
    Actions, Answer, FieldEdits, HeaderEdits, PathRewrite, Redirect, Respond, Rewrite,
};

/// The keys of actions that are set.
pub(super) fn actions(actions: &Actions) -> Map<String, Value> {
    let mut keys = Map::new();
    match &actions.answer {
        Some(Answer::Respond(fixed)) => keys.insert("respond".to_owned(), respond(fixed)),
        Some(Answer::Redirect(to)) => keys.insert("redirect".to_owned(), redirect(to)),
        None => None,
    };
    if !actions.headers.is_empty() {
        keys.insert("headers".to_owned(), headers(&actions.headers));
    }
    if let Some(change) = &actions.rewrite {
        keys.insert("rewrite".to_owned(), rewrite(change));
    }
    keys
}

/// Formats an answer as a phrase: `respond with 503`.
pub(crate) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Respond(fixed) => format!("respond with {}", fixed.status),
        Answer::Redirect(redirect) => {
            format!("redirect with {} to {}", redirect.status, redirect.to)
        }
    }
}

fn redirect(redirect: &Redirect) -> Value {
    json!({ "to": redirect.to.to_string(), "status": redirect.status })
}

fn rewrite(rewrite: &Rewrite) -> Value {
    let mut shown = match &rewrite.path {
        Some(PathRewrite::Prefix { strip, add }) => {
            let text = |text: &String| (!text.is_empty()).then(|| text.clone());
            json!({ "strip_prefix": text(strip), "prefix": text(add) })
        }
        Some(PathRewrite::Regex { regex, to }) => json!({ "regex": regex.as_str(), "to": to }),
        None => json!({}),
    };
    shown["host"] = json!(rewrite.host);
    shown
}

/// Renders edits of header fields. `[defaults.headers]` are part of those of a service.
pub(super) fn headers(edits: &HeaderEdits) -> Value {
    json!({ "request": fields(&edits.request), "response": fields(&edits.response) })
}

fn fields(edits: &FieldEdits) -> Value {
    let (mut set, mut add) = (Map::new(), Map::new());
    for (name, value) in &edits.put {
        let is_set = edits.drop.contains(name) && !set.contains_key(name);
        let value = json!(value.to_string());
        if is_set {
            set.insert(name.clone(), value);
        } else {
            let values = add.entry(name.clone()).or_insert_with(|| json!([]));
            values
                .as_array_mut()
                .into_iter()
                .for_each(|all| all.push(value.clone()));
        }
    }
    let remove = { edits.drop.iter() }.filter(|name| !set.contains_key(*name));
    let remove: Vec<_> = remove.collect();
    json!({ "set": set, "add": add, "remove": remove })
}

/// Renders `respond`. A body from a file is shown by its path.
fn respond(fixed: &Respond) -> Value {
    let text = |body: &Vec<u8>| String::from_utf8_lossy(body).into_owned();
    let inline = fixed.body.as_ref().filter(|_| fixed.body_file.is_none());
    let retry_after = fixed.retry_after.map(std::time::Duration::from_secs);
    json!({
        "status": fixed.status,
        "body": inline.map(text),
        "body_file": fixed.body_file,
        "content_type": fixed.content_type,
        "retry_after": retry_after.map(time),
    })
}
