//! The known word that a misspelt one was probably meant to be.

/// Returns the known word that is most similar to the input, if one is similar enough: at most one edit (insertion,
/// deletion, substitution, transposition) for every three characters.
pub(super) fn nearest<'k>(typed: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(typed, k), *k))
        .filter(|(distance, k)| distance * 3 <= k.len().max(typed.len()))
        .min();
    // A long input is no misspelt word, and quoting a suggestion for it would be noise.
    near.filter(|_| typed.len() <= 80).map(|(_, name)| name)
}

/// Returns "did you mean …?" if a known word is similar, else `all` followed by the known words.
pub(super) fn suggest(typed: &str, known: &[&str], all: &str) -> String {
    match nearest(typed, known) {
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => format!("{all} none"),
        None => format!("{all} `{}`", known.join("`, `")),
    }
}
