//! Conditions on the client's certificate: `tls.client.subject`, `tls.client.san` and `tls.client.fingerprint`.

use crate::config::condition::SubjectKey;
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::spec::{Condition, Subject};
use crate::config::suggest::suggest;
use crate::config::units::quote;

/// Number of hex digits of a SHA-256.
const DIGITS: usize = 64;

/// Reads the conditions below `tls`. `read` reads the patterns of one condition.
pub(super) fn tls_conditions(
    table: &mut RawTable<'_>,
    read: fn(Subject, &RawValue<'_>, &mut Problems) -> Condition,
    out: &mut Problems,
) -> Vec<Condition> {
    let Some(value) = table.take("tls") else {
        return Vec::new();
    };
    let mut leaves = Vec::new();
    collect("tls".to_owned(), value, &mut leaves);
    let mut conditions = Vec::new();
    for (key, value) in leaves {
        match subject(&key) {
            Some(subject) => conditions.push(read(subject, &value, out)),
            None => unknown(&key, &value, out),
        }
    }
    conditions
}

/// Collects every value below a table that isn't a table itself, with its dotted key.
fn collect<'t>(key: String, value: RawValue<'t>, leaves: &mut Vec<(String, RawValue<'t>)>) {
    let Some(table) = value.as_table() else {
        leaves.push((key, value));
        return;
    };
    for (name, inner) in table.named() {
        collect(format!("{key}.{name}"), inner, leaves);
    }
}

fn subject(key: &str) -> Option<Subject> {
    let mut known = Subject::KEYS.iter();
    match known.find(|(known, _)| *known == key) {
        Some((_, SubjectKey::Plain(subject))) => Some(subject.clone()),
        _ => None,
    }
}

fn unknown(key: &str, value: &RawValue<'_>, out: &mut Problems) {
    let known = Subject::KEYS.iter().map(|(known, _)| *known);
    let known: Vec<&str> = known.filter(|known| known.starts_with("tls.")).collect();
    out.error(
        value.key.clone(),
        format!("{} is not a condition", quote(key)),
    )
    .label("not an attribute of a request")
    .help(suggest(
        key,
        &known,
        "the conditions on a client's certificate are",
    ));
}

/// Whether this is neither a glob nor an expression.
pub(super) fn is_plain(pattern: &str) -> bool {
    !pattern.starts_with('/') && !pattern.contains(['*', '?'])
}

/// Whether a subject can have this form (RFC 4514): `CN=partner,O=Example`, with no spaces around `=`.
pub(super) fn is_subject(pattern: &str) -> bool {
    let attribute = pattern.split_once('=');
    attribute.is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.')
    })
}

/// Whether this is a subject alternative name with one of the types that are compared.
pub(super) fn is_name(pattern: &str) -> bool {
    let types = ["DNS:", "URI:", "email:", "IP:"];
    types.iter().any(|name| pattern.starts_with(name))
}

/// Reads a fingerprint in hex, in the form of this proxy or with colons as OpenSSL writes it.
pub(super) fn fingerprint(text: &RawString<'_>, out: &mut Problems) -> Option<String> {
    let digits: String = text.value.chars().filter(|c| *c != ':').collect();
    if digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Some(digits.to_ascii_lowercase());
    }
    let message = format!("{} is not a fingerprint", quote(text.value));
    out.error(text.span.clone(), message)
        .label("expected a SHA-256 of 64 hex digits")
        .help("`openssl x509 -in client.pem -noout -fingerprint -sha256` prints it");
    None
}
