//! The floors of the house hold: a room imports only from lower floors, files stay readable, names say something.

#[path = "support/file_graph.rs"]
mod file_graph;

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms and their floors. A room on a floor doesn't import another one of that floor.
const FLOORS: [(&str, u8); 20] = [
    ("index", 0),
    ("words", 0),
    ("prefetch", 0),
    ("reason", 0),
    ("certificates", 1),
    ("config", 1),
    ("telemetry", 1),
    ("http1", 1),
    ("net", 1),
    ("http2", 2),
    ("routing", 3),
    ("upstream", 3),
    ("snapshot", 4),
    ("proxy", 5),
    ("rollout", 5),
    ("admin", 6),
    ("edge", 6),
    ("control", 7),
    ("cli", 8),
    ("main", 9),
];

/// Metrics count by the codec's closed set of methods.
const EXCEPTIONS: [(&str, &str); 1] = [("telemetry", "http1::Method")];

const LONGEST_FILE: usize = 500;
const REASON: &str = "why this file is long";

fn floor(room: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(name, _)| *name == room)
        .map(|(_, floor)| *floor)
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Path inside `src` and text of every source file.
fn house() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 20, "the sources are somewhere else");
    paths
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// The text without comments and string literals; lines stay where they are.
fn code_only(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                while let Some(c) = rest.next() {
                    match c {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        '\n' => code.push('\n'),
                        _ => {}
                    }
                }
            }
            // A quote in a character literal opens no string.
            '\'' if rest.peek() == Some(&'"') => {
                rest.next();
            }
            c => code.push(c),
        }
    }
    code
}

/// What stands after each `crate::` (the library's name, in `main.rs`): one entry for each path, braces opened.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for prefix in ["crate::", "cutover::"] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            open_braces(&code[at + prefix.len()..], "", &mut found);
        }
    }
    found
}

/// `a::b` gives itself, `{a, b::{c, d}}` gives `a`, `b::c`, `b::d`. Returns what follows.
fn open_braces<'c>(mut rest: &'c str, prefix: &str, found: &mut Vec<String>) -> &'c str {
    rest = rest.trim_start();
    let end = rest
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(rest.len());
    let (path, after) = rest.split_at(end);
    let path = format!("{prefix}{path}");
    let Some(mut inside) = after.strip_prefix('{') else {
        found.push(path);
        return after;
    };
    loop {
        inside = inside.trim_start();
        if let Some(after) = inside.strip_prefix('}') {
            return after;
        }
        let after = open_braces(inside, &path, found);
        // On to the next one: past `as name` and the comma.
        let Some(next) = after.find([',', '}']) else {
            return after;
        };
        inside = after[next..].strip_prefix(',').unwrap_or(&after[next..]);
    }
}

