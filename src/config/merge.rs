//! Parses the files of a configuration and joins them in one document, whose spans are those of the whole text.
//!
//! Included files hold services, and the tables that a fleet shares may hold defaults as well. Their tables are moved into the
//! `service` table of the main file, so that everything that reads the document, and compares services with each other, finds them
//! together.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::bundle::FilePart;
use super::problems::Problems;
use super::shared;
use super::syntax;
use super::units::quote;

const SERVICE: &str = "service";

/// Reads a document whose syntax errors have been reported. `readable` is the whole text without them, and `parts` are its files.
pub(super) fn document<'t>(
    readable: &'t str,
    parts: &[FilePart<'_>],
    out: &mut Problems,
) -> Spanned<DeTable<'t>> {
    let parse = |part: &FilePart<'_>| {
        let text = &readable[part.start..part.start + part.text.len()];
        let (mut root, _) = DeTable::parse_recoverable(text);
        root.get_mut().remove(syntax::PLACEHOLDER);
        root
    };
    let (main, included) = (&parts[0], &parts[1..]);
    let mut root = parse(main);
    let names = shared::names(root.get_ref());
    let shared: Vec<String> = names.into_iter().map(str::to_owned).collect();
    for part in included {
        for (key, value) in parse(part).into_inner() {
            let (key, value) = (moved_key(key, part.start), moved(value, part.start));
            let name = key.get_ref().to_string();
            match part.is_shared() {
                true if !shared.contains(&name) => not_shared(&name, key.span(), out),
                true if name != SERVICE => add_table(root.get_mut(), (key, value), out),
                false if name != SERVICE => misplaced(&name, key.span(), out),
                is_shared => add_services(root.get_mut(), (key, value), is_shared, out),
            }
        }
    }
    root
}

/// Adds a table that the fleet shares.
fn add_table<'t>(
    root: &mut DeTable<'t>,
    (key, value): (Spanned<DeString<'t>>, Spanned<DeValue<'t>>),
    out: &mut Problems,
) {
    if let Some((first, _)) = root.get_key_value(&**key.get_ref()) {
        twice(&quote(key.get_ref()), key.span(), first.span(), out);
        return;
    }
    root.insert(key, value);
}

/// Reports a key that is both in the file and in the fleet's tables.
fn twice(what: &str, span: Range<usize>, first: Range<usize>, out: &mut Problems) {
    let message = format!("{what} is in the file and in the fleet's tables");
    out.error(span, message)
        .label("the fleet's")
        .also(first, "the file's")
        .help("remove it from the file: the members of the fleet share it");
}

fn not_shared(key: &str, span: Range<usize>, out: &mut Problems) {
    let message = format!("{} can't be in the fleet's tables", quote(key));
    out.error(span, message)
        .label("expected the tables that `fleet.share` names")
        .help("move it to the file, or name it in `fleet.share`, which may have \"service\" and \"defaults\"");
}

/// Adds the services of an included file to those of the document.
fn add_services<'t>(
    root: &mut DeTable<'t>,
    (key, value): (Spanned<DeString<'t>>, Spanned<DeValue<'t>>),
    is_shared: bool,
    out: &mut Problems,
) {
    let span = value.span();
    let DeValue::Table(services) = value.into_inner() else {
        out.error(
            span,
            "`service` must be a table: one table for each service",
        )
        .label("expected `[service.NAME]`");
        return;
    };
    let Some(all) = root.get_mut(SERVICE) else {
        let services = Spanned::new(span, DeValue::Table(services));
        root.insert(key, services);
        return;
    };
    // A main file whose `service` isn't a table is reported where it is read.
    let DeValue::Table(all) = all.get_mut() else {
        return;
    };
    for (name, service) in services {
        if let Some((first, _)) = all.get_key_value(&**name.get_ref()) {
            if is_shared {
                let what = format!("service {}", quote(name.get_ref()));
                twice(&what, name.span(), first.span(), out);
                continue;
            }
            let message = format!("service {} is defined twice", quote(name.get_ref()));
            out.error(name.span(), message)
                .label("again here")
                .also(first.span(), "first here")
                .help("the name of a service is unique over all files");
            continue;
        }
        all.insert(name, service);
    }
}

