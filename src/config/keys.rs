//! Explains unknown keys: the key is planned, belongs in another table, is another proxy's word, or is misspelt.

mod words;

use super::units::quote;
use words::FOREIGN;

/// A dotted path of a table. `*` stands for a name chosen by the user; the empty path is the top of the file.
type Position = &'static str;

/// Keys planned for later releases, by table. A key that is supported must be removed here; a test checks that.
const PLANNED: [(Position, &[&str]); 0] = [];

/// Keys at the top of the file.
pub(super) const TOP: [&str; 14] = [
    "listen",
    "admin",
    "defaults",
    "workers",
    "state_dir",
    "shutdown",
    "limits",
    "access_log",
    "trace",
    "acme",
    "dns",
    "fleet",
    "include",
    "service",
];

/// Keys of a service.
pub(super) const SERVICE: [&str; 34] = [
    "hosts",
    "paths",
    "versions",
    "stable",
    "split",
    "goals",
    "flags",
    "rollout",
    "cohort",
    "match",
    "mirror",
    "respond",
    "redirect",
    "headers",
    "rewrite",
    "body_bytes",
    "timeouts",
    "balance",
    "hash_by",
    "check",
    "health",
    "outlier",
    "limits",
    "retry",
    "drain",
    "finish_sessions",
    "sticky",
    "shield",
    "fallback",
    "client_limits",
    "hedge",
    "wait",
    "wait_pending",
    "labels",
];

/// The explanation of an unknown key.
pub(super) struct Unknown {
    pub(super) message: String,
    pub(super) label: &'static str,
    pub(super) help: String,
    /// The key of the same table that was probably meant. If that one is missing, its absence isn't reported as well.
    pub(super) meant: Option<&'static str>,
}

/// Explains the unknown key `name` in the table at `path`, whose keys are `known`.
pub(super) fn unknown(path: &str, name: &str, known: &[&'static str]) -> Unknown {
    if is_planned(path, name) {
        return planned(path, name);
    }
    let unknown = |help: String, meant: Option<&'static str>| Unknown {
        message: format!("unknown key {} {}", quote(name), location(path)),
        label: "not a key that is known here",
        help,
        meant,
    };
    let word = FOREIGN
        .iter()
        .find(|f| f.words.contains(&name) && fits(f.position, path));
    if let Some(word) = word {
        let help = format!("here that is `{}`: {}", word.key, word.example);
        return unknown(help, Some(word.key));
    }
    if let Some(help) = misplaced(path, name) {
        return unknown(help, None);
    }
    let help = super::suggest::suggest(name, known, "the keys here are");
    unknown(help, super::suggest::nearest(name, known))
}

fn location(path: &str) -> String {
    match path {
        "" => "at the top of the file".to_owned(),
        path => format!("in `{path}`"),
    }
}

/// Returns whether the key is planned for this table.
fn is_planned(path: &str, name: &str) -> bool {
    { PLANNED.iter() }.any(|(position, names)| names.contains(&name) && fits(position, path))
}

fn planned(path: &str, name: &str) -> Unknown {
    let shown = match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    };
    Unknown {
        message: format!("`{shown}` is not available yet"),
        label: "planned for a later version of cutover",
        help: "leave it out until then".to_owned(),
        meant: None,
    }
}

/// Says where a key belongs that is valid in a service or at the top of the file, but was written in another table.
pub(super) fn misplaced(path: &str, name: &str) -> Option<String> {
    const WHY: &str = "in TOML, a key belongs to the nearest table header above it";
    if SERVICE.contains(&name)
        && let Some(service) = service_of(path)
    {
        return Some(format!(
            "`{name}` belongs in `[{service}]`, above the headers of its other tables: {WHY}"
        ));
    }
    (TOP.contains(&name) && !path.is_empty()).then(|| {
        format!("`{name}` belongs at the top of the file, above the first `[table]`: {WHY}")
    })
}

/// Returns the path of the service if the table is nested in one.
fn service_of(path: &str) -> Option<&str> {
    let parts = parts(path);
    let inside = parts.len() > 2 && parts[0] == "service";
    inside.then(|| &path[.."service.".len() + parts[1].len()])
}

