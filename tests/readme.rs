//! The documentation matches the program: examples are valid, lists are complete, links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cutover::config;
use cutover::telemetry::names;
use cutover::telemetry::record::Reason;

/// Most lines of README.md.
const README_LINES: usize = 250;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The files that users and contributors read, relative to the repository.
fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    for directory in ["docs", "docs/migration"] {
        let entries = fs::read_dir(root().join(directory)).expect("a directory of pages");
        let files = entries.map(Result::unwrap).filter(|e| e.path().is_file());
        let names = files.map(|entry| entry.file_name().into_string().unwrap());
        pages.extend(names.map(|name| format!("{directory}/{name}")));
    }
    pages.sort();
    // What is for programs is not a page.
    pages.retain(|name| name != "docs/openapi.json");
    assert!(pages.iter().all(|name| name.ends_with(".md")), "{pages:?}");
    let others = ["README.md", "CONTRIBUTING.md", "SECURITY.md"];
    pages.extend(others.map(str::to_owned));
    pages
}

/// The blocks between fences that are marked with this word.
fn blocks(text: &str, kind: &str) -> Vec<String> {
    let opening = format!("\n```{kind}\n");
    let parts = text.split(&opening).skip(1);
    parts
        .filter_map(|part| part.split("\n```").next().map(str::to_owned))
        .collect()
}

/// The text without its fenced blocks.
fn prose(text: &str) -> String {
    let parts = text.split("\n```").step_by(2);
    parts.collect::<Vec<_>>().join("\n")
}

/// The chapter below a heading of the second level, up to the next one.
fn chapter(text: &str, heading: &str) -> String {
    let start = text.split_once(&format!("\n## {heading}\n"));
    let (_, rest) = start.unwrap_or_else(|| panic!("no chapter {heading:?}"));
    rest.split("\n## ").next().unwrap_or(rest).to_owned()
}

fn assert_valid(text: &str, page: &str) {
    if let Err(errors) = config::parse(text, page) {
        let errors: Vec<_> = errors.iter().map(|e| e.rendered(false)).collect();
        panic!("{}\n{text}", errors.join("\n"));
    }
}

#[test]
fn every_configuration_is_valid() {
    let mut found = Vec::new();
    for page in pages() {
        let examples = blocks(&read(&page), "toml");
        examples.iter().for_each(|text| assert_valid(text, &page));
        found.push((page, examples.len()));
    }
    let count = |name: &str| found.iter().find(|(page, _)| page == name).unwrap().1;
    assert_eq!(count("README.md"), 3, "blue-green, canary, front door");
    assert_eq!(count("docs/migration.md"), 2, "nginx, HAProxy");
    assert!(
        found.iter().map(|(_, n)| n).sum::<usize>() >= 13,
        "{found:?}"
    );
}

#[test]
fn the_example_of_an_included_file_is_valid() {
    let page = read("docs/configuration.md");
    let main = blocks(&chapter(&page, "Included files"), "toml").remove(0);
    let included = blocks(&page, "toml conf.d/shop.toml").remove(0);
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("conf.d")).unwrap();
    let file = root.path().join("cutover.toml");
    fs::write(&file, main).unwrap();
    fs::write(root.path().join("conf.d/shop.toml"), included).unwrap();
    let loaded = config::load(&file).unwrap_or_else(|failure| panic!("{failure}"));
    let names: Vec<&str> = loaded.spec.services.iter().map(|s| &*s.name).collect();
    assert_eq!(names, ["home", "shop"]);
}

/// Each file under `config/migration` is shown as it is on one of the pages that compare it with another proxy's.
#[test]
fn every_front_door_is_shown_as_it_is() {
    let pages = pages();
    let pages = pages.iter().filter(|p| p.starts_with("docs/migration/"));
    let texts: Vec<String> = pages.map(|page| read(page)).collect();
    let mut shown: Vec<String> = texts.iter().flat_map(|t| blocks(t, "toml")).collect();
    let files = fs::read_dir(root().join("config/migration")).expect("config/migration");
    let mut files: Vec<String> = files
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .map(|text| text.trim_end().to_owned())
        .collect();
    shown.sort();
    files.sort();
    assert_eq!(shown, files);
}

