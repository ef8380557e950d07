//! A difference of two texts, for people to read.

use std::fmt::Write;

/// All lines of both texts in order: `-` marks those that are only expected, `+` those that are only found.
pub fn lines(expected: &str, actual: &str) -> String {
    let old: Vec<&str> = expected.split('\n').collect();
    let new: Vec<&str> = actual.split('\n').collect();
    // The length of the longest common subsequence of the lines from `i` and from `j` on.
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            common[i][j] = match a == b {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        let is_common = i < old.len() && j < new.len() && old[i] == new[j];
        let is_old =
            is_common || j == new.len() || i < old.len() && common[i + 1][j] >= common[i][j + 1];
        let (mark, line) = match (is_common, is_old) {
            (true, _) => (' ', old[i]),
            (false, true) => ('-', old[i]),
            (false, false) => ('+', new[j]),
        };
        i += usize::from(is_old);
        j += usize::from(is_common || !is_old);
        writeln!(lines, "{mark} {line}").expect("a String takes everything");
    }
    lines
}
