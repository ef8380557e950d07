//! Properties of diagnostics that hold for every text.

use cutover::config::Diagnostic;

/// Checks that the diagnostics of `text` are in the order of the text, that each position is inside it, and that each form
/// of a diagnostic names its position.
///
/// # Errors
/// What is wrong with which diagnostic.
pub fn verify(text: &str, diagnostics: &[Diagnostic]) -> Result<(), String> {
    let mut last = (0, 0);
    for diagnostic in diagnostics {
        let fails = |what: &str| Err(format!("{what}:\n{diagnostic}"));
        let Some((line, column)) = diagnostic.position() else {
            return fails("no position");
        };
        let Some(shown) = text.split('\n').nth(line - 1) else {
            return fails("the line is not in the text");
        };
        // The end of a line is a position too: something is missing there.
        if column > shown.chars().count() + 1 {
            return fails("the column is beyond the line");
        }
        if (line, column) < last {
            return fails("not in the order of the text");
        }
        last = (line, column);
        let position = format!("{}:{line}:{column}", diagnostic.file());
        if !diagnostic.summary().starts_with(&format!("{position}: ")) {
            return fails("the summary doesn't begin with the position");
        }
        for color in [false, true] {
            if !diagnostic.rendered(color).contains(&position) {
                return fails("the rendered text doesn't name the position");
            }
        }
    }
    Ok(())
}
