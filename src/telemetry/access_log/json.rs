//! A line as a JSON object (RFC 8259), in ASCII.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use super::escape::{self, EscapingWriter};
use super::line::{FieldKey, KeyedLine, LogLine, describe, key, put_address};
use super::places::KnownPlaces;
use crate::telemetry::record::{RequestRecord, TryRecord};

/// Writes a line, with its newline.
pub(crate) fn write(out: &mut Vec<u8>, places: &mut KnownPlaces, line: &LogLine<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(line.time.rfc3339());
    out.push(b'"');
    describe(line, places, &mut JsonObject { out });
    out.extend_from_slice(b"}\n");
}

/// An object that is being written, after its first key.
struct JsonObject<'o> {
    out: &'o mut Vec<u8>,
}

impl KeyedLine for JsonObject<'_> {
    fn over(out: &mut Vec<u8>) -> impl KeyedLine {
        JsonObject { out }
    }

    #[inline(always)]
    fn written(&mut self) -> &mut Vec<u8> {
        self.out
    }

    #[inline(always)]
    fn begin(&mut self, key: FieldKey) -> &mut Vec<u8> {
        self.out.extend_from_slice(key.json);
        self.out
    }

    #[inline(always)]
    fn word(&mut self, key: FieldKey, value: &[u8]) {
        self.out.extend_from_slice(key.json_text);
        self.out.extend_from_slice(value);
        self.out.push(b'"');
    }

    #[inline(always)]
    fn token(&mut self, key: FieldKey, value: &[u8]) {
        self.word(key, value);
    }

    #[inline(always)]
    fn text(&mut self, key: FieldKey, value: &[u8]) {
        self.out.extend_from_slice(key.json_text);
        escape::json(self.out, value);
        self.out.push(b'"');
    }

    #[inline(always)]
    fn address(&mut self, key: FieldKey, value: IpAddr) {
        self.out.extend_from_slice(key.json_text);
        put_address(self.out, value);
        self.out.push(b'"');
    }

    fn display(&mut self, key: FieldKey, value: &dyn Display) {
        self.out.extend_from_slice(key.json_text);
        // Writing to a vector can't fail.
        let _ = write!(EscapingWriter::new(self.out, escape::json), "{value}");
        self.out.push(b'"');
    }

    fn tries(&mut self, record: &RequestRecord<'_>) {
        let out = self.begin(key!("tries"));
        let mut before = b'[';
        for attempt in record.tries() {
            out.push(before);
            before = b',';
            put_try(out, attempt);
        }
        out.push(b']');
    }

    fn field(&mut self, key: &str, value: &[u8]) {
        self.out.extend_from_slice(b",\"");
        escape::json(self.out, key.as_bytes());
        self.out.extend_from_slice(b"\":\"");
        escape::json(self.out, value);
        self.out.push(b'"');
    }
}

#[cold]
fn put_try(out: &mut Vec<u8>, attempt: &TryRecord<'_>) {
    out.extend_from_slice(b"{\"version\":\"");
    out.extend_from_slice(attempt.version.0.as_bytes());
    out.push(b'"');
    let mut object = JsonObject { out };
    if let Some((endpoint, _)) = attempt.endpoint {
        object.text(key!("endpoint"), endpoint.as_bytes());
    }
    if let Some(status) = attempt.status {
        object.number(key!("status"), status.into());
    }
    if let Some(failure) = attempt.failure {
        object.word(key!("reason"), failure.reason.as_str().as_bytes());
        object.word(key!("origin"), failure.origin.as_str().as_bytes());
    }
    if let Some(time) = attempt.first_byte {
        object.millis(key!("first_byte_ms"), time);
    }
    object.millis(key!("total_ms"), attempt.took);
    out.push(b'}');
}
