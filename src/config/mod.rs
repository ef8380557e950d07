//! Text to a valid [`Spec`], or every diagnostic at once.
//!
//! The life of a text: `syntax` (TOML, with all its errors) → `raw` (a walk that knows where each value
//! stands and which keys are known) → `lower` (raw to spec) → [`Spec`]. [`load`](load()) does it for a file; [`edit`]
//! changes a file's text without touching what it need not touch.

mod defaults;
pub(crate) mod diagnostic;
pub mod edit;
mod foreign;
mod keys;
pub mod load;
mod locate;
mod lower;
mod meant;
pub(crate) mod paths;
pub mod policy;
mod problems;
mod raw;
mod remedy;
mod replace;
pub(crate) mod secret;
pub mod spec;
mod syntax;
pub(crate) mod units;
mod value;

pub use diagnostic::{Diagnostic, Severity};
pub use load::{LoadFailure, Loaded, load};
pub use locate::PathStep;
pub use spec::Spec;

use toml::de::DeTable;

use problems::Problems;

/// Reads a configuration. `file_name` is only for messages.
///
/// # Errors
/// Every error of the text, in the order of the text.
pub fn parse(text: &str, file_name: &str) -> Result<Spec, Vec<Diagnostic>> {
    parse_with_warnings(text, file_name).map(|(spec, _)| spec)
}

/// Like [`parse`], with what is valid but probably not meant.
///
/// # Errors
/// Every error of the text, in the order of the text.
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
    root.get_mut().remove(syntax::NOWHERE);
    let spec = lower::lower(&readable, root.get_ref(), &mut problems);
    let (errors, warnings) = problems.finish(text, file_name);
    if errors.is_empty() {
        Ok((spec, warnings))
    } else {
        Err(errors)
    }
}
