//! A line of the access log as it is shown on a terminal.

use anstyle::{AnsiColor, Style};
use serde_json::Value;

/// A line that the proxy sent.
pub(in crate::cli) enum LoggedLine {
    /// A request.
    Request(Value),
    /// This number of lines was lost.
    Dropped(u64),
    /// Another process has taken over.
    HandedOver,
}

impl LoggedLine {
    /// Parses a line. A line that isn't understood counts as a request, and is shown with the fields that it has.
    pub(in crate::cli) fn parse(line: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(line).unwrap_or_default();
        if value["handed_over"] == Value::Bool(true) {
            return Self::HandedOver;
        }
        match value["dropped"].as_u64() {
            Some(lines) => Self::Dropped(lines),
            None => Self::Request(value),
        }
    }
}

/// Shows a request: time, status, method, URL, duration, version and endpoint, and unusual facts.
pub(in crate::cli) fn shown(request: &Value) -> String {
    let text = |key: &str| printable(request[key].as_str().unwrap_or_default());
    let time = text("time");
    let time = time.split('T').nth(1).unwrap_or(&time).to_owned();
    let status = request["status"].as_u64().unwrap_or_default();
    let style = style(status);
    let method = text("method");
    let url = format!("{}{}", text("host"), text("path"));
    let mut words = vec![
        time,
        format!("{style}{status}{style:#}"),
        if method.is_empty() {
            "-".into()
        } else {
            method
        },
        if url.is_empty() { "-".into() } else { url },
        format!("{:.1}ms", request["total_ms"].as_f64().unwrap_or_default()),
    ];
    let service = text("service");
    if !service.is_empty() {
        let version = text("version");
        let slash = if version.is_empty() { "" } else { "/" };
        words.push(format!("{service}{slash}{version}"));
    }
    words.push(text("endpoint"));
    let client = text("client");
    words.push(format!("client={client}"));
    for key in ["reason", "origin"] {
        let value = text(key);
        if !value.is_empty() {
            words.push(format!("{key}={value}"));
        }
    }
    if let Some(tries) = request["tries"].as_array() {
        words.push(format!("tries={}", tries.len()));
    }
    for flag in ["canary", "shielded", "tunnel"] {
        if request[flag] == Value::Bool(true) {
            words.push(flag.to_owned());
        }
    }
    let cause = text("cause");
    if !cause.is_empty() {
        words.push(format!("cause=\"{cause}\""));
    }
    fields(request, &mut words);
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// The fields that the configuration names: their keys contain a colon, except the query.
fn fields(request: &Value, words: &mut Vec<String>) {
    let Some(object) = request.as_object() else {
        return;
    };
    for (key, value) in object {
        if key == "query" || key.contains(':') {
            let value = printable(value.as_str().unwrap_or_default());
            words.push(format!("{}=\"{value}\"", printable(key)));
        }
    }
}

/// The text without anything that a terminal could take for a command. Its characters stand for bytes.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => shown.push(c),
            _ => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
        }
    }
    shown
}

fn style(status: u64) -> Style {
    match status {
        500.. => Style::new().fg_color(Some(AnsiColor::Red.into())),
        400..500 => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_plain(line: &str) -> String {
        let LoggedLine::Request(request) = LoggedLine::parse(line.as_bytes()) else {
            panic!("{line}");
        };
        anstream::adapter::strip_str(&shown(&request)).to_string()
    }

    #[test]
    fn a_request_is_one_line() {
        let line = r#"{"time":"2026-01-31T12:00:00.042Z","client":"192.0.2.7","method":"GET","host":"shop.example.com","path":"/a\u001b[2J\u00ff","status":503,"service":"shop","version":"v2","endpoint":"10.0.0.1:80","reason":"connect-refused","origin":"upstream","cause":"a","total_ms":12.345,"canary":true,"tries":[{},{}],"header:x":"1\n","query":"a=1"}"#;
        assert_eq!(
            shown_plain(line),
            "12:00:00.042Z 503 GET shop.example.com/a\\x1b[2J\\xff 12.3ms shop/v2 10.0.0.1:80 client=192.0.2.7 \
             reason=connect-refused origin=upstream tries=2 canary cause=\"a\" header:x=\"1\\x0a\" query=\"a=1\""
        );
    }

    #[test]
    fn a_refused_head_has_no_url() {
        let line = r#"{"time":"2026-01-31T12:00:00.042Z","client":"::1","status":400,"reason":"bad-method","total_ms":0.1}"#;
        assert_eq!(
            shown_plain(line),
            "12:00:00.042Z 400 - - 0.1ms client=::1 reason=bad-method"
        );
    }

    #[test]
    fn notices_are_no_requests() {
        let parse = |text: &str| LoggedLine::parse(text.as_bytes());
        assert!(matches!(parse("{\"dropped\":7}"), LoggedLine::Dropped(7)));
        assert!(matches!(
            parse("{\"handed_over\":true}"),
            LoggedLine::HandedOver
        ));
        assert!(matches!(parse("nonsense"), LoggedLine::Request(_)));
    }
}
