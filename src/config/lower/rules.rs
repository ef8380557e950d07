//! `match` rules and the cohort: both refer to attributes of a request.

use super::client_limits::{LimitScope, client_limits};
use super::tls_conditions::{self, tls_conditions};
use super::{
    answers, expression, headers, is_token, listeners, not_a_token, rewrite, split, unknown_word,
};
use crate::config::actions::Actions;
use crate::config::condition::SubjectKey;
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::spec::{
    CohortKey, CohortSpec, Condition, Conditions, Pattern, RuleSpec, Subject, VersionSpec,
};
use crate::config::suggest::suggest;
use crate::config::units::quote;
use crate::index::VersionIx;

/// The versions that a rule may name.
#[derive(Clone, Copy)]
pub(super) struct Targets<'v> {
    pub(super) versions: &'v [VersionSpec],
    /// Whether the service has no versions, and is valid without.
    pub(super) none_needed: bool,
}

/// Reads `[[service.NAME.match]]`.
pub(super) fn rules(
    value: &RawValue<'_>,
    targets: Targets<'_>,
    out: &mut Problems,
) -> Vec<RuleSpec> {
    value
        .tables(out)
        .iter()
        .filter_map(|item| rule(item, targets, out))
        .collect()
}

fn rule(item: &RawValue<'_>, targets: Targets<'_>, out: &mut Problems) -> Option<RuleSpec> {
    let mut table = item.table("a table with `when`, and `to` or what to do", out)?;
    let when = table
        .need(
            "when",
            out,
            "write `when = { header.x-canary = \"always\" }`",
        )
        .map(|when| {
            alternatives(
                &when,
                "to send every request to a version, make it `stable`",
                out,
            )
        })
        .unwrap_or_default();
    let actions = Actions {
        answer: answers::answer(&mut table, out),
        headers: headers::headers(&mut table, out),
        rewrite: rewrite::rewrite(&mut table, out),
    };
    let to = target(&mut table, targets, out);
    let strict = table.take("strict");
    if let Some(strict) = strict.as_ref().filter(|_| !table.has("to")) {
        out.error(strict.key.clone(), "`strict` has no effect without `to`")
            .label("the rule names no version")
            .help("leave it out");
    }
    let strict = strict.and_then(|v| v.flag(out)).unwrap_or(false);
    let client_limits = table
        .take("client_limits")
        .and_then(|value| client_limits(&value, LimitScope::Requests, out));
    table.finish(out);
    Some(RuleSpec {
        when,
        to,
        strict,
        client_limits,
        actions,
    })
}

/// Keys of a rule that have an effect without a version and without an answer.
const NEEDS_NO_VERSION: [&str; 3] = ["headers", "rewrite", "client_limits"];

/// Reads `to`, which a rule with an answer doesn't have.
fn target(table: &mut RawTable<'_>, targets: Targets<'_>, out: &mut Problems) -> Option<VersionIx> {
    let value = match answers::has_answer(table) {
        true => {
            let to = table.take("to")?;
            out.error(to.key, "a rule has either `to` or an answer of its own")
                .label("no version gets these requests")
                .help("leave out `to`, or the answer");
            return None;
        }
        // A rule that only edits or limits requests leaves the choice to session, cohort and split.
        false if NEEDS_NO_VERSION.iter().any(|key| table.has(key)) => table.take("to")?,
        false => table.need(
            "to",
            out,
            "name the version that gets these requests: `to = \"…\"`",
        )?,
    };
    let text = value.text("the name of a version", out)?;
    if targets.none_needed {
        out.error(text.span, "the service has no versions")
            .label("no version has this name")
            .help("write `respond` instead of `to`, or add `versions`");
        return None;
    }
    split::version(&text, &value.path, targets.versions, out)
}

const CONDITIONS: &str = "a table such as { header.x-canary = \"always\" }";

