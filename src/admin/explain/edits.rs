//! Explains how the head of the request, and that of its response, is edited.

use super::Explanation;
use crate::admin::request::DescribedRequest;
use crate::config::actions::{Answer, FieldEdits, HeaderEdits};
use crate::config::spec::ServiceSpec;
use crate::index::{RuleIx, VersionIx};
use crate::proxy::LocalReply;
use crate::routing::redirect::{self, RedirectSource};
use crate::routing::rewrite;
use crate::snapshot::Service;

impl Explanation {
    /// Adds the new path and host, the location of a redirect, and the edits of header fields. `versions` may get the request.
    pub(super) fn explain_edits(
        &mut self,
        (spec, service): (&ServiceSpec, &Service),
        rule: Option<RuleIx>,
        versions: &[VersionIx],
        request: &DescribedRequest,
    ) {
        let mut path = request.path.clone();
        if let Some(change) = service.actions.rewrite(rule) {
            let new = change.path.as_ref().filter(|_| path != b"*");
            let new = new.map(|c| rewrite::rewritten(c, request.typed_path(), &request.path));
            match new {
                Some(Err(rewrite::Ambiguous)) => {
                    self.set_answer(LocalReply::AMBIGUOUS_PATH);
                    self.version = None;
                    let why =
                        "ambiguous path: `rewrite` would make one that can be read in two ways";
                    self.why.push(why.to_owned());
                    return;
                }
                Some(Ok(Some(new))) => {
                    self.why.push(format!(
                        "the path becomes {}",
                        String::from_utf8_lossy(&new)
                    ));
                    path = new;
                }
                Some(Ok(None)) | None => {}
            }
            if let Some(host) = &change.host {
                self.why.push(format!("endpoints get the host {host}"));
            }
        }
        let answer = answer(spec, rule, versions, self.answer.is_some());
        if let Some(Answer::Redirect(redirect)) = answer {
            let query = request.query_with_mark();
            let from = RedirectSource {
                secure: request.secure,
                host: &request.host,
                path: &path,
                query: query.as_bytes(),
            };
            let to = redirect::location(&redirect.to, &from).unwrap_or_default();
            self.why.push(format!("location: {to}"));
        }
        let version = match versions {
            [version] => Some(*version),
            _ => None,
        };
        let edits = spec.header_edits(rule, version);
        self.explain_fields(&edits, self.answer.is_none());
    }

    fn explain_fields(&mut self, edits: &HeaderEdits, is_forwarded: bool) {
        let heads = [("request", &edits.request), ("response", &edits.response)];
        for (head, fields) in heads {
            if !fields.is_empty() && (is_forwarded || head == "response") {
                self.why
                    .push(format!("{head} headers: {}", sentence(fields)));
            }
        }
    }
}

/// The answer that the configuration gives, if the decision refers to one.
fn answer<'s>(
    spec: &'s ServiceSpec,
    rule: Option<RuleIx>,
    versions: &[VersionIx],
    is_answered: bool,
) -> Option<&'s Answer> {
    if !is_answered || !versions.is_empty() {
        return None;
    }
    let of_rule = rule.and_then(|rule| spec.rules[rule].actions.answer.as_ref());
    of_rule.or(spec.actions.answer.as_ref())
}

fn sentence(fields: &FieldEdits) -> String {
    let put = fields.put.iter().map(|(name, value)| {
        let verb = match fields.drop.contains(name) {
            true => "set",
            false => "add",
        };
        format!("{verb} {name}: {value}")
    });
    let is_set = |name: &String| fields.put.iter().any(|(put, _)| put == name);
    let removed = fields.drop.iter().filter(|name| !is_set(name));
    let removed = removed.map(|name| format!("remove {name}"));
    put.chain(removed).collect::<Vec<_>>().join("; ")
}
