//! The formats of log lines: `text` for people, `json` for log collectors.
//!
//! Text is `TIMESTAMP LEVEL message key=value …`, with a value in quotes where it isn't one plain word. JSON is an
//! object of flat keys: `timestamp`, `level`, `message`, and each field under its own name. In both, line breaks and
//! other control characters are escaped, so that one event is one line and a request can't forge another.
//!
//! The exception is the field `detail`, which holds rendered diagnostics of the operator's own files: in text it is
//! printed on indented lines below the event.

use std::error::Error;
use std::fmt::{self, Write};
use std::time::SystemTime;

use anstyle::{AnsiColor, Style};
use tracing::Level;
use tracing::field::{Field, Visit};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    Text {
        /// Use ANSI colours.
        color: bool,
    },
    /// For log collectors.
    Json,
}

/// A log line that is being built. The fields of an event are recorded into it.
#[derive(Debug)]
pub(super) struct Line {
    format: Format,
    message: String,
    fields: String,
    detail: String,
    /// Buffer for a value, which must be complete before it is known whether it needs quotes.
    scratch: String,
}

impl Line {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            message: String::new(),
            fields: String::new(),
            detail: String::new(),
            scratch: String::new(),
        }
    }

    /// Formats a line without an event.
    pub(super) fn of(
        format: Format,
        level: Level,
        message: &str,
        fields: &[(&str, u64)],
    ) -> String {
        let mut line = Self::new(format);
        line.message.push_str(message);
        for (name, value) in fields {
            line.put_plain(name, *value);
        }
        line.finish(level, SystemTime::now())
    }

    /// Adds a field. `message` and `detail` are kept apart from the others.
    pub(super) fn put(&mut self, name: &str, value: impl fmt::Display) {
        self.scratch.clear();
        // Only a failing `Display` makes this fail. The line then has the part that was written before.
        let _ = write!(self.scratch, "{value}");
        match name {
            "message" => std::mem::swap(&mut self.message, &mut self.scratch),
            "detail" => std::mem::swap(&mut self.detail, &mut self.scratch),
            _ => {
                self.name(name);
                match self.format {
                    Format::Text { .. } => put_value(&mut self.fields, &self.scratch),
                    Format::Json => put_json(&mut self.fields, &self.scratch),
                }
            }
        }
    }

    /// Adds a number or a boolean, which need neither quotes nor escapes.
    fn put_plain(&mut self, name: &str, value: impl fmt::Display) {
        self.name(name);
        let _ = write!(self.fields, "{value}");
    }

    /// Returns the fields without the message.
    pub(super) fn into_fields(self) -> String {
        self.fields
    }

    fn name(&mut self, name: &str) {
        // Fields named like a keyword are written `r#type` in the macro.
        let name = name.strip_prefix("r#").unwrap_or(name);
        match self.format {
            Format::Text { color: true } => {
                let dim = Style::new().dimmed();
                let _ = write!(self.fields, " {dim}{name}={dim:#}");
            }
            Format::Text { color: false } => {
                let _ = write!(self.fields, " {name}=");
            }
            Format::Json => {
                self.fields.push(',');
                put_json(&mut self.fields, name);
                self.fields.push(':');
            }
        }
    }

    /// Finishes the line, with a newline at the end.
    pub(super) fn finish(self, level: Level, at: SystemTime) -> String {
        let at = humantime::format_rfc3339_micros(at);
        let mut line = String::with_capacity(
            64 + self.message.len() + self.fields.len() + self.detail.len() * 5 / 4,
        );
        // Writing to a string can't fail.
        let _ = match self.format {
            Format::Text { color: true } => {
                let (dim, loud) = (Style::new().dimmed(), style_of(level));
                write!(line, "{dim}{at}{dim:#} {loud}{level:>5}{loud:#} ")
            }
            Format::Text { color: false } => write!(line, "{at} {level:>5} "),
            Format::Json => write!(line, "{{\"timestamp\":\"{at}\",\"level\":\"{level}\""),
        };
        match self.format {
            Format::Text { .. } => self.finish_text(&mut line),
            Format::Json => self.finish_json(&mut line),
        }
        line
    }

    fn finish_text(self, line: &mut String) {
        put_escaped(line, &self.message);
        let fields = match self.message.is_empty() {
            true => self.fields.trim_start(),
            false => &self.fields,
        };
        line.push_str(fields);
        line.push('\n');
        for detail in self.detail.lines() {
            // The indentation distinguishes it from an event.
            line.push_str("    ");
            put_escaped(line, detail);
            line.push('\n');
        }
    }

    fn finish_json(self, line: &mut String) {
        for (name, value) in [("message", &self.message), ("detail", &self.detail)] {
            if !value.is_empty() {
                let _ = write!(line, ",\"{name}\":");
                put_json(line, value);
            }
            if name == "message" {
                line.push_str(&self.fields);
            }
        }
        line.push_str("}\n");
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field.name(), chain(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put_plain(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put_plain(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put_plain(field.name(), value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put_plain(field.name(), value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put_plain(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.put_plain(field.name(), value),
            // JSON numbers can't be infinite or NaN (RFC 8259 section 6).
            false => self.put(field.name(), value),
        }
    }
}

/// The messages of an error and of its causes, outermost first.
fn chain(error: &(dyn Error + 'static)) -> String {
    let errors = std::iter::successors(Some(error), |error| Error::source(*error));
    let texts: Vec<String> = errors.map(ToString::to_string).collect();
    texts.join(": ")
}

fn style_of(level: Level) -> Style {
    let color = match level {
        Level::ERROR => AnsiColor::Red,
        Level::WARN => AnsiColor::Yellow,
        Level::INFO => AnsiColor::Green,
        Level::DEBUG => AnsiColor::Blue,
        Level::TRACE => AnsiColor::Magenta,
    };
    Style::new().fg_color(Some(color.into()))
}

/// Whether a character must be escaped in a log, because it could break the line (also Unicode's line and paragraph separators),
/// control a terminal (C0, DEL, C1) or change the displayed order of the text (bidirectional controls).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}'
        )
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends text with unsafe characters escaped, as in `\n` or `\u{1b}`.
fn put_escaped(into: &mut String, text: &str) {
    for c in text.chars() {
        match is_unsafe(c) {
            true => into.extend(c.escape_default()),
            false => into.push(c),
        }
    }
}

/// Appends a value after `key=`, in quotes unless it is a single plain word.
fn put_value(into: &mut String, value: &str) {
    let is_odd = |c: char| c.is_whitespace() || matches!(c, '"' | '=' | '\\') || is_unsafe(c);
    if !value.is_empty() && !value.contains(is_odd) {
        into.push_str(value);
        return;
    }
    into.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => into.extend(['\\', c]),
            c if is_unsafe(c) => into.extend(c.escape_default()),
            c => into.push(c),
        }
    }
    into.push('"');
}

/// Appends a JSON string (RFC 8259 section 7). Escapes all unsafe characters, more than JSON requires.
fn put_json(into: &mut String, value: &str) {
    into.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => into.extend(['\\', c]),
            '\n' => into.push_str("\\n"),
            '\r' => into.push_str("\\r"),
            '\t' => into.push_str("\\t"),
            // All unsafe characters are below U+10000, so four digits are enough.
            c if is_unsafe(c) => drop(write!(into, "\\u{:04x}", u32::from(c))),
            c => into.push(c),
        }
    }
    into.push('"');
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