/// Reads `when`: conditions, or a list of alternatives. `without` is the help for a table without a condition.
pub(super) fn alternatives(
    when: &RawValue<'_>,
    without: &str,
    out: &mut Problems,
) -> Vec<Conditions> {
    let Some(items) = when.as_list() else {
        return vec![conditions(when, without, out)];
    };
    if items.is_empty() {
        when.empty(out);
    }
    let all = items.iter().map(|item| conditions(item, without, out));
    all.collect()
}

/// Reads conditions and, under `not`, those that must not hold.
fn conditions(when: &RawValue<'_>, without: &str, out: &mut Problems) -> Conditions {
    let Some(mut table) = when.table(CONDITIONS, out) else {
        return Conditions::default();
    };
    let before = out.len();
    let all = plain(&mut table, out);
    let mut none = Vec::new();
    if let Some(not) = table.take("not")
        && let Some(mut inner) = not.table(CONDITIONS, out)
    {
        let before = out.len();
        none = plain(&mut inner, out);
        inner.finish(out);
        if none.is_empty() && out.len() == before {
            not.empty(out);
        }
    }
    table.finish(out);
    if all.is_empty() && none.is_empty() && out.len() == before {
        out.error(
            when.span.clone(),
            format!("`{}` has no condition", when.path),
        )
        .label("expected at least one condition")
        .help(without)
        .absence();
    }
    Conditions { all, none }
}

/// Reads the conditions of one table.
fn plain(table: &mut RawTable<'_>, out: &mut Problems) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for (key, subject) in Subject::KEYS.iter().filter(|(key, _)| !key.contains('.')) {
        let Some(value) = table.take(key) else {
            continue;
        };
        match subject {
            SubjectKey::Plain(subject) => conditions.push(condition(subject.clone(), &value, out)),
            SubjectKey::Named(named) => conditions.extend(of_names(key, *named, value, out)),
        }
    }
    conditions.extend(tls_conditions(table, condition, out));
    conditions
}

/// Reads `KEY.NAME = …`, of which there may be several.
fn of_names(
    key: &str,
    subject: fn(String) -> Subject,
    value: RawValue<'_>,
    out: &mut Problems,
) -> Vec<Condition> {
    let Some(names) = value.as_table() else {
        out.error(value.key, format!("`{}` needs a name", value.path))
            .label(format!("expected `{key}.NAME = …`"));
        return Vec::new();
    };
    let of_name = |(name, value): (&str, RawValue<'_>)| {
        let subject = match subject(name.to_owned()) {
            Subject::Header(name) => Subject::Header(name.to_ascii_lowercase()),
            other => other,
        };
        let is_free = matches!(subject, Subject::Query(_));
        if name.is_empty() || !(is_free || is_token(name)) {
            out.error(
                value.key.clone(),
                format!("{} is not the name of a {key}", quote(name)),
            )
            .label("expected letters, digits and `-`");
        }
        condition(subject, &value, out)
    };
    names.named().map(of_name).collect()
}

fn condition(subject: Subject, value: &RawValue<'_>, out: &mut Problems) -> Condition {
    let expected = match subject {
        Subject::Ip => "an address or a network such as \"10.0.0.0/8\"",
        _ => "a value, a glob or a \"/regex/\"",
    };
    let texts = value.texts(expected, out);
    let patterns = texts
        .iter()
        .filter_map(|text| match subject {
            Subject::Ip => listeners::network(text, out).map(Pattern::Net),
            Subject::ClientFingerprint if tls_conditions::is_plain(text.value) => {
                tls_conditions::fingerprint(text, out).map(Pattern::Exact)
            }
            _ => pattern(&subject, text, &value.path, out),
        })
        .collect();
    Condition { subject, patterns }
}

