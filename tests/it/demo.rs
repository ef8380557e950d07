//! `cutover demo`: the first thing that anybody sees.

use crate::support::proxy::{BINARY, command};

#[test]
fn the_story_is_told_without_a_terminal_and_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let said = command(&["demo", "--for", "5s"], dir.path());
    assert_eq!(said.code, 0, "{said:?}");
    for word in ["blue", "green", "5%", "50%", "100%", ".toml"] {
        assert!(said.stdout.contains(word), "no {word} in\n{}", said.stdout);
    }
    assert!(
        !said.stdout.contains('\u{1b}'),
        "no escapes without a terminal"
    );
}

#[test]
fn two_at_once_have_a_port_each_and_the_command_that_they_print_works_as_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let said: Vec<String> = std::thread::scope(|scope| {
        let play = || {
            let said = command(&["demo", "--for", "5s"], dir.path());
            assert_eq!(said.code, 0, "{said:?}");
            said.stdout
        };
        let both = [scope.spawn(play), scope.spawn(play)];
        both.map(|demo| demo.join().expect("a demo")).into()
    });
    let line = |said: &str, start: &str| {
        let lines = said.lines().map(str::trim_start);
        let found = lines.filter_map(|l| l.strip_prefix(start)).next();
        found
            .unwrap_or_else(|| panic!("no {start:?} in {said}"))
            .to_owned()
    };
    let url = |said: &String| line(said, "cutover demo: blue and green behind ");
    assert_ne!(url(&said[0]), url(&said[1]));
    // This program is not the `cutover` of PATH, if there is one.
    let shift = line(&said[0], "or ");
    assert!(shift.trim_start().starts_with(BINARY), "{shift}");
}

#[test]
fn a_time_without_a_unit_is_refused_with_what_was_probably_meant() {
    let dir = tempfile::tempdir().unwrap();
    let said = command(&["demo", "--for", "2"], dir.path());
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("did you mean `2s`?"), "{said:?}");
}
