//! What is said of a key that its table doesn't know: it is planned, it belongs into another table, another proxy calls
//! something so, or it is a slip.

mod words;

use super::units::quote;
use words::FOREIGN;

/// A dotted path of tables; `*` stands for a name that the user gives, and the file itself is the empty path.
type Position = &'static str;

/// Keys of releases to come, by their table. What can be read is not in here.
const PLANNED: [(Position, &[&str]); 8] = [
    (
        "",
        &["include", "dns", "access_log", "trace", "acme", "fleet"],
    ),
    (
        "listen.*",
        &[
            "proxy_protocol",
            "acme",
            "services",
            "mode",
            "group",
            "client_limits",
        ],
    ),
    ("listen.*.cert", &["client_auth"]),
    ("defaults", &["headers"]),
    (
        "service.*",
        &[
            "headers",
            "rewrite",
            "redirect",
            "respond",
            "body_bytes",
            "wait",
            "wait_pending",
            "hedge",
            "mirror",
            "flags",
            "goals",
            "rollout",
        ],
    ),
    (
        "service.*.versions.*",
        &["tls", "proxy_protocol", "max_share"],
    ),
    ("service.*.match", &["respond", "redirect", "headers"]),
    ("service.*.match.when", &["not"]),
];

/// Planned keys that take the place of a needed one: while they are written, its absence is no mistake.
const REPLACES: [(Position, &str, &str); 4] = [
    ("service.*", "redirect", "versions"),
    ("service.*", "respond", "versions"),
    ("service.*.match", "respond", "to"),
    ("service.*.match", "redirect", "to"),
];

/// Keys at the top of the file.
pub(super) const TOP: [&str; 8] = [
    "listen",
    "admin",
    "defaults",
    "workers",
    "state_dir",
    "shutdown",
    "limits",
    "service",
];

/// Keys of a service.
pub(super) const SERVICE: [&str; 21] = [
    "hosts",
    "paths",
    "versions",
    "stable",
    "split",
    "cohort",
    "match",
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
    "labels",
];

/// What is wrong with a key that isn't known.
pub(super) struct Unknown {
    pub(super) message: String,
    pub(super) label: &'static str,
    pub(super) help: String,
    /// The key of the same table that was meant: that it is missing need not be said as well.
    pub(super) meant: Option<&'static str>,
}

/// What is said of key `name` in the table at `path`, which knows the keys `known`.
pub(super) fn unknown(path: &str, name: &str, known: &[&'static str]) -> Unknown {
    if is_planned(path, name) {
        return planned(path, name);
    }
    let unknown = |help: String, meant: Option<&'static str>| Unknown {
        message: format!("unknown key {} {}", quote(name), place(path)),
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
    let help = super::raw::suggest(name, known, "the keys here are");
    unknown(help, super::raw::nearest(name, known))
}

fn place(path: &str) -> String {
    match path {
        "" => "at the top of the file".to_owned(),
        path => format!("in `{path}`"),
    }
}

/// Whether a later release knows this key, in this table or, for one of the file as a whole, in any.
fn is_planned(path: &str, name: &str) -> bool {
    PLANNED.iter().any(|(position, names)| {
        names.contains(&name) && (position.is_empty() || fits(position, path))
    })
}

fn planned(path: &str, name: &str) -> Unknown {
    let top = fits("", path) || PLANNED[0].1.contains(&name);
    let shown = match top {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    };
    let replaces = REPLACES
        .iter()
        .find(|(position, key, _)| *key == name && fits(position, path));
    Unknown {
        message: format!("`{shown}` is not available yet"),
        label: "planned for a later version of cutover",
        help: "leave it out until then".to_owned(),
        meant: replaces.map(|(_, _, needed)| *needed),
    }
}

/// Where a known key belongs that stands below the header of a table that doesn't have it.
pub(super) fn misplaced(path: &str, name: &str) -> Option<String> {
    const WHY: &str = "TOML counts every key to the table whose header stands above it";
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

/// The service of a table below one.
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

/// The keys of a dotted path; names with a dot stand in quotes.
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

    /// Everything that is said of a service's file with these lines in it.
    fn said(text: &str) -> Vec<String> {
        let errors = crate::config::parse(text, "t.toml").err();
        let errors = errors.unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    /// A file with `key` in the table at `position`.
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
             [service.s]\n{}[service.s.versions.v]\nendpoints = [\"a:1\"]\n{}[[service.s.match]]\nwhen = {when}\nto = \"v\"\n{}",
            line("listen.*"),
            line("listen.*.cert"),
            line("defaults"),
            line("service.*"),
            line("service.*.versions.*"),
            line("service.*.match"),
        )
    }

    #[test]
    fn what_is_planned_cannot_be_read_and_says_so() {
        assert_eq!(said(&with("none", "")), Vec::<String>::new());
        for (position, keys) in PLANNED {
            for key in keys {
                let said = said(&with(position, key));
                // What can be read is no longer planned: take it out of the table.
                assert_eq!(said.len(), 1, "{position} {key}: {said:?}");
                assert!(said[0].contains("is not available yet"), "{}", said[0]);
            }
        }
    }

    /// The keys of a table, as the message about one that is none of them names them.
    fn known(text: &str) -> Vec<String> {
        let said = said(text).concat();
        let (_, list) = said.split_once("the keys here are ").expect("a list");
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