fn pattern(
    subject: &Subject,
    text: &RawString<'_>,
    path: &str,
    out: &mut Problems,
) -> Option<Pattern> {
    let typed = text.value;
    if typed.len() > 2
        && let Some(inner) = typed.strip_prefix('/').and_then(|t| t.strip_suffix('/'))
    {
        // Without any special character, it is more likely a path with a slash at its end.
        if *subject == Subject::Path && regex::escape(inner) == inner {
            out.warning(
                text.span.clone(),
                format!("{} is read as a regular expression", quote(typed)),
            )
            .label(format!("matches every path that contains {}", quote(inner)))
            .help(format!("did you mean {}?", quote(&format!("/{inner}/*"))));
        }
        return expression(inner, text, out);
    }
    if typed.contains(['*', '?']) {
        return Some(Pattern::Glob(typed.to_owned()));
    }
    let why = match subject {
        Subject::Method if !is_token(typed) => "expected a method such as \"GET\"",
        Subject::Method if typed.bytes().all(|b| b.is_ascii_lowercase()) => {
            "methods are written in capitals"
        }
        Subject::Path if !typed.starts_with('/') => "a path begins with `/`",
        Subject::ClientSubject if !tls_conditions::is_subject(typed) => {
            "expected a subject as in RFC 4514, such as \"CN=partner,O=Example\""
        }
        Subject::ClientSan if !tls_conditions::is_name(typed) => {
            "expected a name with its type: \"DNS:…\", \"URI:…\", \"email:…\" or \"IP:…\""
        }
        _ => return Some(Pattern::Exact(typed.to_owned())),
    };
    let message = format!("{} in `{path}` would never match", quote(typed));
    let problem = out.error(text.span.clone(), message);
    problem.label(why);
    if *subject == Subject::Method && is_token(typed) {
        problem.help(format!(
            "did you mean {}?",
            quote(&typed.to_ascii_uppercase())
        ));
    }
    None
}

fn expression(inner: &str, text: &RawString<'_>, out: &mut Problems) -> Option<Pattern> {
    expression::compiled(inner, text, out).map(Pattern::Regex)
}

/// Reads `[service.NAME.cohort]`.
pub(super) fn cohort(
    value: &RawValue<'_>,
    service: &str,
    out: &mut Problems,
) -> Option<CohortSpec> {
    let mut table = value.table("a table with `by`", out)?;
    let by = table.need("by", out, "write `by = [\"cookie:uid\", \"ip\"]`");
    let keys = by.map_or_else(Vec::new, |by| request_keys(&by, out));
    let salt = table
        .take("salt")
        .and_then(|v| v.text("a string", out))
        .map_or_else(|| service.to_owned(), |t| t.value.to_owned());
    table.finish(out);
    Some(CohortSpec { by: keys, salt })
}

/// Reads one or more request attributes that identify a user.
pub(super) fn request_keys(value: &RawValue<'_>, out: &mut Problems) -> Vec<CohortKey> {
    let expected = "\"cookie:NAME\", \"header:NAME\", \"query:NAME\" or \"ip\"";
    let texts = value.texts(expected, out);
    texts
        .iter()
        .filter_map(|text| request_key(text, &value.path, out))
        .collect()
}

fn request_key(text: &RawString<'_>, path: &str, out: &mut Problems) -> Option<CohortKey> {
    if text.value == "ip" {
        return Some(CohortKey::Ip);
    }
    let kinds = ["cookie", "header", "query", "ip"];
    match text.value.split_once(':') {
        Some((kind @ ("cookie" | "header"), name)) if !is_token(name) => {
            not_a_token(kind, name, text, out);
            None
        }
        Some(("cookie", name)) => Some(CohortKey::Cookie(name.to_owned())),
        Some(("header", name)) => Some(CohortKey::Header(name.to_ascii_lowercase())),
        Some(("query", name)) if !name.is_empty() => Some(CohortKey::Query(name.to_owned())),
        Some((kind, _)) if kind != "ip" => {
            let message = format!("{} is not a value of `{path}`", quote(text.value));
            out.error(text.span.clone(), message)
                .label("expected \"cookie:NAME\", \"header:NAME\", \"query:NAME\" or \"ip\"")
                .help(suggest(kind, &kinds, "the kinds are"));
            None
        }
        _ => {
            unknown_word(
                text,
                path,
                &["cookie:NAME", "header:NAME", "query:NAME", "ip"],
                out,
            );
            None
        }
    }
}
