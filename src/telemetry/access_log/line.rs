//! The content of a line. The formats with keys share the list of their fields.

use std::fmt::Display;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::places::KnownPlaces;
use super::timestamp::Timestamp;
use crate::http1::Method;
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

/// A request that has ended, with the values that its record doesn't have.
#[derive(Clone, Copy)]
pub(crate) struct LogLine<'l> {
    /// The record.
    pub record: &'l RequestRecord<'l>,
    /// When the request ended.
    pub time: &'l Timestamp,
    /// A number that no other compiled service of the process has; `None` without a service.
    pub service_id: Option<u64>,
    /// Whether the request was sent to another version than stable.
    pub canary: bool,
    /// The chain of errors that made it fail.
    pub cause: Option<&'l dyn Display>,
    /// The head of the request.
    pub head: &'l dyn LoggedHead,
}

/// The name of a field, as the formats write it in front of a value. Each is one piece of known length, so that writing it takes
/// a few moves and no call.
#[derive(Clone, Copy)]
pub(super) struct FieldKey {
    /// `,"key":`
    pub json: &'static [u8],
    /// `,"key":"`
    pub json_text: &'static [u8],
    /// ` key=`
    pub logfmt: &'static [u8],
}

/// The [`FieldKey`] of a name that needs no escape.
macro_rules! key {
    ($name:literal) => {
        FieldKey {
            json: concat!(",\"", $name, "\":").as_bytes(),
            json_text: concat!(",\"", $name, "\":\"").as_bytes(),
            logfmt: concat!(" ", $name, "=").as_bytes(),
        }
    };
}
pub(super) use key;