/// A ConfigMap holds the file as an indented block.
#[test]
fn every_configmap_is_valid() {
    let mut found = 0;
    let mut manifests = blocks(&read("docs/kubernetes.md"), "yaml");
    manifests.push(read("config/kubernetes/front-door.yaml"));
    for manifest in manifests {
        for part in manifest.split("\n  cutover.toml: |\n").skip(1) {
            let lines = part
                .lines()
                .take_while(|line| line.is_empty() || line.starts_with("    "));
            let lines: Vec<&str> = lines.map(|l| l.get(4..).unwrap_or_default()).collect();
            assert_valid(&lines.join("\n"), "a ConfigMap");
            found += 1;
        }
    }
    assert_eq!(found, 2);
}

#[test]
fn readme_begins_with_two_commands_and_stays_short() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");
    let first = readme.split("\n```\n").nth(1).expect("a block of commands");
    let commands: Vec<&str> = first
        .lines()
        .map(|l| l.split(" #").next().unwrap())
        .collect();
    let commands: Vec<&str> = commands.into_iter().map(str::trim).collect();
    assert_eq!(commands, ["cargo run --release -- demo", "cargo test"]);
    let blue_green = &blocks(&readme, "toml")[0];
    assert!(blue_green.lines().count() <= 10, "{blue_green}");
}

/// There is no toolchain file, so that README and images say the version that Cargo.toml asks for.
#[test]
fn the_least_rust_version_is_stated() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    assert!(read("README.md").contains(&format!("Rust {version} or later")));
    assert!(read("docs/kubernetes.md").contains(&format!("FROM rust:{version}-")));
    for name in ["rust-toolchain", "rust-toolchain.toml"] {
        assert!(!root().join(name).exists(), "{name}");
    }
}

/// The names in the first column of a chapter's tables.
fn first_column(text: &str) -> Vec<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next().map(str::to_owned))
        .collect()
}

#[test]
fn every_metric_is_listed_and_no_other() {
    let text = read("docs/metrics.md");
    let tables = text.split("\n## Labels\n").next().expect("its text");
    let mut listed = first_column(tables);
    let mut known: Vec<_> = names::ALL.iter().map(|f| f.name.to_owned()).collect();
    listed.sort();
    known.sort();
    assert_eq!(listed, known);
}

/// Each label that a row of the metrics names is explained, and each that the program uses is named.
#[test]
fn every_label_is_listed() {
    let text = read("docs/metrics.md");
    let (tables, rest) = text.split_once("\n## Labels\n").expect("its chapter");
    let rows = tables.lines().filter(|line| line.starts_with("| `"));
    let mut named = BTreeSet::new();
    for row in rows {
        let labels = row.trim_end_matches('|').rsplit('|').next().unwrap();
        named.extend(labels.split('`').skip(1).step_by(2));
    }
    // Not ours: Prometheus' own, and that of summaries.
    let foreign = ["job", "instance", "quantile"];
    let used = names::RESERVED_LABELS.iter().chain(&names::PROCESS_LABELS);
    let used: BTreeSet<&str> = used.copied().filter(|l| !foreign.contains(l)).collect();
    assert_eq!(named, used);
    let rows = rest.lines().filter(|line| line.starts_with("| `"));
    let first: String = rows.map(|r| r[1..].split('|').next().unwrap()).collect();
    for label in used {
        assert!(
            first.contains(&format!("`{label}`")),
            "{label} is not explained"
        );
    }
}

