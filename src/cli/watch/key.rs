//! Keys from the bytes that a terminal sends.

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TerminalKey {
    Char(char),
    Enter,
    Escape,
    Tab,
    BackTab,
    Backspace,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    /// Ctrl and this letter, in lower case.
    Ctrl(char),
}

/// Longest escape sequence that is understood, in bytes. A longer one is no key.
const LONGEST: usize = 16;

/// Collects bytes until they are keys.
#[derive(Debug, Default)]
pub(super) struct KeyParser {
    pending: Vec<u8>,
}

impl KeyParser {
    /// Adds bytes and returns the keys that are complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<TerminalKey> {
        self.pending.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while let Some((taken, key)) = parse(&self.pending) {
            self.pending.drain(..taken);
            keys.extend(key);
        }
        keys
    }

    /// Whether an escape sequence may continue. It does so within milliseconds, or else it was the Escape key.
    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The keys in the remaining bytes, after nothing has followed.
    pub(super) fn flush(&mut self) -> Vec<TerminalKey> {
        match std::mem::take(&mut self.pending).first() {
            Some(0x1b) => vec![TerminalKey::Escape],
            _ => Vec::new(),
        }
    }
}

/// The first key: the number of bytes that it took, and the key, if it is a known one. `None` if more bytes may belong to it.
fn parse(bytes: &[u8]) -> Option<(usize, Option<TerminalKey>)> {
    let first = *bytes.first()?;
    match first {
        0x1b => escape(bytes),
        b'\r' | b'\n' => Some((1, Some(TerminalKey::Enter))),
        b'\t' => Some((1, Some(TerminalKey::Tab))),
        0x7f | 0x08 => Some((1, Some(TerminalKey::Backspace))),
        1..=26 => Some((1, Some(TerminalKey::Ctrl(char::from(first + b'a' - 1))))),
        b' '..=b'~' => Some((1, Some(TerminalKey::Char(char::from(first))))),
        0x80.. => character(bytes),
        _ => Some((1, None)),
    }
}

/// A character of several bytes.
fn character(bytes: &[u8]) -> Option<(usize, Option<TerminalKey>)> {
    let length = match bytes[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Some((1, None)),
    };
    if bytes.len() < length {
        return None;
    }
    match std::str::from_utf8(&bytes[..length]) {
        Ok(text) => Some((length, text.chars().next().map(TerminalKey::Char))),
        Err(_) => Some((1, None)),
    }
}

fn escape(bytes: &[u8]) -> Option<(usize, Option<TerminalKey>)> {
    match bytes.get(1)? {
        b'[' => {}
        b'O' => return Some((3, letter(*bytes.get(2)?))),
        0x1b => return Some((1, Some(TerminalKey::Escape))),
        // These bytes are Alt and a key.
        _ => return Some((2, None)),
    }
    let Some(end) = bytes[2..].iter().position(|b| (0x40..=0x7e).contains(b)) else {
        return (bytes.len() > LONGEST).then_some((bytes.len(), None));
    };
    let (parameters, last) = (&bytes[2..2 + end], bytes[2 + end]);
    let number = parameters.split(|b| *b == b';').next().unwrap_or_default();
    let key = match (last, number) {
        (b'~', b"1" | b"7") => Some(TerminalKey::Home),
        (b'~', b"4" | b"8") => Some(TerminalKey::End),
        (b'~', b"5") => Some(TerminalKey::PageUp),
        (b'~', b"6") => Some(TerminalKey::PageDown),
        (last, _) => letter(last),
    };
    Some((3 + end, key))
}

fn letter(last: u8) -> Option<TerminalKey> {
    Some(match last {
        b'A' => TerminalKey::Up,
        b'B' => TerminalKey::Down,
        b'C' => TerminalKey::Right,
        b'D' => TerminalKey::Left,
        b'H' => TerminalKey::Home,
        b'F' => TerminalKey::End,
        b'Z' => TerminalKey::BackTab,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_keys_wherever_they_are_cut() {
        let bytes = b"j\x1b[A\x1bOB\x1b[1;5C\x1b[5~\r\t\x7f\x03\xe6\xbc\xa2";
        let keys = [
            TerminalKey::Char('j'),
            TerminalKey::Up,
            TerminalKey::Down,
            TerminalKey::Right,
            TerminalKey::PageUp,
            TerminalKey::Enter,
            TerminalKey::Tab,
            TerminalKey::Backspace,
            TerminalKey::Ctrl('c'),
            TerminalKey::Char('漢'),
        ];
        for cut in 0..bytes.len() {
            let mut parser = KeyParser::default();
            let mut seen = parser.feed(&bytes[..cut]);
            seen.extend(parser.feed(&bytes[cut..]));
            assert_eq!(seen, keys, "cut at {cut}");
            assert!(!parser.is_waiting());
        }
    }

    #[test]
    fn escape_alone_is_a_key_once_nothing_follows() {
        let mut parser = KeyParser::default();
        assert_eq!(parser.feed(b"\x1b"), []);
        assert!(parser.is_waiting());
        assert_eq!(parser.flush(), [TerminalKey::Escape]);
        assert_eq!(parser.feed(b"\x1b\x1b"), [TerminalKey::Escape]);
    }

    #[test]
    fn unknown_sequences_are_no_keys() {
        let mut parser = KeyParser::default();
        assert_eq!(
            parser.feed(b"\x1b[200~\x1b[<0;3;4M\xff\x00x"),
            [TerminalKey::Char('x')]
        );
        assert_eq!(
            parser.feed(&[b"\x1b[".as_slice(), &[b'1'; 40]].concat()),
            []
        );
        assert!(!parser.is_waiting());
    }
}
