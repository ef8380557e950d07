//! The static table (RFC 7541 Appendix A).

use crate::http1::FieldId;
use crate::http2::line::{Class, LineTraits, Pseudo};

/// An entry of the static table.
#[derive(Debug)]
pub(super) struct StaticEntry {
    /// The field as a line of HTTP/1, `name: value CRLF`.
    pub(super) line: &'static [u8],
    pub(super) name_len: usize,
    pub(super) traits: LineTraits,
}

impl StaticEntry {
    pub(super) fn name(&self) -> &'static [u8] {
        &self.line[..self.name_len]
    }

    pub(super) fn value(&self) -> &'static [u8] {
        &self.line[self.name_len + 2..self.line.len() - 2]
    }
}

macro_rules! entry {
    ($name:literal, $value:literal, $class:expr) => {
        StaticEntry {
            line: concat!($name, ": ", $value, "\r\n").as_bytes(),
            name_len: $name.len(),
            traits: LineTraits::good($class),
        }
    };
}

/// Number of entries; the dynamic table continues after them (RFC 7541 §2.3.3).
pub(super) const LEN: usize = 61;

/// The entries; index 1 is the first one.
pub(super) static ENTRIES: [StaticEntry; LEN] = [
    entry!(":authority", "", Class::Pseudo(Pseudo::Authority)),
    entry!(":method", "GET", Class::Pseudo(Pseudo::Method)),
    entry!(":method", "POST", Class::Pseudo(Pseudo::Method)),
    entry!(":path", "/", Class::Pseudo(Pseudo::Path)),
    entry!(":path", "/index.html", Class::Pseudo(Pseudo::Path)),
    entry!(":scheme", "http", Class::Pseudo(Pseudo::Scheme)),
    entry!(":scheme", "https", Class::Pseudo(Pseudo::Scheme)),
    entry!(":status", "200", Class::Pseudo(Pseudo::Status)),
    entry!(":status", "204", Class::Pseudo(Pseudo::Status)),
    entry!(":status", "206", Class::Pseudo(Pseudo::Status)),
    entry!(":status", "304", Class::Pseudo(Pseudo::Status)),
    entry!(":status", "400", Class::Pseudo(Pseudo::Status)),
    entry!(":status", "404", Class::Pseudo(Pseudo::Status)),
    entry!(":status", "500", Class::Pseudo(Pseudo::Status)),
    entry!("accept-charset", "", Class::Field(FieldId::Other)),
    entry!(
        "accept-encoding",
        "gzip, deflate",
        Class::Field(FieldId::Other)
    ),
    entry!("accept-language", "", Class::Field(FieldId::Other)),
    entry!("accept-ranges", "", Class::Field(FieldId::Other)),
    entry!("accept", "", Class::Field(FieldId::Other)),
    entry!(
        "access-control-allow-origin",
        "",
        Class::Field(FieldId::Other)
    ),
    entry!("age", "", Class::Field(FieldId::Other)),
    entry!("allow", "", Class::Field(FieldId::Other)),
    entry!("authorization", "", Class::Field(FieldId::Authorization)),
    entry!("cache-control", "", Class::Field(FieldId::Other)),
    entry!("content-disposition", "", Class::Field(FieldId::Other)),
    entry!("content-encoding", "", Class::Field(FieldId::Other)),
    entry!("content-language", "", Class::Field(FieldId::Other)),
    entry!("content-length", "", Class::Field(FieldId::ContentLength)),
    entry!("content-location", "", Class::Field(FieldId::Other)),
    entry!("content-range", "", Class::Field(FieldId::Other)),
    entry!("content-type", "", Class::Field(FieldId::ContentType)),
    entry!("cookie", "", Class::Field(FieldId::Cookie)),
    entry!("date", "", Class::Field(FieldId::Date)),
    entry!("etag", "", Class::Field(FieldId::Other)),
    entry!("expect", "", Class::Field(FieldId::Expect)),
    entry!("expires", "", Class::Field(FieldId::Other)),
    entry!("from", "", Class::Field(FieldId::Other)),
    entry!("host", "", Class::Field(FieldId::Host)),
    entry!("if-match", "", Class::Field(FieldId::Other)),
    entry!("if-modified-since", "", Class::Field(FieldId::Other)),
    entry!("if-none-match", "", Class::Field(FieldId::Other)),
    entry!("if-range", "", Class::Field(FieldId::Other)),
    entry!("if-unmodified-since", "", Class::Field(FieldId::Other)),
    entry!("last-modified", "", Class::Field(FieldId::Other)),
    entry!("link", "", Class::Field(FieldId::Other)),
    entry!("location", "", Class::Field(FieldId::Other)),
    entry!("max-forwards", "", Class::Field(FieldId::MaxForwards)),
    entry!(
        "proxy-authenticate",
        "",
        Class::Field(FieldId::ProxyAuthenticate)
    ),
    entry!(
        "proxy-authorization",
        "",
        Class::Field(FieldId::ProxyAuthorization)
    ),
    entry!("range", "", Class::Field(FieldId::Other)),
    entry!("referer", "", Class::Field(FieldId::Other)),
    entry!("refresh", "", Class::Field(FieldId::Other)),
    entry!("retry-after", "", Class::Field(FieldId::Other)),
    entry!("server", "", Class::Field(FieldId::Other)),
    entry!("set-cookie", "", Class::Field(FieldId::SetCookie)),
    entry!(
        "strict-transport-security",
        "",
        Class::Field(FieldId::Other)
    ),
    entry!(
        "transfer-encoding",
        "",
        Class::Field(FieldId::TransferEncoding)
    ),
    entry!("user-agent", "", Class::Field(FieldId::Other)),
    entry!("vary", "", Class::Field(FieldId::Other)),
    entry!("via", "", Class::Field(FieldId::Via)),
    entry!("www-authenticate", "", Class::Field(FieldId::Other)),
];