fn room_of(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or_default();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Why `room` may not import `path`, if so.
fn offence(room: &str, path: &str) -> Option<String> {
    let target = path.split("::").next().unwrap_or_default();
    let excepted = |(from, to): &(&str, &str)| {
        *from == room && (path == *to || path.starts_with(&format!("{to}::")))
    };
    if target == room || EXCEPTIONS.iter().any(excepted) {
        return None;
    }
    match (floor(room), floor(target)) {
        (_, None) => Some(format!("`{target}` is in no floor")),
        (Some(own), Some(other)) if other >= own => Some(format!(
            "`{room}` is on floor {own}, `{target}` on floor {other}"
        )),
        _ => None,
    }
}

#[test]
fn a_room_imports_only_from_lower_floors() {
    let mut offences = Vec::new();
    for (file, text) in house() {
        let room = room_of(&file);
        if ["lib", "data_plane", "configuration"].contains(&room) {
            continue;
        }
        if floor(room).is_none() {
            offences.push(format!("src/{file}: the room `{room}` is in no floor"));
            continue;
        }
        for path in imports(&code_only(&text)) {
            if let Some(why) = offence(room, &path) {
                offences.push(format!("src/{file}: crate::{path}: {why}"));
            }
        }
    }
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn long_files_say_why() {
    let long: Vec<String> = house()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > LONGEST_FILE)
        .filter(|(_, text)| {
            let mut first = text.lines().take(20);
            !first.any(|line| line.to_lowercase().contains(REASON))
        })
        .map(|(file, text)| format!("src/{file}: {} lines", text.lines().count()))
        .collect();
    assert!(
        long.is_empty(),
        "more than {LONGEST_FILE} lines, and no \"{REASON}\" in the first ones:\n{}",
        long.join("\n")
    );
}

#[test]
fn names_say_what_is_inside() {
    let empty = [
        "util", "utils", "common", "manager", "managers", "helper", "helpers", "misc",
    ];
    for (file, _) in house() {
        for part in file.split('/') {
            let name = part.strip_suffix(".rs").unwrap_or(part);
            assert!(!empty.contains(&name), "src/{file}: `{name}` says nothing");
        }
    }
}

/// The reader of imports sees what it is there to see.
#[test]
fn imports_are_found() {
    let code = code_only(
        "use crate::config::{self, spec::{Share, Spec}, edit as e};\n// crate::comment\nlet s = \"crate::string\";\n\
         fn f() { crate::proxy::handle(crate::net::Buffer::new('\"')); } use crate::{admin, cli::run};",
    );
    assert_eq!(
        imports(&code),
        [
            "config::self",
            "config::spec::Share",
            "config::spec::Spec",
            "config::edit",
            "proxy::handle",
            "net::Buffer::new",
            "admin",
            "cli::run",
        ]
    );
    assert!(offence("routing", "upstream::Pool").is_some(), "one floor");
    assert!(offence("config", "control::run").is_some(), "upwards");
    assert!(offence("routing", "attic::Box").is_some(), "unknown");
    assert!(offence("telemetry", "http1::Head").is_some());
    assert_eq!(offence("telemetry", "http1::Method"), None);
    assert_eq!(offence("proxy", "routing::decision"), None);
}

#[test]
fn the_map_names_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let named = map.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = named.filter(|word| word.starts_with("src/")).collect();
    assert!(paths.len() > 30, "{paths:?}");
    let missing: Vec<_> = paths.iter().filter(|p| !root.join(p).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md: {missing:?}");
}

#[test]
fn a_request_is_followed_by_opening_fifteen_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let list = map.split("to its record:").nth(1).expect("the list");
    let list = list.split("\n\nHTTP/1").next().expect("its end");
    let steps = list
        .lines()
        .filter(|l| l.starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(steps.count(), 14, "one line names two files");
    assert!(list.matches("`src/").count() <= 16, "{list}");
}

/// Code without comments, literals and tests.
fn production(text: &str) -> String {
    let code = code_only(text);
    let end = code
        .find("#[cfg(test)]\nmod ")
        .or(code.find("#[cfg(test)]\n#[path"));
    let code = &code[..end.unwrap_or(code.len())];
    let mut lines = Vec::new();
    let mut skips = false;
    for line in code.lines() {
        // What only tests use stands on the line after its attribute.
        if !std::mem::replace(&mut skips, line.trim() == "#[cfg(test)]") {
            lines.push(line);
        }
    }
    lines.join("\n")
}

fn is_test(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    file.contains("tests/")
        || name.contains("test")
        || ["fake.rs", "fixtures.rs", "in_process.rs"].contains(&name)
}

#[test]
fn no_two_files_use_each_other() {
    let files = house().into_iter().filter(|(file, _)| !is_test(file));
    let graph = file_graph::FileGraph::new(files.map(|(file, text)| (file, production(&text))));
    let circles: Vec<String> = graph.circles().iter().map(|c| c.join(" <-> ")).collect();
    assert!(
        circles.is_empty(),
        "{} circles:\n{}",
        circles.len(),
        circles.join("\n")
    );
}

#[test]
fn circles_are_found() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let graph = file_graph::FileGraph::new([
        file("lib.rs", ""),
        file(
            "a/mod.rs",
            "pub(crate) use one::One; mod one; mod two; mod three;",
        ),
        file(
            "a/one.rs",
            "use super::two::Two; fn f() -> crate::a::three::Three {}",
        ),
        // Through the re-export in `a`.
        file("a/two.rs", "use crate::a::{One, three};"),
        file("a/three.rs", "use super::Above;"),
    ]);
    assert_eq!(graph.circles(), [["a/one.rs", "a/two.rs"]]);
}
