//! A line of `key=value` pairs, in ASCII. Values are in quotes where they contain anything but a plain word.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use super::escape::{self, EscapingWriter};
use super::line::{FieldKey, KeyedLine, LogLine, describe, key, put_address, put_number};
use super::places::KnownPlaces;
use crate::telemetry::record::{RequestRecord, TryRecord};

/// Writes a line, with its newline.
pub(crate) fn write(out: &mut Vec<u8>, places: &mut KnownPlaces, line: &LogLine<'_>) {
    out.extend_from_slice(b"time=");
    out.extend_from_slice(line.time.rfc3339());
    describe(line, places, &mut Pairs { out });
    out.push(b'\n');
}

/// A line that is being written, after its first pair.
struct Pairs<'o> {
    out: &'o mut Vec<u8>,
}

/// Whether a byte needs no quotes around it.
fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_graphic() && !b"\"=\\".contains(byte)
}

impl Pairs<'_> {
    fn quoted(&mut self, value: &[u8]) {
        self.out.push(b'"');
        escape::quoted(self.out, value);
        self.out.push(b'"');
    }

    /// Writes a value, in quotes if it needs them.
    fn value(&mut self, value: &[u8]) {
        if !value.is_empty() && value.iter().all(is_plain) {
            // `quoted` escapes nothing here, but cuts a value that is too long.
            escape::quoted(self.out, value);
        } else {
            self.quoted(value);
        }
    }
}

impl KeyedLine for Pairs<'_> {
    fn over(out: &mut Vec<u8>) -> impl KeyedLine {
        Pairs { out }
    }

    #[inline(always)]
    fn written(&mut self) -> &mut Vec<u8> {
        self.out
    }

    #[inline(always)]
    fn begin(&mut self, key: FieldKey) -> &mut Vec<u8> {
        self.out.extend_from_slice(key.logfmt);
        self.out
    }

    #[inline(always)]
    fn word(&mut self, key: FieldKey, value: &[u8]) {
        self.begin(key).extend_from_slice(value);
    }

    #[inline(always)]
    fn token(&mut self, key: FieldKey, value: &[u8]) {
        self.text(key, value);
    }

    #[inline(always)]
    fn text(&mut self, key: FieldKey, value: &[u8]) {
        self.begin(key);
        self.value(value);
    }

    #[inline(always)]
    fn address(&mut self, key: FieldKey, value: IpAddr) {
        put_address(self.begin(key), value);
    }

    fn display(&mut self, key: FieldKey, value: &dyn Display) {
        self.begin(key).push(b'"');
        // Writing to a vector can't fail.
        let _ = write!(EscapingWriter::new(self.out, escape::quoted), "{value}");
        self.out.push(b'"');
    }

    /// Writes the tries: `v2/10.0.2.10:8080/connect-refused,v1/10.0.1.10:8080/200`
    fn tries(&mut self, record: &RequestRecord<'_>) {
        self.begin(key!("tries")).push(b'"');
        for (at, attempt) in record.tries().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            put_try(self.out, attempt);
        }
        self.out.push(b'"');
    }

    fn field(&mut self, key: &str, value: &[u8]) {
        self.out.push(b' ');
        if key.bytes().all(|byte| is_plain(&byte)) {
            self.out.extend_from_slice(key.as_bytes());
        } else {
            // The name of a query parameter may contain any byte. A key in quotes is the least surprise.
            self.quoted(key.as_bytes());
        }
        self.out.push(b'=');
        self.value(value);
    }
}

fn put_try(out: &mut Vec<u8>, attempt: &TryRecord<'_>) {
    escape::quoted(out, attempt.version.0.as_bytes());
    out.push(b'/');
    let endpoint = attempt.endpoint.map_or("", |(endpoint, _)| endpoint);
    escape::quoted(out, endpoint.as_bytes());
    out.push(b'/');
    match (attempt.failure, attempt.status) {
        (Some(failure), _) => out.extend_from_slice(failure.reason.as_str().as_bytes()),
        (None, Some(status)) => put_number(out, status.into()),
        (None, None) => {}
    }
}
