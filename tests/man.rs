//! `cutover man` prints a page with every command and option.

use std::process::Command;

/// Options of every command, which stand at the top of the page only.
const GLOBAL: [&str; 4] = ["--config", "--admin", "--token-file", "--help"];

fn cutover(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_cutover"))
        .args(arguments)
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The text of a page without roff's escapes and fonts.
fn plain(page: &str) -> String {
    let fonts = [("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\-", "-")];
    fonts
        .iter()
        .fold(page.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The commands of the program, by its own help.
fn commands() -> Vec<String> {
    let help = cutover(&["--help"]);
    let list = help.split("Commands:\n").nth(1).expect("a list");
    let lines = list.lines().take_while(|line| !line.is_empty());
    // A description that is continued on the next line is indented more.
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names
        .filter(|name| !matches!(*name, "" | "help"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_has_a_section_with_its_options() {
    let page = plain(&cutover(&["man"]));
    let commands = commands();
    assert!(commands.contains(&"man".to_owned()), "{commands:?}");
    for command in commands {
        let heading = format!("\n.SS \"cutover {command}\"\n");
        let (_, section) = page
            .split_once(&heading)
            .unwrap_or_else(|| panic!("no {command}"));
        let section = section.split("\n.S").next().unwrap();
        assert!(
            section.contains(&format!("\ncutover {command}")),
            "{section}"
        );
        let entries = section.split("\n.TP\n").skip(1);
        let entries: Vec<&str> = entries.filter_map(|entry| entry.lines().next()).collect();
        let help = cutover(&[&command, "--help"]);
        let lines = help
            .lines()
            .filter(|line| line.trim_start().starts_with('-'));
        let options = lines.filter_map(|line| line.split(' ').find(|word| word.starts_with("--")));
        for option in options.filter(|option| !GLOBAL.contains(option)) {
            let is_named = |entry: &&str| entry.split([',', ' ']).any(|word| word == option);
            assert!(entries.iter().any(is_named), "{command} {option}");
        }
    }
}

#[test]
fn the_page_is_roff_with_the_usual_sections() {
    let page = cutover(&["man"]);
    let lines: Vec<&str> = page.lines().collect();
    let titles = lines.iter().filter(|line| line.starts_with(".TH "));
    assert_eq!(titles.count(), 1);
    let sections: Vec<&str> = lines
        .iter()
        .filter_map(|l| l.strip_prefix(".SH "))
        .collect();
    let expected = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "ENVIRONMENT",
        "FILES",
    ];
    assert_eq!(sections, expected);
    // A search for an option finds only escaped hyphens.
    assert!(!page.contains("--"), "unescaped option");
    for variable in [
        "CUTOVER_CONFIG",
        "CUTOVER_ADMIN",
        "CUTOVER_TOKEN",
        "CUTOVER_LOG_FORMAT",
    ] {
        assert!(page.contains(variable), "{variable}");
    }
}
