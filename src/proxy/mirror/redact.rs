//! Keeps secrets out of the differences that are kept.

use serde_json::Value;

/// The text that is shown instead of a secret.
const REDACTED: &str = "[redacted]";

/// Most bytes of a body that are kept.
const MAX_BODY: usize = 4 * 1024;
/// Most bytes of another value that are kept.
const MAX_VALUE: usize = 256;

/// Words in the names of fields and keys that hold secrets, without separators.
const SECRET_WORDS: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "accesskey",
    "privatekey",
    "session",
    "credential",
    "signature",
    "cardnumber",
];

/// Whether a field or key of this name probably holds a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    let plain = letters.collect::<String>().to_lowercase();
    SECRET_WORDS.iter().any(|word| plain.contains(word))
}

/// A value of the field or key `name`, in the form in which it may be kept.
pub(super) fn value(name: &str, value: &str) -> String {
    match is_secret(name) {
        true => REDACTED.to_owned(),
        false => cut(value, MAX_VALUE),
    }
}

/// A JSON document, in the form in which it may be kept.
pub(super) fn document(mut document: Value) -> String {
    redact(&mut document);
    cut(&document.to_string(), MAX_BODY)
}

fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => {
            for (name, value) in fields {
                match is_secret(name) {
                    true => *value = REDACTED.into(),
                    false => redact(value),
                }
            }
        }
        _ => {}
    }
}

/// Cuts a text after at most `most` bytes.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "Set-Cookie",
            "access_token",
            "API-Key",
            "userPassword",
            "x-csrf-token",
        ] {
            assert!(is_secret(name), "{name}");
            assert_eq!(value(name, "hunter2"), REDACTED);
        }
        for name in ["content-type", "shipping", "price", "author"] {
            assert_eq!(value(name, "x"), "x", "{name}");
        }
    }

    #[test]
    fn documents_lose_their_secrets_and_what_is_too_much() {
        let shown = document(json!({"user": [{"name": "a", "token": {"v": "s3cret"}}]}));
        assert_eq!(shown, r#"{"user":[{"name":"a","token":"[redacted]"}]}"#);
        let long = document(json!({ "a": "ä".repeat(MAX_BODY) }));
        assert!(long.len() <= MAX_BODY + '…'.len_utf8() && long.ends_with('…'));
    }
}
