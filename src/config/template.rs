//! Texts with placeholders in braces, such as `"{client_ip}"`: values of header fields and targets of redirects.

use std::fmt;
use std::ops::Range;

use super::suggest::suggest;
use super::units::quote;

words! {
    /// A value of the request that a text may refer to.
    pub enum Placeholder {
        /// The client's address, as determined with `trusted_proxies`.
        ClientIp "client_ip",
        /// The host in lower case, without port.
        Host "host",
        /// The value of `x-request-id`.
        RequestId "request_id",
        /// The name of the service.
        Service "service",
        /// The name of the version.
        Version "version",
        /// The endpoint, as the configuration writes it.
        Endpoint "endpoint",
        /// The TLS version of the client's connection, such as `TLSv1.3`.
        TlsVersion "tls.version",
        /// The subject of the client's certificate.
        TlsSubject "tls.client.subject",
        /// The subject alternative names of the client's certificate.
        TlsSan "tls.client.san",
        /// The SHA-256 fingerprint of the client's certificate.
        TlsFingerprint "tls.client.fingerprint",
        /// `http` or `https`.
        Scheme "scheme",
        /// The path, after `rewrite`.
        Path "path",
        /// The query with its question mark; empty if there is none.
        Query "query",
    }
}

impl Placeholder {
    /// The placeholders that values of header fields may contain.
    pub(super) const OF_FIELDS: &[Self] = &[
        Self::ClientIp,
        Self::Host,
        Self::RequestId,
        Self::Service,
        Self::Version,
        Self::Endpoint,
        Self::TlsVersion,
        Self::TlsSubject,
        Self::TlsSan,
        Self::TlsFingerprint,
    ];
    /// The placeholders that targets of redirects may contain.
    pub(super) const OF_REDIRECTS: &[Self] = &[Self::Scheme, Self::Host, Self::Path, Self::Query];
}

/// A text with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Parts of the text, in order. Never two texts in a row.
    pub parts: Vec<TemplatePart>,
}

/// A part of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    /// Literal text.
    Text(String),
    /// The value of the request.
    Value(Placeholder),
}

/// Why a text can't be parsed as a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TemplateError {
    /// The range of bytes that is wrong.
    pub(super) at: Range<usize>,
    pub(super) message: String,
    pub(super) label: &'static str,
    pub(super) help: String,
}

impl Template {
    /// Parses a text that may contain these placeholders. A literal brace is written twice.
    pub(super) fn parse(text: &str, allowed: &[Placeholder]) -> Result<Self, TemplateError> {
        let mut template = Self::default();
        let mut at = 0;
        while let Some(found) = text[at..].find(['{', '}']) {
            let brace = at + found;
            template.push(&text[at..brace]);
            let rest = &text[brace..];
            if let Some(twice) = ["{{", "}}"].into_iter().find(|two| rest.starts_with(two)) {
                template.push(&twice[..1]);
                at = brace + 2;
                continue;
            }
            let end = rest.find('}').map(|end| brace + end);
            let (Some(end), true) = (end, rest.starts_with('{')) else {
                return Err(TemplateError {
                    at: brace..brace + 1,
                    message: "this brace belongs to no placeholder".to_owned(),
                    label: "expected a form such as \"{host}\"",
                    help: "to send a brace, write it twice".to_owned(),
                });
            };
            let name = &text[brace + 1..end];
            let known = Placeholder::parse(name).filter(|p| allowed.contains(p));
            let Some(value) = known else {
                let names: Vec<&str> = allowed.iter().map(|p| p.as_str()).collect();
                return Err(TemplateError {
                    at: brace..end + 1,
                    message: format!("{} is not a placeholder here", quote(name)),
                    label: "not a value that is known here",
                    help: suggest(name, &names, "the placeholders are"),
                });
            };
            template.parts.push(TemplatePart::Value(value));
            at = end + 1;
        }
        template.push(&text[at..]);
        Ok(template)
    }

    /// Renders the text. `put` appends the value of a placeholder, and returns `None` if it has none; then the text has none
    /// either.
    pub fn render(
        &self,
        mut put: impl FnMut(Placeholder, &mut Vec<u8>) -> Option<()>,
    ) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) => out.extend_from_slice(text.as_bytes()),
                TemplatePart::Value(placeholder) => put(*placeholder, &mut out)?,
            }
        }
        Some(out)
    }

    fn push(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(TemplatePart::Text(last)) => last.push_str(text),
            _ => self.parts.push(TemplatePart::Text(text.to_owned())),
        }
    }
}

impl fmt::Display for Template {
    /// Writes the text as in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) => {
                    f.write_str(&text.replace('{', "{{").replace('}', "}}"))?;
                }
                TemplatePart::Value(value) => write!(f, "{{{value}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_placeholders_alternate_and_are_written_back() {
        let template = |text: &str| Template::parse(text, Placeholder::OF_FIELDS);
        for text in [
            "",
            "prod",
            "{host}",
            "a{host}{client_ip}b",
            "{{\"a\": {host}}}",
        ] {
            let parsed = template(text).expect(text);
            assert_eq!(parsed.to_string(), text);
        }
        let parsed = template("{{x}}{tls.version}").expect("valid");
        let expected = [
            TemplatePart::Text("{x}".to_owned()),
            TemplatePart::Value(Placeholder::TlsVersion),
        ];
        assert_eq!(parsed.parts, expected);
        for (text, at) in [
            ("a}", 1..2),
            ("{host", 0..1),
            ("x{hots}", 1..7),
            ("{path}", 0..6),
        ] {
            assert_eq!(template(text).expect_err(text).at, at, "{text}");
        }
    }
}