fn fits(position: Position, path: &str) -> bool {
    let (position, path) = (parts(position), parts(path));
    let one = |(wanted, part): (&&str, &&str)| *wanted == "*" || wanted == part;
    position.len() == path.len() && position.iter().zip(&path).all(one)
}

/// Splits a dotted path into its keys. Names that contain a dot are quoted in the path.
fn parts(path: &str) -> Vec<&str> {
    let mut quoted = false;
    let parts = path.split(|c| {
        quoted ^= c == '"';
        c == '.' && !quoted
    });
    parts.filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders every error of a file.
    fn errors(text: &str) -> Vec<String> {
        let found = crate::config::parse(text, "t.toml").err();
        let found = found.unwrap_or_default();
        found.iter().map(ToString::to_string).collect()
    }

    /// A file with the additional key in the table at `position`.
    fn with(position: Position, key: &str) -> String {
        let top = match position {
            "" => format!("{key} = 1\n"),
            _ => String::new(),
        };
        let line = |at: Position| match at == position {
            true => format!("{key} = 1\n"),
            false => String::new(),
        };
        let when = match position {
            "service.*.match.when" => format!("{{ path = \"/\", {key} = 1 }}"),
            _ => "{ path = \"/\" }".to_owned(),
        };
        format!(
            "{top}[listen.a]\nbind = \":80\"\n{}[[listen.a.cert]]\ncert = \"c\"\nkey = \"k\"\n{}[defaults]\n{}\
             [fleet]\netcd = \"http://a\"\nname = \"f\"\n{}[service.s]\n{}[service.s.versions.v]\nendpoints = [\"a:1\"]\n{}[[service.s.match]]\nwhen = {when}\nto = \"v\"\n{}",
            line("listen.*"),
            line("listen.*.cert"),
            line("defaults"),
            line("fleet"),
            line("service.*"),
            line("service.*.versions.*"),
            line("service.*.match"),
        )
    }

    #[test]
    fn planned_keys_are_refused_as_not_available_yet() {
        assert_eq!(errors(&with("none", "")), Vec::<String>::new());
        for (position, keys) in PLANNED {
            for key in keys {
                let errors = errors(&with(position, key));
                // A key that is supported by now must be removed from `PLANNED`.
                assert_eq!(errors.len(), 1, "{position} {key}: {errors:?}");
                assert!(errors[0].contains("is not available yet"), "{}", errors[0]);
            }
        }
    }

    /// The keys of a table, as the message about an unknown key lists them.
    fn known(text: &str) -> Vec<String> {
        let errors = errors(text).concat();
        let (_, list) = errors.split_once("the keys here are ").expect("a list");
        let list = list.lines().next().unwrap().split(", ");
        list.map(|key| key.trim_matches('`').to_owned()).collect()
    }

    #[test]
    fn the_keys_of_the_file_and_of_a_service_are_all_of_them() {
        let top =
            known("listen = ':80'\nqqqqqqqqqq = 1\n[service.s]\nversions = { v = ['a:1'] }\n");
        assert_eq!(top, TOP);
        let service =
            known("listen = ':80'\n[service.s]\nversions = { v = ['a:1'] }\nqqqqqqqqqq = 1\n");
        assert_eq!(service, SERVICE);
    }

    #[test]
    fn words_of_other_proxies_lead_to_keys_that_exist() {
        for word in &FOREIGN {
            let known: &[&str] = match word.position {
                "" => &TOP,
                "service.*" => &SERVICE,
                _ => continue,
            };
            assert!(known.contains(&word.key), "{}", word.key);
            assert!(
                word.words.iter().all(|w| !known.contains(w)),
                "{}",
                word.key
            );
        }
    }

    #[test]
    fn positions() {
        assert!(fits(
            "service.*.versions.*",
            "service.shop.versions.\"1.0.0\""
        ));
        assert!(fits("", ""));
        assert!(!fits("service.*", "service.shop.versions"));
        assert!(!fits("service.*", ""));
        assert_eq!(service_of("service.\"a.b\".split"), Some("service.\"a.b\""));
        assert_eq!(service_of("service.shop"), None);
        assert_eq!(service_of("listen.a.cert"), None);
    }
}