/// Maximum number of names of one length.
const CANDIDATES: usize = 6;
/// Length of the longest name.
const LONGEST: usize = 27;

/// By length of the name: the indexes of the first entry for each name; 0 for none.
static BY_LENGTH: [[u8; CANDIDATES]; LONGEST + 1] = {
    let mut table = [[0; CANDIDATES]; LONGEST + 1];
    let mut index = 1;
    while index <= LEN {
        let entry = &ENTRIES[index - 1];
        // Entries with the same name follow each other.
        if index == 1 || !is_same(entry, &ENTRIES[index - 2]) {
            let row = &mut table[entry.name_len];
            let mut at = 0;
            while row[at] != 0 {
                at += 1;
            }
            row[at] = index as u8;
        }
        index += 1;
    }
    table
};

/// Whether two entries have the same name.
const fn is_same(a: &StaticEntry, b: &StaticEntry) -> bool {
    let mut i = 0;
    while i < a.name_len && a.line[i] == b.line[i] {
        i += 1;
    }
    i == a.name_len && a.name_len == b.name_len
}

/// Returns the index of the first entry with this name, which must be in lower case.
#[inline]
pub(super) fn index_of(name: &[u8]) -> Option<usize> {
    let (first, last) = (name.first()?, name.last()?);
    for &index in BY_LENGTH.get(name.len())? {
        let entry = ENTRIES.get(usize::from(index).checked_sub(1)?)?;
        // The first and the last byte tell nearly all names of a length apart.
        if entry.line[0] == *first && entry.line[name.len() - 1] == *last && entry.name() == name {
            return Some(index.into());
        }
    }
    None
}

/// Returns the index of the entry with this value, among those with the same name as entry `index`, the first of them.
#[inline]
pub(super) fn with_value(index: usize, name: &[u8], value: &[u8]) -> Option<usize> {
    let same = ENTRIES[index - 1..].iter().take_while(|e| e.name() == name);
    let nth = same.map(StaticEntry::value).position(|v| v == value)?;
    Some(index + nth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_the_names() {
        for entry in &ENTRIES {
            assert_eq!(LineTraits::of_name(entry.name()), entry.traits);
            assert_eq!(entry.traits.with_value(entry.value()), entry.traits);
        }
    }

    #[test]
    fn names_and_values_are_found() {
        for (i, entry) in ENTRIES.iter().enumerate() {
            let first = ENTRIES.iter().position(|e| e.name() == entry.name());
            let index = index_of(entry.name()).expect("an index");
            assert_eq!(Some(index - 1), first);
            assert_eq!(with_value(index, entry.name(), entry.value()), Some(i + 1));
            assert_eq!(with_value(index, entry.name(), b"another"), None);
        }
        for other in [
            "",
            "x",
            "hose",
            "accept-encodinG",
            "x-request-id",
            &"a".repeat(99),
        ] {
            assert_eq!(index_of(other.as_bytes()), None, "{other}");
        }
    }
}
