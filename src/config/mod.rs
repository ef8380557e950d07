//! Turns the text of a configuration into a valid [`Spec`], or reports every error in it at once.
//!
//! A text passes through three stages. `syntax` parses TOML and recovers from its errors; `raw` walks the parsed document,
//! keeping the span of each value and the keys that each table accepts; `lower` checks the values and builds the [`Spec`].
//! All of them report to one collector, and a spec is returned only if it holds no error. [`load`](load()) does this for a
//! file, and [`edit`] changes a file's text without disturbing comments or layout.

pub mod access_log;
pub mod actions;
mod bodies;
pub mod client_limit;
pub mod condition;
mod defaults;
pub(crate) mod diagnostic;
pub mod edit;
pub(crate) mod file_edit;
pub mod flag;
mod foreign;
mod keys;
pub mod load;
mod locate;
mod lower;
pub mod mirror;
pub(crate) mod paths;
pub mod policy;
mod problem;
mod problems;
mod quantity_hint;
mod raw;
mod remedy;
mod replace;
pub mod rollout;
pub(crate) mod secret;
mod share;
pub mod spec;
mod suggest;
mod syntax;
pub mod template;
pub(crate) mod units;
mod value;

pub use diagnostic::{Diagnostic, Severity};
pub use load::{LoadFailure, Loaded, load};
pub use locate::PathStep;
pub use spec::Spec;

use toml::de::DeTable;

use problems::Problems;

/// Parses and validates a configuration. `file_name` is used in diagnostics only; no file is read.
///
/// # Errors
/// Returns every error in the text, in text order.
pub fn parse(text: &str, file_name: &str) -> Result<Spec, Vec<Diagnostic>> {
    parse_with_warnings(text, file_name).map(|(spec, _)| spec)
}

/// Like [`parse_with_warnings`], but also reads the files that are part of the configuration.
///
/// # Errors
/// Returns every error in the text, in text order, or else those of the files.
pub(crate) fn parse_with_files(
    text: &str,
    file_name: &str,
) -> Result<(Spec, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (mut spec, warnings) = parse_with_warnings(text, file_name)?;
    bodies::read(&mut spec, text, file_name)?;
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
    let mut problems = Problems::default();
    if foreign::foreign(text, &mut problems) {
        let (errors, _) = problems.finish(text, file_name);
        return Err(errors);
    }
    let readable = syntax::repair(text, &mut problems);
    let (mut root, _) = DeTable::parse_recoverable(&readable);
    root.get_mut().remove(syntax::PLACEHOLDER);
    let spec = lower::lower(&readable, root.get_ref(), &mut problems);
    let (errors, warnings) = problems.finish(text, file_name);
    if errors.is_empty() {
        Ok((spec, warnings))
    } else {
        Err(errors)
    }
}
