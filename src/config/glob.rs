//! Glob matching: `*` matches any run of bytes, including slashes, and `?` matches one byte.

/// Whether `glob` matches all of `text`.
///
/// Takes time of at most the product of both lengths, without recursion: only the last star is ever retried. Once a later
/// star is reached, extending an earlier one can't help, because the later star can match whatever that would skip.
#[inline]
pub fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    // The last star, and the position in the text up to which it matches at the next retry.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                retry = Some((g, t));
                g += 1;
                continue;
            }
            Some(b) if *b == b'?' || *b == text[t] => {
                (g, t) = (g + 1, t + 1);
                continue;
            }
            _ => {}
        }
        // A mismatch: let the last star match one more byte.
        let Some((star, from)) = retry else {
            return false;
        };
        retry = Some((star, from + 1));
        (g, t) = (star + 1, from + 1);
    }
    glob[g..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stars_and_question_marks() {
        for (glob, yes, no) in [
            ("*@example.com", "a@example.com", "a@example.com.evil"),
            ("/api/*", "/api/v1/x", "/api"),
            ("a?c", "abc", "ac"),
            ("*", "", "\0"),
            ("a*b*c", "aXbYbZc", "aXcYb"),
            ("", "", "x"),
            ("[a-z]", "[a-z]", "b"),
        ] {
            assert!(matches(glob.as_bytes(), yes.as_bytes()), "{glob} {yes}");
            assert!(
                no == "\0" || !matches(glob.as_bytes(), no.as_bytes()),
                "{glob} {no}"
            );
        }
    }

    #[test]
    fn many_stars_do_not_blow_up() {
        let glob = "*a".repeat(200) + "b";
        assert!(!matches(glob.as_bytes(), "a".repeat(20_000).as_bytes()));
    }

    proptest! {
        #[test]
        fn is_the_regex_that_it_reads_as(glob in "[ab*?]{0,8}", text in "[ab]{0,12}") {
            let regex = glob.replace('*', ".*").replace('?', ".");
            let regex = regex::bytes::Regex::new(&format!("^{regex}$")).unwrap();
            prop_assert_eq!(matches(glob.as_bytes(), text.as_bytes()), regex.is_match(text.as_bytes()));
        }
    }
}
