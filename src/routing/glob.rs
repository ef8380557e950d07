//! Globs: `*` stands for any run of bytes (slashes too), `?` for one byte.

/// Whether `glob` takes the whole of `text`. Time is at most the product of both lengths: a star that was passed is
/// never asked again, since a later one could give back nothing that an earlier one needs.
pub(super) fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    // The last star, and where in the text what follows it is tried next.
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