fn misplaced(key: &str, span: Range<usize>, out: &mut Problems) {
    let message = format!("{} can't be in an included file", quote(key));
    out.error(span, message)
        .label("expected `[service.NAME]`")
        .help("included files hold services only: move it to the main file");
}

fn moved_span(span: Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}

fn moved_key(key: Spanned<DeString<'_>>, by: usize) -> Spanned<DeString<'_>> {
    Spanned::new(moved_span(key.span(), by), key.into_inner())
}

/// Moves all spans of a value by an offset. The depth of the recursion is limited by the parser.
fn moved(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = moved_span(value.span(), by);
    let inner = match value.into_inner() {
        DeValue::Array(items) => {
            DeValue::Array(items.into_iter().map(|item| moved(item, by)).collect())
        }
        DeValue::Table(entries) => DeValue::Table(
            entries
                .into_iter()
                .map(|(key, value)| (moved_key(key, by), moved(value, by)))
                .collect(),
        ),
        other => other,
    };
    Spanned::new(span, inner)
}

#[cfg(test)]
mod tests {
    use crate::config::{bundle, parse, parse_bundle};

    const MAIN: &str =
        "listen = ':80'\ninclude = ['*.toml']\n[defaults.timeouts]\nconnect = '2s'\n";
    const SHOP: &str = "[service.shop]\nhosts = ['shop.test']\nstable = 'a'\n\
        versions = { a = ['h:1', 'h:2 weight=2'], b = ['h:3'] }\n\
        [[service.shop.match]]\nwhen = { header.x = '/^y/' }\nto = 'b'\n";
    const API: &str = "service.api = { hosts = 'api.test', versions = { v1 = ['h:4'] } }\n";

    fn joined(files: &[&str]) -> String {
        let mut text = MAIN.to_owned();
        for (number, file) in files.iter().enumerate() {
            bundle::append(&mut text, &format!("{number}.toml"), file);
        }
        text
    }

    #[test]
    fn several_files_mean_what_one_means() {
        let one = parse(&format!("{API}{MAIN}{SHOP}"), "one.toml").unwrap();
        let several = parse_bundle(&joined(&[SHOP, API]), "main.toml").unwrap();
        assert_eq!(one.services.len(), 2);
        for service in &one.services {
            let other = several.services.iter().find(|s| s.name == service.name);
            assert_eq!(other, Some(service));
        }
        assert_eq!(
            (one.listeners, one.limits),
            (several.listeners, several.limits)
        );
    }

    #[test]
    fn errors_are_where_they_are() {
        let wrong = SHOP.replace("'h:3'", "'h:'");
        let errors = parse_bundle(&joined(&[API, &wrong, SHOP]), "/etc/main.toml").unwrap_err();
        let places: Vec<String> = errors.iter().map(|e| e.summary()).collect();
        assert!(places[0].starts_with("/etc/1.toml:4:"), "{places:?}");
        assert!(places[1].starts_with("/etc/2.toml:1:10: service `shop` is defined twice"));
        assert_eq!(errors[1].also_file(), Some("/etc/1.toml"));
        assert_eq!(places.len(), 2);
        // A file that isn't TOML doesn't make the others incomprehensible.
        let errors = parse_bundle(&joined(&["[service.x", "a = '", API]), "main.toml").unwrap_err();
        let files: Vec<&str> = errors.iter().map(|e| e.file()).collect();
        assert_eq!(files, ["0.toml", "1.toml"]);
    }

    #[test]
    fn only_services_are_included() {
        let errors = parse_bundle(
            &joined(&["workers = 2\n", "service = 1\n", API]),
            "main.toml",
        );
        let places: Vec<String> = errors.unwrap_err().iter().map(|e| e.summary()).collect();
        assert_eq!(
            places,
            [
                "0.toml:1:1: `workers` can't be in an included file",
                "1.toml:1:11: `service` must be a table: one table for each service"
            ]
        );
    }
}
