//! Renders answers, as the file writes them.

use serde_json::{Map, Value, json};

use super::time;
use crate::config::actions::{Actions, Answer, Respond};

/// The keys of actions that are set.
pub(super) fn actions(actions: &Actions) -> Map<String, Value> {
    let mut keys = Map::new();
    match &actions.answer {
        Some(Answer::Respond(fixed)) => keys.insert("respond".to_owned(), respond(fixed)),
        None => None,
    };
    keys
}

/// Formats an answer as a phrase: `respond with 503`.
pub(crate) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Respond(fixed) => format!("respond with {}", fixed.status),
    }
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
