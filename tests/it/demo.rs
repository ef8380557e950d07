//! `cutover demo`: the first thing that anybody sees.

use crate::support::proxy::command;

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
