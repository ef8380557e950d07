//! Turns the text of a configuration into a valid [`Spec`], or reports every error in it at once.
//!
//! A text passes through three stages. `syntax` parses TOML and recovers from its errors; `raw` walks the parsed document,
//! keeping the span of each value and the keys that each table accepts; `lower` checks the values and builds the [`Spec`].
//! All of them report to one collector, and a spec is returned only if it holds no error. [`load`](load()) does this for a
//! file and those that it includes, which `bundle` holds in one text and `merge` in one document. [`edit`] changes a file's
//! text without disturbing comments or layout.

pub mod access_log;
pub mod acme;
pub mod actions;
mod bodies;
pub mod bundle;
pub mod client_limit;
pub mod condition;
mod defaults;
pub(crate) mod diagnostic;
pub mod edit;
mod endpoint;
pub mod file_edit;
pub mod file_set;
pub mod flag;
pub mod fleet;
mod foreign;
pub mod glob;
pub mod include;
mod keys;
pub mod load;
mod locate;
mod lower;
mod masking;
mod merge;
pub mod mirror;
pub mod paths;
pub mod policy;
mod position;
mod problem;
mod problems;
mod quantity_hint;
mod raw;
mod remedy;
pub mod replace;
pub mod rollout;
pub mod secret;
pub mod sections;
mod share;
pub mod shared;
pub mod spec;
mod suggest;
mod syntax;
pub mod template;
pub mod trace;
mod transport;
pub mod units;
mod value;

pub use diagnostic::{Diagnostic, Severity};
pub use load::{LoadFailure, Loaded, load};
pub use locate::PathStep;
pub use spec::Spec;

use bundle::FilePart;
use problems::Problems;

/// Parses and validates a configuration. `file_name` is used in diagnostics only; no file is read.
///
/// # Errors
/// Returns every error in the text, in text order.
pub fn parse(text: &str, file_name: &str) -> Result<Spec, Vec<Diagnostic>> {
    parse_with_warnings(text, file_name).map(|(spec, _)| spec)
}

/// Parses a text that may hold included files, see [`bundle`].
///
/// # Errors
/// Returns every error in the text, in text order.
pub fn parse_bundle(text: &str, file_name: &str) -> Result<Spec, Vec<Diagnostic>> {
    parse_parts(text, &bundle::parts(text), file_name).map(|(spec, _)| spec)
}

/// Like [`parse_bundle`], but also returns warnings, and reads the bodies that are part of the configuration.
///
/// # Errors
/// Returns every error in the text, in text order, or else the errors of the bodies.
pub fn parse_with_files(
    text: &str,
    file_name: &str,
) -> Result<(Spec, Vec<Diagnostic>), Vec<Diagnostic>> {
    let parts = bundle::parts(text);
    let (mut spec, warnings) = parse_parts(text, &parts, file_name)?;
    bodies::read(&mut spec, &parts, file_name)?;
    Ok((spec, warnings))
}

/// Like [`parse`], but also returns warnings: settings that are valid but probably not intended.
///
/// # Errors
/// Returns every error in the text, in text order. Warnings are dropped then.
pub fn parse_with_warnings(
    text: &str,
    file_name: &str,
) -> Result<(Spec, Vec<Diagnostic>), Vec<Diagnostic>> {
    parse_parts(text, &[FilePart::single(text)], file_name)
}

fn parse_parts(
    text: &str,
    parts: &[FilePart<'_>],
    file_name: &str,
) -> Result<(Spec, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut problems = Problems::default();
    let mut readable = String::with_capacity(text.len());
    for part in parts {
        // The path of the second file stands between the two.
        readable.push_str(&text[readable.len()..part.start]);
        let mut found = Problems::default();
        if foreign::foreign(part, &mut found) {
            problems.append(found, part.start);
            let (errors, _) = problems.finish(parts, file_name);
            return Err(errors);
        }
        readable.push_str(&syntax::repair(part.text, &mut found));
        problems.append(found, part.start);
    }
    let root = merge::document(&readable, parts, &mut problems);
    let spec = lower::lower(&readable, root.get_ref(), &mut problems);
    let (errors, warnings) = problems.finish(parts, file_name);
    if errors.is_empty() {
        Ok((spec, warnings))
    } else {
        Err(errors)
    }
}
