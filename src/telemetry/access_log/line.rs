//! What a line contains. The formats with keys share the list of their fields.

use std::fmt::Display;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::timestamp::Timestamp;
use crate::telemetry::record::{Failure, Reason, RequestFlags, RequestRecord, TryRecord};

/// The parts of a request head that a line may contain beside those in the record.
pub(crate) trait LoggedHead {
    /// The query, if the configuration names it.
    fn query(&self) -> Option<&[u8]>;
    /// The first value of a header field, whose name is in lower case.
    fn header(&self, name: &str, see: &mut dyn FnMut(&[u8]));
    /// Calls `see` with the key and the value of each field that the configuration names; `None` if the request has none.
    fn each_field(&self, see: &mut dyn FnMut(&str, Option<&[u8]>));
}

/// A request that has ended, and what its record doesn't say.
#[derive(Clone, Copy)]
pub(crate) struct LogLine<'l> {
    /// The record.
    pub record: &'l RequestRecord<'l>,
    /// When the request ended.
    pub time: &'l Timestamp,
    /// Whether it was sent to another version than stable.
    pub canary: bool,
    /// The chain of errors that made it fail.
    pub cause: Option<&'l dyn Display>,
    /// The head of the request.
    pub head: &'l dyn LoggedHead,
}

/// A line that consists of keys and values. Keys given as `&'static str` need no escape.
pub(super) trait KeyedLine {
    /// Writes a key, and returns what its value is written to.
    fn begin(&mut self, key: &'static str) -> &mut Vec<u8>;
    /// A value that is printable ASCII without quotes and backslashes.
    fn word(&mut self, key: &'static str, value: &[u8]);
    /// Any text.
    fn text(&mut self, key: &'static str, value: &[u8]);
    /// An address.
    fn address(&mut self, key: &'static str, value: IpAddr);
    /// A number.
    fn number(&mut self, key: &'static str, value: u64) {
        put_number(self.begin(key), value);
    }
    /// A time, in milliseconds with three decimals.
    fn millis(&mut self, key: &'static str, value: Duration) {
        put_millis(self.begin(key), value);
    }
    /// A flag that is set.
    fn flag(&mut self, key: &'static str) {
        self.begin(key).extend_from_slice(b"true");
    }
    /// A text that is formatted on the way.
    fn display(&mut self, key: &'static str, value: &dyn Display);
    /// The tries, if they say more than the line itself.
    fn tries(&mut self, record: &RequestRecord<'_>);
    /// A value whose key the configuration chose.
    fn field(&mut self, key: &str, value: &[u8]);
}

/// Writes the fields of a line in their order. Fields without a value are left out.
pub(super) fn describe(line: &LogLine<'_>, out: &mut impl KeyedLine) {
    request(line, out);
    outcome(line, out);
    let record = line.record;
    out.number("bytes_received", record.bytes_received);
    out.number("bytes_sent", record.bytes_sent);
    let times = &record.times;
    for (key, time) in [("queued_ms", times.queued), ("connect_ms", times.connect)] {
        if !time.is_zero() {
            out.millis(key, time);
        }
    }
    if let Some(time) = times.first_byte {
        out.millis("first_byte_ms", time);
    }
    out.millis("total_ms", times.total);
    let flags = [
        ("canary", line.canary),
        ("shielded", record.shielded),
        ("tunnel", record.tunnel),
    ];
    for (key, _) in flags.iter().filter(|(_, is_set)| *is_set) {
        out.flag(key);
    }
    if says_more(record) {
        out.tries(record);
    }
    line.head.each_field(&mut |key, value| {
        if let Some(value) = value {
            out.field(key, value);
        }
    });
}

/// Who asked for what.
fn request(line: &LogLine<'_>, out: &mut impl KeyedLine) {
    let record = line.record;
    out.word("time", line.time.rfc3339());
    out.text("id", record.id);
    out.text("listener", record.listener.as_bytes());
    out.address("client", record.client);
    if record.peer != record.client {
        out.address("peer", record.peer);
    }
    out.word("protocol", record.protocol.as_str().as_bytes());
    for (key, text) in [
        ("method", record.method_text),
        ("host", record.host.as_bytes()),
        ("path", record.path),
    ] {
        if !text.is_empty() {
            out.text(key, text);
        }
    }
}

/// Who answered, and how.
fn outcome(line: &LogLine<'_>, out: &mut impl KeyedLine) {
    let record = line.record;
    out.number("status", record.status.into());
    let last = record.last_try();
    if !record.service.is_empty() {
        out.text("service", record.service.as_bytes());
    }
    if let Some(last) = last {
        out.text("version", last.version.0.as_bytes());
    }
    if let Some((endpoint, _)) = last.and_then(|last| last.endpoint) {
        out.text("endpoint", endpoint.as_bytes());
    }
    if let Some(chosen) = record.chosen {
        out.word("chosen", chosen.as_str().as_bytes());
    }
    if let Some(rule) = record.rule {
        out.number("rule", rule.0 as u64);
    }
    let flags = record.flags.map(RequestFlags::text).unwrap_or_default();
    if !flags.is_empty() {
        out.word("flags", &flags);
    }
    if let Some(code) = last.and_then(|last| last.grpc_status) {
        out.number("grpc_status", code.into());
    }
    let failed = record.failure.map(|failure| failure.reason);
    if let Some(reason) = record.local_reply.or(failed) {
        out.word("reason", reason.as_str().as_bytes());
    }
    if let Some(failure) = record.failure {
        out.word("origin", failure.origin.as_str().as_bytes());
    }
    if let Some(cause) = line.cause {
        out.display("cause", cause);
    }
    if record.local_reply.is_some() {
        out.flag("local");
    }
}

/// Whether the list of tries says more than the line: there were several, or the only one failed.
fn says_more(record: &RequestRecord<'_>) -> bool {
    let mut tries = record.tries();
    let first = tries.next();
    first.is_some_and(|first| first.failure.is_some()) || tries.next().is_some()
}

/// Whether a request failed: its client got a status of 400 or above or none, or one of its tries failed. A cancelled try hasn't.
pub(crate) fn has_failed(record: &RequestRecord<'_>) -> bool {
    let is_failure = |failure: Failure| failure.reason != Reason::Hedged;
    let failed = |attempt: &TryRecord<'_>| attempt.failure.is_some_and(is_failure);
    record.status >= 400 || record.failure.is_some() || record.tries().any(failed)
}

/// Writes milliseconds with three decimals.
pub(super) fn put_millis(out: &mut Vec<u8>, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    put_number(out, micros / 1000);
    let rest = micros % 1000;
    let digit = |value: u64| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

/// Writes a number.
pub(super) fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes an address.
pub(super) fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(four) => {
            let [a, b, c, d] = four.octets();
            put_number(out, a.into());
            for octet in [b, c, d] {
                out.push(b'.');
                put_number(out, octet.into());
            }
        }
        IpAddr::V6(six) => {
            // Writing to a vector can't fail.
            let _ = write!(out, "{six}");
        }
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
