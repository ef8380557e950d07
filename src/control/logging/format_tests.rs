use super::*;

const TEXT: Format = Format::Text { color: false };
const COLOR: Format = Format::Text { color: true };

fn line(format: Format, fields: &[(&str, &str)]) -> String {
    let mut line = Line::new(format);
    for (name, value) in fields {
        line.put(name, value);
    }
    line.finish(Level::INFO, SystemTime::UNIX_EPOCH)
}

/// The text line without its timestamp and level.
fn text(fields: &[(&str, &str)]) -> String {
    let line = line(TEXT, fields);
    let rest = line.strip_prefix("1970-01-01T00:00:00.000000Z  INFO ");
    rest.unwrap_or_else(|| panic!("{line}")).to_owned()
}

fn json(fields: &[(&str, &str)]) -> serde_json::Value {
    let line = line(Format::Json, fields);
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line}"))
}

/// Characters that may be in a request and must not be in a log.
const HOSTILE: &str =
    "a\r\nb\n2026-01-01T00:00:00Z ERROR forged\x00\x07\x1b[31m\x7f\u{9b}31m\u{2028}\u{202e}\t\"\\";

#[test]
fn values_are_plain_words_or_in_quotes() {
    for (value, expected) in [
        ("shop", "shop"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("Größe", "Größe"),
        ("{a,b}", "{a,b}"),
        ("", "\"\""),
        ("two words", "\"two words\""),
        ("a=b", "\"a=b\""),
        ("say \"hi\"", "\"say \\\"hi\\\"\""),
        ("C:\\x", "\"C:\\\\x\""),
    ] {
        assert_eq!(
            text(&[("message", "m"), ("key", value)]),
            format!("m key={expected}\n")
        );
    }
    assert_eq!(text(&[("key", "v"), ("r#type", "t")]), "key=v type=t\n");
}

#[test]
fn hostile_values_can_neither_break_the_line_nor_command_the_terminal() {
    for fields in [[("message", HOSTILE)], [("path", HOSTILE)]] {
        for format in [TEXT, COLOR, Format::Json] {
            let line = line(format, &fields);
            let line = line
                .replace("\u{1b}[2m", "")
                .replace("\u{1b}[0m", "")
                .replace("\u{1b}[32m", "");
            let inside = line.strip_suffix('\n').unwrap();
            let bad = inside.chars().find(|c| is_unsafe(*c));
            assert_eq!(bad, None, "{inside}");
            assert!(inside.contains("forged"), "{inside}");
        }
    }
    // Escaping loses nothing: parsing the JSON returns the value.
    assert_eq!(json(&[("path", HOSTILE)])["path"], HOSTILE);
    assert_eq!(json(&[("message", HOSTILE)])["message"], HOSTILE);
    assert_eq!(json(&[("detail", HOSTILE)])["detail"], HOSTILE);
    assert_eq!(text(&[("message", "a\nb\u{1b}")]), "a\\nb\\u{1b}\n");
}

#[test]
fn detail_stands_on_indented_lines_of_its_own() {
    let fields = [
        ("message", "refused"),
        ("detail", "line 1\nline \x1b2\n"),
        ("generation", "3"),
    ];
    assert_eq!(
        text(&fields),
        "refused generation=3\n    line 1\n    line \\u{1b}2\n"
    );
    assert_eq!(json(&fields)["detail"], "line 1\nline \x1b2\n");
}

#[test]
fn colours_are_for_terminals() {
    let colored = line(COLOR, &[("message", "up"), ("service", "shop")]);
    assert!(
        colored.contains("\u{1b}[32m INFO\u{1b}[0m up"),
        "{colored:?}"
    );
    assert!(!line(TEXT, &[("message", "up")]).contains('\u{1b}'));
}

#[test]
fn numbers_that_json_cannot_express_are_strings() {
    let mut fields = Line::new(Format::Json);
    fields.put_plain("n", -3);
    fields.put("x", f64::NAN);
    let line = fields.finish(Level::WARN, SystemTime::UNIX_EPOCH);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&value["n"], &value["x"]), (&(-3).into(), &"NaN".into()));
    assert_eq!(value["level"], "WARN");
    assert!(value.get("message").is_none());
}

#[test]
fn the_causes_of_an_error_are_part_of_its_value() {
    #[derive(Debug)]
    struct Outer(std::io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("connect failed")
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    let error = Outer(std::io::Error::other("refused"));
    let chain = chain(&error);
    assert_eq!(chain, "connect failed: refused");
}
