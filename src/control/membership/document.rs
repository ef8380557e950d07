//! The document of a member about itself, as JSON under its key. The documents of others are untrusted.

use serde::{Deserialize, Serialize};

use crate::admin::fleet::{Fingerprints, KnownMember};

/// Longest text of a document, in bytes.
const MAX_TEXT: usize = 64;
/// Most services of a document.
const MAX_SERVICES: usize = 1024;

/// The document. Members of later releases may add fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberDocument {
    /// Version of the program.
    pub version: String,
    /// A random text that distinguishes processes.
    pub instance: String,
    #[serde(flatten)]
    pub fingerprints: Fingerprints,
}

impl MemberDocument {
    /// The value of the member's key.
    pub(super) fn to_value(&self) -> Vec<u8> {
        // Strings and maps of strings can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Returns the name of the member that a key belongs to, if it can be one.
pub(super) fn member_name<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(prefix).filter(|name| is_word(name))
}

/// Reads the value of a member's key.
///
/// # Errors
/// A message that says what is wrong with the value.
pub(super) fn read(value: &[u8]) -> Result<KnownMember, &'static str> {
    let read: MemberDocument = serde_json::from_slice(value).map_err(|_| "not a member")?;
    let Fingerprints {
        plans,
        sticky,
        cohorts,
    } = &read.fingerprints;
    let maps = [plans, sticky, cohorts];
    if maps.iter().any(|map| map.len() > MAX_SERVICES) {
        return Err("too many services");
    }
    let texts = maps
        .iter()
        .flat_map(|map| map.iter())
        .flat_map(|(k, v)| [k, v]);
    if !texts
        .chain([&read.version, &read.instance])
        .all(|text| is_word(text))
    {
        return Err("texts with unexpected characters");
    }
    Ok(KnownMember {
        version: read.version,
        instance: read.instance,
        fingerprints: read.fingerprints,
    })
}

/// Whether a text is fit to be shown, and to be part of a key.
fn is_word(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
    !text.is_empty() && text.len() <= MAX_TEXT && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn document() -> MemberDocument {
        MemberDocument {
            version: "0.1.0".to_owned(),
            instance: "00ff".to_owned(),
            fingerprints: Fingerprints {
                plans: BTreeMap::from([("shop".to_owned(), "0123".to_owned())]),
                ..Fingerprints::default()
            },
        }
    }

    #[test]
    fn what_a_member_writes_can_be_read() {
        let read = read(&document().to_value()).expect("a member");
        assert_eq!(read.fingerprints.plans["shop"], "0123");
        assert_eq!(read.version, "0.1.0");
    }

    #[test]
    fn what_the_first_members_said_can_be_read() {
        // Written by the first program that shared rollouts (commit a924f2a).
        let value = include_bytes!("../../../tests/fleet_values/member.json");
        let read = read(value).expect("a member");
        assert_eq!(read.fingerprints.plans["app"], "fb1cae43306a01cb");
        assert_eq!(read.instance, "39d0d8c8df7ab62c");
    }

    #[test]
    fn fields_of_later_releases_are_ignored() {
        let value = br#"{"version":"9.0","instance":"1","region":"eu","sticky":{}}"#;
        assert_eq!(read(value).expect("a member").version, "9.0");
    }

    #[test]
    fn hostile_documents_are_refused() {
        assert!(read(b"").is_err());
        assert!(read(b"[]").is_err());
        assert!(read(br#"{"version":"1"}"#).is_err());
        let escape = br#"{"version":"\u001b[2J","instance":"1"}"#;
        assert!(read(escape).is_err(), "control characters");
        let long = format!(r#"{{"version":"{}","instance":"1"}}"#, "9".repeat(65));
        assert!(read(long.as_bytes()).is_err());
        let mut many = document();
        many.fingerprints.sticky = (0..=MAX_SERVICES)
            .map(|n| (format!("s{n}"), "0".to_owned()))
            .collect();
        assert!(read(&many.to_value()).is_err());
    }

    #[test]
    fn keys_of_members_have_one_more_part() {
        let prefix = "/cutover/front/members/";
        assert_eq!(
            member_name("/cutover/front/members/a-1", prefix),
            Some("a-1")
        );
        for key in [
            "/cutover/front/members/",
            "/cutover/front/members/a/b",
            "/cutover/other/members/a",
        ] {
            assert_eq!(member_name(key, prefix), None, "{key}");
        }
    }
}
