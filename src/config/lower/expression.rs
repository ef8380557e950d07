//! Regular expressions.

use crate::config::problems::Problems;
use crate::config::raw::RawString;
use crate::config::units::quote;

/// The maximum size of a compiled regular expression in bytes.
const REGEX_SIZE: usize = 1 << 20;

/// Compiles a regular expression that stands in `text`.
pub(super) fn compiled(
    inner: &str,
    text: &RawString<'_>,
    out: &mut Problems,
) -> Option<regex::bytes::Regex> {
    let built = regex::bytes::RegexBuilder::new(inner)
        .size_limit(REGEX_SIZE)
        .nest_limit(100)
        .build();
    let why = match built {
        Ok(regex) => return Some(regex),
        Err(regex::Error::CompiledTooBig(_)) => {
            "it would take more than 1 MiB of memory".to_owned()
        }
        // The message shows the expression with carets on several lines; the last one says what is wrong.
        Err(error) => error
            .to_string()
            .lines()
            .last()
            .map(|line| line.trim_start_matches("error: ").to_owned())
            .unwrap_or_default(),
    };
    let message = format!("{} is not a usable regular expression", quote(text.value));
    out.error(text.span.clone(), message).label(why);
    None
}
