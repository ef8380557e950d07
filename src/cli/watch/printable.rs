//! Text from files and from the network, made harmless for a terminal.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

/// The columns that a character takes; `None` for one that must not reach the terminal: control bytes, marks that change the
/// direction or join other characters, and everything else without a width of its own.
pub(super) fn columns(c: char) -> Option<usize> {
    c.width().filter(|width| *width > 0)
}

/// The text on one line, with the characters that have no width as escapes: `\x1b`, `\u{202e}`.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Writing to a string can't fail.
        let _ = match (columns(c), u32::from(c)) {
            (Some(_), _) => shown.write_char(c),
            (None, code @ 0..=0xff) => write!(shown, "\\x{code:02x}"),
            (None, code) => write!(shown, "\\u{{{code:x}}}"),
        };
    }
    shown
}

/// The columns of printable text.
pub(super) fn width(text: &str) -> usize {
    text.chars().filter_map(columns).sum()
}

/// The start of printable text that fits in `room` columns, ending with `…` if something is missing.
pub(super) fn clipped(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let mut shown = String::new();
    for c in text.chars() {
        let needed = columns(c).unwrap_or(0);
        if needed > left {
            break;
        }
        left -= needed;
        shown.push(c);
    }
    if room > 0 {
        shown.push('…');
    }
    shown
}

/// Breaks text into printable lines of at most `room` columns, between words where possible.
pub(super) fn wrapped(text: &str, room: usize) -> Vec<String> {
    let room = room.max(8);
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let paragraph = printable(paragraph);
        let indent: String = paragraph.chars().take_while(|c| *c == ' ').collect();
        let mut line = String::new();
        for word in paragraph.split(' ').filter(|word| !word.is_empty()) {
            if line.is_empty() {
                line = clipped(&indent, room / 2) + word;
            } else if width(&line) + 1 + width(word) <= room {
                line = line + " " + word;
            } else {
                lines.push(std::mem::replace(&mut line, word.to_owned()));
            }
            // A word longer than a line, such as a path, is broken.
            while width(&line) > room {
                let (head, rest) = split_at_width(&line, room);
                lines.push(head);
                line = rest;
            }
        }
        lines.push(line);
    }
    lines
}

fn split_at_width(text: &str, room: usize) -> (String, String) {
    let mut taken = 0;
    for (at, c) in text.char_indices() {
        taken += columns(c).unwrap_or(0);
        if taken > room {
            return (text[..at].to_owned(), text[at..].to_owned());
        }
    }
    (text.to_owned(), String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        let hostile = "a\x1b[2J\u{9b}31m\u{202e}b\r\n\u{200d}漢";
        let shown = printable(hostile);
        assert_eq!(shown, "a\\x1b[2J\\x9b31m\\u{202e}b\\x0d\\x0a\\u{200d}漢");
        assert!(shown.chars().all(|c| columns(c).is_some()));
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(width("漢字a"), 5);
        assert_eq!(clipped("漢字a", 5), "漢字a");
        assert_eq!(clipped("漢字ab", 5), "漢字…");
        assert_eq!(clipped("漢字ab", 4), "漢…");
        assert_eq!(clipped("abc", 0), "");
    }

    #[test]
    fn long_words_are_broken_and_lines_kept() {
        assert_eq!(
            wrapped("one two three\nfour", 9),
            ["one two", "three", "four"]
        );
        assert_eq!(wrapped("/aaaaaaaaaaaa b", 8), ["/aaaaaaa", "aaaaa b"]);
    }
}
