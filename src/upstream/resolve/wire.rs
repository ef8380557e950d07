//! Names and records of DNS messages in their bytes (RFC 1035 §3 and §4).

/// Most bytes of a name, with the lengths of its labels and the root (RFC 1035 §2.3.4).
const LONGEST_NAME: usize = 255;
const LONGEST_LABEL: usize = 63;

/// The two bits that mark the length of a label as a pointer to the rest of the name (RFC 1035 §4.1.4).
const POINTER: u8 = 0xc0;

/// An absolute name: each label after its length, and the root at the end. In lower case, because names that differ in case only
/// are the same (RFC 4343).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(Vec<u8>);

impl Name {
    /// Parses `name`, with or without a dot at its end. `None` if it is too long, or has characters other than printable ASCII.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(name.len() + 2);
        let relative = name.strip_suffix('.').unwrap_or(name);
        for label in relative.split('.').filter(|_| !relative.is_empty()) {
            // A backslash would escape what follows; no name of a host has one.
            let is_valid = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
            if !(1..=LONGEST_LABEL).contains(&label.len()) || !label.bytes().all(is_valid) {
                return None;
            }
            bytes.push(u8::try_from(label.len()).ok()?);
            bytes.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        bytes.push(0);
        (bytes.len() <= LONGEST_NAME).then_some(Self(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name without the dot at its end; empty for the root. Bytes that would not be read back are escaped (RFC 1035 §5.1).
    pub(super) fn text(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        let mut rest = self.0.as_slice();
        while let Some((&length, after)) = rest.split_first() {
            let Some((label, after)) = after.split_at_checked(length.into()) else {
                break;
            };
            if !text.is_empty() && !label.is_empty() {
                text.push('.');
            }
            for &byte in label {
                match byte {
                    b'.' | b'\\' => text.extend(['\\', byte.into()]),
                    b'!'..=b'~' => text.push(byte.into()),
                    _ => text.push_str(&format!("\\{byte:03}")),
                }
            }
            rest = after;
        }
        text
    }
}

/// A record of an answer.
pub(super) struct Record<'m> {
    pub owner: Name,
    pub kind: u16,
    pub class: u16,
    /// Seconds.
    pub ttl: u32,
    /// Its data. Names in it may point into the message.
    pub data: Reader<'m>,
}

/// Reads a message, from some byte to some end.
#[derive(Clone, Copy)]
pub(super) struct Reader<'m> {
    message: &'m [u8],
    at: usize,
    end: usize,
}

impl<'m> Reader<'m> {
    pub(super) fn new(message: &'m [u8]) -> Self {
        let end = message.len();
        Self {
            message,
            at: 0,
            end,
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.end
    }

    /// The next `length` bytes. `None`: there are fewer.
    pub(super) fn bytes(&mut self, length: usize) -> Option<&'m [u8]> {
        let end = { self.at.checked_add(length) }.filter(|end| *end <= self.end)?;
        let bytes = self.message.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A name, whose end may be a pointer to an earlier place in the message. `None` if it is malformed.
    pub(super) fn name(&mut self) -> Option<Name> {
        let mut name = Vec::new();
        let mut part = *self;
        let mut begin = self.at;
        // Set by the first pointer: what follows the name stands after it.
        let mut after = None;
        loop {
            let [length] = part.array()?;
            match length & POINTER {
                0 => {
                    let label = part.bytes(length.into())?;
                    name.push(length);
                    name.extend(label.iter().map(u8::to_ascii_lowercase));
                    if name.len() > LONGEST_NAME {
                        return None;
                    }
                    if length == 0 {
                        break;
                    }
                }
                POINTER => {
                    let [low] = part.array()?;
                    let target = usize::from(u16::from_be_bytes([length & !POINTER, low]));
                    after.get_or_insert(part.at);
                    // Each pointer leads further back, so that a loop is impossible.
                    if target >= begin {
                        return None;
                    }
                    begin = target;
                    part = Self {
                        at: target,
                        ..Self::new(self.message)
                    };
                }
                _ => return None,
            }
        }
        self.at = after.unwrap_or(part.at);
        Some(Name(name))
    }

    pub(super) fn record(&mut self) -> Option<Record<'m>> {
        let owner = self.name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let ttl = self.array().map(u32::from_be_bytes)?;
        let length = self.u16()?;
        let mut data = *self;
        self.bytes(length.into())?;
        data.end = self.at;
        Some(Record {
            owner,
            kind,
            class,
            ttl,
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("valid")
    }

    /// The name at a byte of a message, and the byte after it.
    fn read(message: &[u8], at: usize) -> Option<(String, usize)> {
        let mut reader = Reader {
            at,
            ..Reader::new(message)
        };
        let name = reader.name()?;
        Some((name.text(), reader.at))
    }

    #[test]
    fn names_are_parsed_without_regard_to_case_and_the_last_dot() {
        assert_eq!(name("App.test").as_bytes(), b"\x03app\x04test\x00");
        assert_eq!(name("app.test."), name("APP.TEST"));
        assert_eq!(name(".").as_bytes(), b"\0");
        assert_eq!(name("_http._tcp.app.test").text(), "_http._tcp.app.test");
        let longest = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61),
        ]
        .join(".");
        assert_eq!(name(&longest).as_bytes().len(), 255);
        for wrong in [
            format!("{longest}d"),
            "a".repeat(64),
            "a..b".to_owned(),
            ".a".to_owned(),
            "a b".to_owned(),
            "a\\.b".to_owned(),
            "caf\u{e9}".to_owned(),
        ] {
            assert_eq!(Name::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn pointers_lead_back_to_the_rest_of_a_name() {
        let message = b"\x04test\x00\x03App\xc0\x00\x01b\xc0\x06\x00";
        assert_eq!(read(message, 0), Some(("test".to_owned(), 6)));
        assert_eq!(read(message, 6), Some(("app.test".to_owned(), 12)));
        assert_eq!(read(message, 12), Some(("b.app.test".to_owned(), 16)));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for message in [
            &b"\x01"[..],
            b"\x02ab",
            b"\x01a\x40",
            b"\x01a\xc0",
            // To itself, ahead, and in a circle.
            b"\xc0\x00",
            b"\xc0\x02\x00",
            b"\x01a\xc0\x00",
        ] {
            assert_eq!(read(message, 0), None, "{message:?}");
        }
        let mut long: Vec<u8> = b"\x3f".repeat(64).repeat(4);
        long.push(0);
        assert_eq!(read(&long, 0), None);
        // A name that ends outside the data of its record.
        let mut reader = Reader {
            end: 2,
            ..Reader::new(b"\x03app\x00")
        };
        assert!(reader.name().is_none());
    }

    #[test]
    fn bytes_that_are_no_host_name_are_escaped() {
        let message = b"\x05a.\\ \x07\x01b\x00";
        let (text, _) = read(message, 0).expect("a name");
        assert_eq!(text, "a\\.\\\\\\032\\007.b");
        assert_eq!(Name::parse(&text), None);
    }
}
