//! A line of `key=value` pairs, in ASCII. Values are in quotes where they contain anything but a plain word.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use super::escape::{self, EscapingWriter};
use super::line::{KeyedLine, LogLine, describe, put_address, put_number};
use crate::telemetry::record::{RequestRecord, TryRecord};

/// Writes a line, with its newline.
pub(crate) fn write(out: &mut Vec<u8>, line: &LogLine<'_>) {
    let start = out.len();
    describe(line, &mut Pairs { out, start });
    out.push(b'\n');
}

/// A line that is being written.
struct Pairs<'o> {
    out: &'o mut Vec<u8>,
    /// Where the line starts.
    start: usize,
}

/// Whether a byte needs no quotes around it.
fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_graphic() && !b"\"=\\".contains(byte)
}

impl Pairs<'_> {
    fn key(&mut self, key: &str) {
        if self.out.len() > self.start {
            self.out.push(b' ');
        }
        if key.bytes().all(|byte| is_plain(&byte)) {
            self.out.extend_from_slice(key.as_bytes());
        } else {
            // The name of a query parameter may contain anything. A key in quotes is the least surprise.
            self.quoted(key.as_bytes());
        }
        self.out.push(b'=');
    }

    fn quoted(&mut self, value: &[u8]) {
        self.out.push(b'"');
        escape::quoted(self.out, value);
        self.out.push(b'"');
    }
}

impl KeyedLine for Pairs<'_> {
    fn begin(&mut self, key: &'static str) -> &mut Vec<u8> {
        self.key(key);
        self.out
    }

    fn word(&mut self, key: &'static str, value: &[u8]) {
        self.key(key);
        self.out.extend_from_slice(value);
    }

    fn text(&mut self, key: &'static str, value: &[u8]) {
        self.field(key, value);
    }

    fn address(&mut self, key: &'static str, value: IpAddr) {
        self.key(key);
        put_address(self.out, value);
    }

    fn display(&mut self, key: &'static str, value: &dyn Display) {
        self.key(key);
        self.out.push(b'"');
        // Writing to a vector can't fail.
        let _ = write!(EscapingWriter::new(self.out, escape::quoted), "{value}");
        self.out.push(b'"');
    }

    /// `v2/10.0.2.10:8080/connect-refused,v1/10.0.1.10:8080/200`
    fn tries(&mut self, record: &RequestRecord<'_>) {
        self.key("tries");
        self.out.push(b'"');
        for (at, attempt) in record.tries().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            put_try(self.out, attempt);
        }
        self.out.push(b'"');
    }

    fn field(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        if !value.is_empty() && value.iter().all(is_plain) {
            // `quoted` changes nothing here, but it cuts what is too long.
            escape::quoted(self.out, value);
        } else {
            self.quoted(value);
        }
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
