//! A line in the NCSA combined log format, as Apache and nginx write it and log analysers read it:
//!
//! ```text
//! 192.0.2.7 - - [31/Jan/2026:12:00:00 +0000] "GET /cart HTTP/1.1" 200 1024 "https://shop.example.com/" "Mozilla/5.0"
//! ```

use super::escape;
use super::line::{LogLine, put_address, put_number};

/// Writes a line, with its newline.
///
/// The fields that the configuration names follow, each in quotes, except those that the format has anyway. The referrer is
/// written without its query unless its header field is named.
pub(crate) fn write(out: &mut Vec<u8>, line: &LogLine<'_>) {
    let record = line.record;
    put_address(out, record.client);
    out.extend_from_slice(b" - - [");
    out.extend_from_slice(line.time.clf());
    out.extend_from_slice(b"] \"");
    request_line(out, line);
    out.extend_from_slice(b"\" ");
    put_number(out, record.status.into());
    out.push(b' ');
    put_number(out, record.bytes_sent);
    let mut is_referer_named = false;
    line.head
        .each_field(&mut |key, _| is_referer_named |= key == REFERER);
    let mut referer = Column::default();
    line.head.header("referer", &mut |value| {
        let value = match is_referer_named {
            true => value,
            false => value.split(|b| *b == b'?').next().unwrap_or_default(),
        };
        referer.put(out, value);
    });
    referer.close(out);
    let mut user_agent = Column::default();
    let see = &mut |value: &[u8]| user_agent.put(out, value);
    line.head.header("user-agent", see);
    user_agent.close(out);
    line.head.each_field(&mut |key, value| {
        if ![REFERER, USER_AGENT, QUERY].contains(&key) {
            let mut column = Column::default();
            if let Some(value) = value {
                column.put(out, value);
            }
            column.close(out);
        }
    });
    out.push(b'\n');
}

/// Fields that have a column of their own.
const REFERER: &str = "header:referer";
const USER_AGENT: &str = "header:user-agent";
const QUERY: &str = "query";

/// The request line; `-` if no head could be read.
fn request_line(out: &mut Vec<u8>, line: &LogLine<'_>) {
    let record = line.record;
    if record.method_text.is_empty() {
        out.push(b'-');
        return;
    }
    escape::quoted(out, record.method_text);
    out.push(b' ');
    escape::quoted(out, record.path);
    if let Some(query) = line.head.query() {
        out.push(b'?');
        escape::quoted(out, query);
    }
    out.push(b' ');
    out.extend_from_slice(record.protocol.as_str().as_bytes());
}

/// A column in quotes; `-` if it has no value.
#[derive(Default)]
struct Column {
    is_written: bool,
}

impl Column {
    fn put(&mut self, out: &mut Vec<u8>, value: &[u8]) {
        if !self.is_written {
            self.is_written = true;
            out.extend_from_slice(b" \"");
            escape::quoted(out, value);
            out.push(b'"');
        }
    }

    fn close(self, out: &mut Vec<u8>) {
        if !self.is_written {
            out.extend_from_slice(b" \"-\"");
        }
    }
}
