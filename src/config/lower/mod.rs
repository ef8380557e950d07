//! Builds a [`Spec`] from the raw document: checks values, resolves names, converts units and fills in defaults.
//!
//! There is a file for each part of the configuration. Every function reports errors to [`Problems`] and continues with a
//! placeholder value, so that one run finds all of them. The resulting spec may be used only if there were no errors.

mod access_log;
mod acme;
mod answers;
mod balance;
mod bind;
mod client_limits;
mod conflicts;
mod dns;
mod endpoints;
mod expression;
mod flags;
mod fleet;
mod headers;
mod health;
mod include;
mod listeners;
mod mirror;
mod order;
mod outlier;
mod policies;
mod proxy;
mod retry;
mod rewrite;
mod rollout;
mod route;
mod rules;
mod service;
mod split;
mod sticky;
mod tls_conditions;
mod trace;
mod upstream_tls;
mod url;
mod versions;

use toml::de::DeTable;

use super::bundle::FilePart;
use super::fleet::{FleetSpec, SharedTable};
use super::paths;
use super::problems::{Problem, Problems};
use super::raw::{RawString, RawTable, RawValue};
use super::spec::Spec;
use super::units::quote;

/// Reads the whole document. The result is valid only if no error was reported to `out`.
pub(super) fn lower<'t>(source: &'t str, root: &'t DeTable<'t>, out: &mut Problems) -> Spec {
    let after_syntax = out.len();
    let mut file = RawTable::root(source, root);
    let (mut listeners, binds, named) = listeners::listeners(&mut file, out);
    let admin = proxy::admin(&mut file, &binds, out);
    let defaults = policies::defaults(&mut file, out);
    let workers = proxy::workers(&mut file, out);
    let state_dir = { file.take("state_dir") }.and_then(|v| proxy::file_path(&v, out));
    let shutdown = proxy::shutdown(&mut file, out);
    let limits = proxy::limits(&mut file, out);
    let access_log = access_log::access_log(&mut file, out);
    let trace = trace::trace(&mut file, out);
    let state = paths::state_dir(state_dir.as_deref());
    let acme = acme::acme(&mut file, &mut listeners, &state, out);
    let dns = dns::dns(&mut file, out);
    let fleet = fleet::fleet(&mut file, out);
    include::check(&mut file, out);
    let around = service::Around {
        body_bytes: limits.body_bytes,
        named: &named,
        shares: { fleet.as_ref() }.is_some_and(|fleet| fleet.share.contains(&SharedTable::Service)),
    };
    let services = service::services(&mut file, &defaults, &around, out);
    listeners::check_services(&named, &services, out);
    let spec = Spec {
        headers: defaults.headers.clone(),
        workers,
        admin,
        state_dir,
        shutdown,
        limits,
        access_log,
        trace,
        acme,
        dns,
        fleet,
        listeners,
        services,
    };
    file.finish(out);
    out.forget_consequences(after_syntax);
    spec
}

/// Reads `[fleet]` alone, whatever else the file has. `None` without it, or if it isn't valid.
pub(super) fn fleet_alone(source: &str, root: &DeTable<'_>) -> Option<FleetSpec> {
    let mut out = Problems::default();
    let fleet = fleet::fleet(&mut RawTable::root(source, root), &mut out);
    // A warning doesn't matter here.
    let (errors, _) = out.finish(&[FilePart::single(source)], "");
    fleet.filter(|_| errors.is_empty())
}

/// Checks the name of a listener, service or version. It occurs in metrics, URLs and commands, so the characters are limited
/// to those that need no escaping there.
fn check_name(name: &str, value: &RawValue<'_>, what: &str, out: &mut Problems) {
    let good = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !good {
        let message = format!("{} can't be the name of a {what}", quote(name));
        out.error(value.key.clone(), message).label(
            "expected 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit",
        );
    }
}

/// Reports that `name`, a part of `text`, is not the name of a header or cookie.
fn not_a_token(kind: &str, name: &str, text: &RawString<'_>, out: &mut Problems) {
    let message = format!("{} is not the name of a {kind}", quote(name));
    out.error(text.part_of(name), message)
        .label("expected letters, digits and `-`");
}

/// Returns whether `text` is a token (RFC 9110 section 5.6.2), the form of field names, cookie names and methods.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Reports that `text` is not one of the known words.
fn unknown_word<'p>(
    text: &RawString<'_>,
    path: &str,
    known: &[&str],
    out: &'p mut Problems,
) -> &'p mut Problem {
    let message = format!("{} is not a value of `{path}`", quote(text.value));
    out.error(text.span.clone(), message)
        .label(format!("expected \"{}\"", known.join("\" or \"")))
        .help(super::suggest::suggest(text.value, known, "the values are"))
}