/// The commands of the program, by its own help.
fn commands() -> Vec<String> {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_cutover"))
        .arg("--help")
        .output()
        .expect("the binary runs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let list = help
        .split("Commands:\n")
        .nth(1)
        .expect("a list of commands");
    let lines = list.lines().take_while(|line| !line.is_empty());
    // A description that is continued on the next line is indented more.
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names
        .filter(|name| !matches!(*name, "" | "help"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_is_listed() {
    let commands = commands();
    assert!(commands.len() >= 10, "{commands:?}");
    let operations = chapter(&read("docs/operations.md"), "Commands");
    let readme = chapter(&read("README.md"), "Commands");
    for command in commands {
        let row = format!("| `cutover {command}");
        let follows = |rest: &str| rest.starts_with([' ', '`']);
        let listed = operations.split(&row).skip(1).any(follows);
        assert!(listed, "{command} is missing");
        let name = format!("`cutover {command}`");
        assert!(readme.contains(&name), "{command} is missing in README.md");
    }
}

#[test]
fn every_reason_is_listed() {
    let chapter = chapter(&read("docs/operations.md"), "Responses of the proxy itself");
    // Of an upstream's answer: the client is told `upstream-malformed`. A refused retry leaves the answer as it was.
    let inner = [
        Reason::BadStatus,
        Reason::UnaskedUpgrade,
        Reason::BadWebsocket,
        Reason::TooManyInformational,
        Reason::BeyondFraming,
        Reason::SurplusData,
        Reason::PseudoInTrailers,
        Reason::LimitRetries,
    ];
    for reason in Reason::ALL.iter().filter(|reason| !inner.contains(reason)) {
        let listed = chapter.matches(&format!("`{reason}`")).count();
        assert_eq!(listed, 1, "{reason} is listed {listed} times");
    }
}

/// A part of the path to a table of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'k> {
    /// A key of the parser.
    Key(&'k str),
    /// A name that the user chooses: `NAME` in the documentation.
    Name,
    /// An item of a list of tables.
    Item,
}

/// A key that no table has.
const UNKNOWN: &str = "qqqqqqqqqq";

/// The keys of the table at this path, as the parser's message about an unknown key in it names them; `None` where it is no
/// table, or one whose keys the user chooses.
fn keys(path: &[Part<'_>]) -> Option<Vec<String>> {
    let mut value = format!("{UNKNOWN} = 1");
    for (depth, part) in path.iter().enumerate().rev() {
        // The innermost key, and every table around it.
        let is_table = path.get(depth + 1) != Some(&Part::Item);
        let inner = match is_table {
            true => format!("{{ {value} }}"),
            false => format!("[{{ {value} }}]"),
        };
        value = match part {
            Part::Key(key) => format!("{key} = {inner}"),
            Part::Name => format!("NAME = {inner}"),
            // Its braces come with the list.
            Part::Item => value,
        };
    }
    let errors = config::parse(&value, "probe.toml").expect_err("the key is unknown");
    let about = |e: &&config::Diagnostic| e.message().contains(&format!("unknown key `{UNKNOWN}`"));
    let help = errors.iter().find(about)?.help()?.to_owned();
    let (_, list) = help.split_once("the keys here are ")?;
    Some(
        list.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect(),
    )
}

/// Every table that the parser knows below this path: its place as the documentation writes it, and its keys.
fn tables(path: &[Part<'_>], found: &mut Vec<(String, Vec<String>)>) {
    let Some(known) = keys(path) else {
        return;
    };
    let words = path.iter().filter_map(|part| match part {
        Part::Key(key) => Some(*key),
        Part::Name => Some("NAME"),
        Part::Item => None,
    });
    found.push((words.collect::<Vec<_>>().join("."), known.clone()));
    for key in &known {
        for tail in [None, Some(Part::Name), Some(Part::Item)] {
            let below = path.iter().copied().chain([Part::Key(key)]).chain(tail);
            tables(&below.collect::<Vec<_>>(), found);
        }
    }
}

/// The first column of the table under the heading that names this place.
fn documented(text: &str, place: &str) -> Vec<String> {
    if place.is_empty() {
        return first_column(&chapter(text, "Top level"));
    }
    let names = [format!("`[{place}]`"), format!("`[[{place}]]`")];
    let sections = text.split("\n### ").skip(1);
    let section = sections
        .filter(|section| {
            let heading = section.lines().next().unwrap_or_default();
            names.iter().any(|name| heading.contains(name))
        })
        .map(|section| section.split("\n## ").next().unwrap_or(section));
    let sections: Vec<&str> = section.collect();
    assert_eq!(sections.len(), 1, "sections about [{place}]");
    first_column(sections[0])
}

#[test]
fn every_key_is_documented_and_no_other() {
    let mut found = Vec::new();
    tables(&[], &mut found);
    let places: BTreeSet<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
    for expected in [
        "",
        "admin",
        "listen.NAME.cert",
        "defaults.outlier",
        "service.NAME.versions.NAME",
        "service.NAME.match.when",
    ] {
        assert!(places.contains(expected), "not probed: {expected:?}");
    }
    let text = read("docs/configuration.md");
    for (place, mut known) in found {
        let mut listed = documented(&text, &place);
        listed.sort();
        known.sort();
        assert_eq!(listed, known, "[{place}]");
    }
}

/// The rows of a section whose default is one value: key and default, as they would be written.
fn defaults(section: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut column = None;
    for line in section.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells.get(1) == Some(&"key") {
            column = cells.iter().position(|cell| *cell == "default");
        }
        let value = column.and_then(|at| cells.get(at)?.strip_prefix('`')?.strip_suffix('`'));
        let key = cells
            .get(1)
            .and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        if let (Some(key), Some(value)) = (key, value.filter(|v| !v.contains('`'))) {
            found.push((key.to_owned(), value.to_owned()));
        }
    }
    found
}

/// A file that writes this key, and the same file without it.
fn with_and_without(place: &str, key: &str, value: &str) -> [String; 2] {
    const BASE: &str = "listen.NAME.bind = ':80'\nservice.NAME.versions.NAME.endpoints = ['a:1']\n";
    // What turns on the thing that the key is about.
    let around = match (place, key) {
        ("access_log", _) => "access_log.to = 'stderr'\n",
        ("acme", "seal_key_file") => {
            "listen.NAME.acme = 'a.example.com'\nfleet.etcd = 'http://a'\nfleet.name = 'f'\n"
        }
        ("acme", _) => "listen.NAME.acme = 'a.example.com'\n",
        ("fleet", _) => "fleet.etcd = 'http://a'\nfleet.name = 'f'\n",
        ("trace", _) => "trace.otlp = 'http://127.0.0.1:4318'\n",
        ("listen.NAME.client_limits", _) => "listen.NAME.client_limits.requests = '1/s'\n",
        ("service.NAME.health", _) => "service.NAME.check = '/ready'\n",
        ("service.NAME", "wait_pending") => "service.NAME.wait = '30s'\n",
        ("service.NAME", "hash_by") => "service.NAME.balance = 'hash'\n",
        ("service.NAME.mirror", _) => "service.NAME.mirror.to = 'NAME'\n",
        ("service.NAME.sticky", "max_life") => "service.NAME.sticky.idle = '1m'\n",
        ("service.NAME.sticky", _) => "service.NAME.sticky.max_life = '4h'\n",
        ("service.NAME.rollout" | "service.NAME.rollout.guard", _) => {
            "service.NAME.rollout.steps = ['5% for 10m']\n"
        }
        ("service.NAME.rollout.smoke.expect", _) => {
            "service.NAME.rollout.steps = ['5% for 10m']\nservice.NAME.rollout.smoke.request = 'GET /'\n"
        }
        ("service.NAME.rollout.hooks.before_rollout", _) => {
            "service.NAME.rollout.steps = ['5% for 10m']\nservice.NAME.rollout.hooks.before_rollout.url = 'http://a'\n"
        }
        ("service.NAME.rollout.query", _) => {
            "service.NAME.rollout.steps = ['5% for 10m']\nservice.NAME.rollout.query.prometheus = 'http://a'\n\
             service.NAME.rollout.query.query = 'up'\nservice.NAME.rollout.query.pass = '> 0'\n"
        }
        ("service.NAME.rollout.notify", _) => {
            "service.NAME.rollout.steps = ['5% for 10m']\nservice.NAME.rollout.notify.url = 'http://a'\n"
        }
        _ => "",
    };
    let line = match place {
        "" => format!("{key} = {value}\n"),
        "service.NAME.match" => {
            let rule = |rest: &str| {
                format!(
                    "{BASE}service.NAME.match = [{{ when = {{ path = '/' }}, to = 'NAME'{rest} }}]\n"
                )
            };
            return [rule(&format!(", {key} = {value}")), rule("")];
        }
        "listen.NAME.cert" => {
            let cert = |rest: &str| {
                format!(
                    "{BASE}listen.NAME.cert = [{{ cert = 'c', key = 'k', client_ca = 'a'{rest} }}]\n"
                )
            };
            return [cert(&format!(", {key} = {value}")), cert("")];
        }
        place => format!("{place}.{key} = {value}\n"),
    };
    [format!("{BASE}{around}{line}"), format!("{BASE}{around}")]
}

/// Writing a default changes nothing.
#[test]
fn every_default_is_the_programs() {
    let text = read("docs/configuration.md");
    let sections = text.split("\n### ").skip(1).filter_map(|section| {
        let heading = section.lines().next()?;
        let place = heading.split('`').nth(1)?;
        let body = section.split("\n## ").next()?;
        Some((place.trim_matches(['[', ']']), body.to_owned()))
    });
    let mut checked = 0;
    for (place, section) in sections.chain([("", chapter(&text, "Top level"))]) {
        for (key, value) in defaults(&section) {
            let [with, without] = with_and_without(place, &key, &value).map(|text| {
                assert_valid(&text, "default.toml");
                config::parse(&text, "default.toml").expect("it is valid")
            });
            assert_eq!(with, without, "[{place}] {key} = {value}");
            checked += 1;
        }
    }
    assert!(checked >= 45, "only {checked} defaults were found");
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let text = prose(text);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut followed = 0;
    let mut pages = pages();
    pages.extend(["ARCHITECTURE.md", "CHANGELOG.md", "benches/README.md"].map(str::to_owned));
    for page in pages {
        let text = read(&page);
        let directory = Path::new(&page).parent().unwrap();
        for part in prose(&text).split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            followed += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => PathBuf::from(&page),
                file => directory.join(file),
            };
            assert!(root().join(&path).exists(), "{page} links to {target}");
            if !heading.is_empty() {
                let known = anchors(&read(path.to_str().unwrap()));
                assert!(known.contains(heading), "{page} links to {target}");
            }
        }
    }
    assert!(followed > 100, "only {followed} links were found");
}

/// A table of contents names the chapters of its page, in their order.
#[test]
fn tables_of_contents_are_complete() {
    for page in pages() {
        let text = prose(&read(&page));
        let listed = text
            .lines()
            .filter_map(|line| line.strip_prefix("- [")?.strip_suffix(')'));
        let listed = listed.filter_map(|line| Some(line.split_once("](#")?.0));
        let chapters = text.lines().filter_map(|line| line.strip_prefix("## "));
        let (listed, chapters): (Vec<_>, Vec<_>) = (listed.collect(), chapters.collect());
        // One screen needs none.
        if page != "SECURITY.md" {
            assert_eq!(listed, chapters, "{page}");
        }
    }
}

#[test]
fn anchors_are_as_github_makes_them() {
    assert_eq!(anchor("The gate"), "the-gate");
    assert_eq!(anchor(" `[listen.NAME]`"), "listenname");
    let text = "# One\n\n```\n# no heading\n```\n\n## Drain and shutdown\n";
    let expected = ["drain-and-shutdown", "one"].map(str::to_owned);
    assert_eq!(anchors(text), BTreeSet::from(expected));
}
