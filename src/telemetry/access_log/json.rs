//! A line as a JSON object (RFC 8259), in ASCII.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use super::escape::{self, EscapingWriter};
use super::line::{KeyedLine, LogLine, describe, put_address};
use crate::telemetry::record::{RequestRecord, TryRecord};

/// Writes a line, with its newline.
pub(crate) fn write(out: &mut Vec<u8>, line: &LogLine<'_>) {
    let mut object = JsonObject::open(out);
    describe(line, &mut object);
    object.close();
    out.push(b'\n');
}

/// An object that is being written.
struct JsonObject<'o> {
    out: &'o mut Vec<u8>,
    /// What stands before the next key.
    separator: u8,
}

impl<'o> JsonObject<'o> {
    fn open(out: &'o mut Vec<u8>) -> Self {
        Self {
            out,
            separator: b'{',
        }
    }

    fn close(self) {
        if self.separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }

    fn key(&mut self, key: &'static str) {
        self.out.extend_from_slice(&[self.separator, b'"']);
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.separator = b',';
    }

    fn string(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.push(b'"');
        write(self.out);
        self.out.push(b'"');
    }
}

impl KeyedLine for JsonObject<'_> {
    fn begin(&mut self, key: &'static str) -> &mut Vec<u8> {
        self.key(key);
        self.out
    }

    fn word(&mut self, key: &'static str, value: &[u8]) {
        self.key(key);
        self.string(|out| out.extend_from_slice(value));
    }

    fn text(&mut self, key: &'static str, value: &[u8]) {
        self.key(key);
        self.string(|out| escape::json(out, value));
    }

    fn address(&mut self, key: &'static str, value: IpAddr) {
        self.key(key);
        self.string(|out| put_address(out, value));
    }

    fn display(&mut self, key: &'static str, value: &dyn Display) {
        self.key(key);
        self.string(|out| {
            // Writing to a vector can't fail.
            let _ = write!(EscapingWriter::new(out, escape::json), "{value}");
        });
    }

    fn tries(&mut self, record: &RequestRecord<'_>) {
        self.key("tries");
        let mut before = b'[';
        for attempt in record.tries() {
            self.out.push(before);
            before = b',';
            let mut object = JsonObject::open(self.out);
            put_try(&mut object, attempt);
            object.close();
        }
        self.out.push(b']');
    }

    fn field(&mut self, key: &str, value: &[u8]) {
        self.out.push(self.separator);
        self.separator = b',';
        self.string(|out| escape::json(out, key.as_bytes()));
        self.out.push(b':');
        self.string(|out| escape::json(out, value));
    }
}

fn put_try(object: &mut JsonObject<'_>, attempt: &TryRecord<'_>) {
    object.text("version", attempt.version.0.as_bytes());
    if let Some((endpoint, _)) = attempt.endpoint {
        object.text("endpoint", endpoint.as_bytes());
    }
    if let Some(status) = attempt.status {
        object.number("status", status.into());
    }
    if let Some(failure) = attempt.failure {
        object.word("reason", failure.reason.as_str().as_bytes());
        object.word("origin", failure.origin.as_str().as_bytes());
    }
    if let Some(time) = attempt.first_byte {
        object.millis("first_byte_ms", time);
    }
    object.millis("total_ms", attempt.took);
}
