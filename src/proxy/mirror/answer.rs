//! The parts of a response that are compared.

use crate::config::mirror::{MirrorDiff, MirrorSpec};

/// A response, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ComparedAnswer {
    pub status: u16,
    /// The values of the fields that are compared, in the order of the configuration; `None` for an absent field.
    pub fields: Vec<Option<String>>,
    pub body: ComparedBody,
}

/// A body, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ComparedBody {
    /// The body isn't compared, or isn't JSON by its content type.
    NotJson,
    /// The part of a JSON text that has arrived.
    Json(Vec<u8>),
    /// A JSON text that can't be compared: too large, compressed, or incomplete.
    Unusable,
}

impl ComparedAnswer {
    /// A response whose head has arrived. `value` returns the values of a field, joined by commas.
    pub(super) fn of_head(
        spec: &MirrorSpec,
        status: u16,
        value: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let fields = spec.diff.iter().filter_map(|diff| match diff {
            MirrorDiff::Header(name) => Some(value(name)),
            MirrorDiff::Status | MirrorDiff::Json => None,
        });
        let is_json = || value("content-type").is_some_and(|kind| is_json(&kind));
        Self {
            status,
            fields: fields.collect(),
            body: match spec.compares_json() && is_json() {
                false => ComparedBody::NotJson,
                true if value("content-encoding").is_some() => ComparedBody::Unusable,
                true => ComparedBody::Json(Vec::new()),
            },
        }
    }

    /// Whether the bytes of its body are of interest.
    pub(super) fn takes_body(&self) -> bool {
        matches!(self.body, ComparedBody::Json(_))
    }

    /// Gives up the body, because it is too large to be compared.
    pub(super) fn give_up_body(&mut self) {
        if self.takes_body() {
            self.body = ComparedBody::Unusable;
        }
    }

    /// Adds bytes of the body, of which at most `most` are kept.
    pub(super) fn push(&mut self, data: &[u8], most: usize) {
        let ComparedBody::Json(text) = &mut self.body else {
            return;
        };
        if text.len() + data.len() > most {
            self.body = ComparedBody::Unusable;
        } else {
            text.extend_from_slice(data);
        }
    }
}

/// Whether this is a media type of JSON texts: `application/json`, `application/problem+json` (RFC 6839 section 3.1).
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind.ends_with("/json") || kind.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(content_type: &str, encoding: Option<&str>) -> ComparedAnswer {
        let mut spec = MirrorSpec::to(crate::index::VersionIx(0));
        spec.diff = vec![MirrorDiff::Header("x-a".to_owned()), MirrorDiff::Json];
        ComparedAnswer::of_head(&spec, 200, |name| match name {
            "content-type" => Some(content_type.to_owned()),
            "content-encoding" => encoding.map(str::to_owned),
            _ => None,
        })
    }

    #[test]
    fn json_is_known_by_its_content_type() {
        for kind in [
            "application/json",
            "Application/Problem+JSON; charset=utf-8",
        ] {
            assert!(answer(kind, None).takes_body(), "{kind}");
        }
        for kind in ["text/html", "application/jsonp", ""] {
            assert_eq!(answer(kind, None).body, ComparedBody::NotJson, "{kind}");
        }
        let compressed = answer("application/json", Some("gzip"));
        assert_eq!(compressed.body, ComparedBody::Unusable);
        assert_eq!(compressed.fields, [None]);
    }

    #[test]
    fn a_body_beyond_the_cap_is_not_kept() {
        let mut answer = answer("application/json", None);
        answer.push(b"1234", 5);
        answer.push(b"5", 5);
        assert_eq!(answer.body, ComparedBody::Json(b"12345".to_vec()));
        answer.push(b"6", 5);
        answer.push(b"7", 5);
        assert_eq!(answer.body, ComparedBody::Unusable);
    }
}