/// A line that consists of keys and values. It begins with its time.
///
/// The methods for every line are inlined into [`describe`], where their keys are constants.
pub(super) trait KeyedLine {
    /// Continues a line.
    fn over(out: &mut Vec<u8>) -> impl KeyedLine;
    /// The part of the line that has been written.
    fn written(&mut self) -> &mut Vec<u8>;
    /// Writes a key, and returns the output for its value.
    fn begin(&mut self, key: FieldKey) -> &mut Vec<u8>;
    /// Writes a value that is printable ASCII without quotes and backslashes, as the configuration's names are.
    fn word(&mut self, key: FieldKey, value: &[u8]);
    /// Writes a value that needs no escape, but may need quotes: printable ASCII without spaces, quotes and backslashes.
    fn token(&mut self, key: FieldKey, value: &[u8]);
    /// Writes any text, escaped where necessary.
    fn text(&mut self, key: FieldKey, value: &[u8]);
    /// Writes an address.
    fn address(&mut self, key: FieldKey, value: IpAddr);
    /// Writes a number.
    #[inline(always)]
    fn number(&mut self, key: FieldKey, value: u64) {
        put_number(self.begin(key), value);
    }
    /// Writes a time, in milliseconds with three decimals.
    #[inline(always)]
    fn millis(&mut self, key: FieldKey, value: Duration) {
        put_millis(self.begin(key), value);
    }
    /// Writes the same time under two keys.
    #[inline(always)]
    fn millis_twice(&mut self, first: FieldKey, second: FieldKey, value: Duration) {
        let out = self.begin(first);
        let from = out.len();
        put_millis(out, value);
        let end = out.len();
        self.begin(second).extend_from_within(from..end);
    }
    /// Writes a flag that is set.
    #[inline(always)]
    fn flag(&mut self, key: FieldKey) {
        self.begin(key).extend_from_slice(b"true");
    }
    /// Writes a text that is formatted on the way.
    fn display(&mut self, key: FieldKey, value: &dyn Display);
    /// Writes the tries, if they say more than the line itself.
    fn tries(&mut self, record: &RequestRecord<'_>);
    /// Writes a value whose key the configuration chose.
    fn field(&mut self, key: &str, value: &[u8]);
}

/// Writes the fields of a line after its time, in their order. Fields without a value are left out.
pub(super) fn describe<L: KeyedLine>(line: &LogLine<'_>, places: &mut KnownPlaces, out: &mut L) {
    request(line, out);
    let of = (line.service_id, line.record);
    places.put(out.written(), of, |out| place(line, &mut L::over(out)));
    outcome(line, out);
    let record = line.record;
    out.number(key!("bytes_received"), record.bytes_received);
    out.number(key!("bytes_sent"), record.bytes_sent);
    let times = &record.times;
    if !times.queued.is_zero() {
        out.millis(key!("queued_ms"), times.queued);
    }
    if !times.connect.is_zero() {
        out.millis(key!("connect_ms"), times.connect);
    }
    match times.first_byte {
        // The response was complete at once.
        Some(time) if time == times.total => {
            out.millis_twice(key!("first_byte_ms"), key!("total_ms"), time);
        }
        first => {
            if let Some(time) = first {
                out.millis(key!("first_byte_ms"), time);
            }
            out.millis(key!("total_ms"), times.total);
        }
    }
    if line.canary {
        out.flag(key!("canary"));
    }
    if record.shielded {
        out.flag(key!("shielded"));
    }
    if record.tunnel {
        out.flag(key!("tunnel"));
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

/// Writes the client and its request.
#[inline]
fn request(line: &LogLine<'_>, out: &mut impl KeyedLine) {
    let record = line.record;
    // An id that a client sent is kept only if it is a token.
    out.token(key!("id"), record.id);
    if let Some(trace) = &record.trace {
        out.word(key!("trace_id"), &trace.id_text());
    }
    out.word(key!("listener"), record.listener.as_bytes());
    out.address(key!("client"), record.client);
    if record.peer != record.client {
        out.address(key!("peer"), record.peer);
    }
    out.word(key!("protocol"), record.protocol.as_str().as_bytes());
    if record.method != Method::Other {
        out.word(key!("method"), record.method_text);
    } else if !record.method_text.is_empty() {
        out.text(key!("method"), record.method_text);
    }
    if !record.host.is_empty() {
        out.text(key!("host"), record.host.as_bytes());
    }
    if !record.path.is_empty() {
        out.text(key!("path"), record.path);
    }
}

/// Writes the service, version and endpoint that answered. All that these fields depend on is in the key of [`KnownPlaces`].
fn place(line: &LogLine<'_>, out: &mut impl KeyedLine) {
    let record = line.record;
    put_status(out.begin(key!("status")), record.status);
    let last = record.last_try();
    if !record.service.is_empty() {
        out.word(key!("service"), record.service.as_bytes());
    }
    if let Some(last) = last {
        out.word(key!("version"), last.version.0.as_bytes());
    }
    if let Some((endpoint, _)) = last.and_then(|last| last.endpoint) {
        out.text(key!("endpoint"), endpoint.as_bytes());
    }
    if let Some(chosen) = record.chosen {
        out.word(key!("chosen"), chosen.as_str().as_bytes());
    }
}

/// Writes the outcome of the request.
#[inline]
fn outcome(line: &LogLine<'_>, out: &mut impl KeyedLine) {
    let record = line.record;
    if let Some(rule) = record.rule {
        out.number(key!("rule"), rule.0 as u64);
    }
    let flags = record.flags.map(RequestFlags::text).unwrap_or_default();
    if !flags.is_empty() {
        out.word(key!("flags"), &flags);
    }
    if let Some(code) = record.last_try().and_then(|last| last.grpc_status) {
        out.number(key!("grpc_status"), code.into());
    }
    let failed = record.failure.map(|failure| failure.reason);
    if let Some(reason) = record.local_reply.or(failed) {
        out.word(key!("reason"), reason.as_str().as_bytes());
    }
    if let Some(failure) = record.failure {
        out.word(key!("origin"), failure.origin.as_str().as_bytes());
    }
    if let Some(cause) = line.cause {
        out.display(key!("cause"), cause);
    }
    if record.local_reply.is_some() {
        out.flag(key!("local"));
    }
}

/// Whether the list of tries says more than the line: there were several, or the only one failed.
#[inline]
fn says_more(record: &RequestRecord<'_>) -> bool {
    if let Some(only) = record.only_try() {
        return only.failure.is_some();
    }
    let mut tries = record.tries();
    let first = tries.next();
    first.is_some_and(|first| first.failure.is_some()) || tries.next().is_some()
}

/// Whether a request failed: its client got a status of 400 or above or none, or one of its tries failed. A cancelled try hasn't
/// failed.
#[inline]
pub(crate) fn has_failed(record: &RequestRecord<'_>) -> bool {
    let is_failure = |failure: Failure| failure.reason != Reason::Hedged;
    let failed = |attempt: &TryRecord<'_>| attempt.failure.is_some_and(is_failure);
    record.status >= 400
        || record.failure.is_some()
        || match record.only_try() {
            Some(only) => failed(only),
            None => record.tries().any(failed),
        }
}

/// Writes milliseconds with three decimals.
#[inline]
pub(super) fn put_millis(out: &mut Vec<u8>, time: Duration) {
    // A u64 holds 584,000 years of microseconds; beyond, the figure wraps.
    let micros = time
        .as_secs()
        .wrapping_mul(1_000_000)
        .wrapping_add(time.subsec_micros().into());
    put_number(out, micros / 1000);
    let rest = (micros % 1000) as u32;
    let digit = |value: u32| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

/// Writes a number.
#[inline]
pub(super) fn put_number(out: &mut Vec<u8>, number: u64) {
    match number {
        // Most numbers of a line are this small, such as the milliseconds of a fast response.
        0..=9 => out.push(b'0' + number as u8),
        _ => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
    }
}

/// Writes a status.
#[inline]
pub(super) fn put_status(out: &mut Vec<u8>, status: u16) {
    let digit = |value: u16| b'0' + (value % 10) as u8;
    match status {
        100..=999 => {
            out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
        }
        _ => put_number(out, status.into()),
    }
}

/// Each octet in decimal with the dot that follows it, at the start of its four bytes.
const OCTETS: [[u8; 4]; 256] = {
    let mut all = [[0; 4]; 256];
    let mut octet = 0;
    while octet < 256 {
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let (mut from, mut to) = (
            match octet {
                0..=9 => 2,
                10..=99 => 1,
                _ => 0,
            },
            0,
        );
        while from < 3 {
            all[octet][to] = b'0' + digits[from] as u8;
            (from, to) = (from + 1, to + 1);
        }
        all[octet][to] = b'.';
        octet += 1;
    }
    all
};

/// Writes an address.
pub(super) fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(four) => {
            let mut text = [0; 16];
            let mut end = 0;
            for octet in four.octets() {
                text[end..end + 4].copy_from_slice(&OCTETS[usize::from(octet)]);
                end += 2 + usize::from(octet >= 10) + usize::from(octet >= 100);
            }
            // The last octet is not followed by a dot.
            out.extend_from_slice(&text[..end - 1]);
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
