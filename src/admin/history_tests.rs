use super::*;

fn entry(generation: u64, hash: &str, changes: &[(&str, &str)]) -> HistoryEntry {
    let line = |(service, text): &(&str, &str)| ChangeLine {
        service: Some((*service).to_owned()),
        text: (*text).to_owned(),
    };
    let changes = changes.iter().map(line).collect();
    HistoryEntry::now(
        generation,
        ChangeCause::File.into(),
        hash.to_owned(),
        changes,
    )
}

fn announcement(hash: &str, by: &str) -> Announcement {
    Announcement {
        hash: hash.to_owned(),
        by: by.to_owned(),
    }
}

#[test]
fn an_announced_text_is_attributed_once() {
    let history = History::default();
    let (hash, other) = ("00000000000000aa", "00000000000000bb");
    let by = announcement(hash, "alice@host (shift)");
    history.announce(by, ChangeCause::Cli).unwrap();
    assert_eq!(history.author(other), ChangeCause::File.into());
    let expected = Attribution {
        cause: ChangeCause::Cli,
        who: Some("alice@host (shift)".into()),
    };
    assert_eq!(history.author(hash), expected);
    assert_eq!(history.author(hash), ChangeCause::File.into());
}

#[test]
fn malformed_announcements_are_refused_and_their_number_is_bounded() {
    let history = History::default();
    let hash = "00000000000000aa";
    for (hash, by) in [
        ("aa", "alice"),
        ("00000000000000zz", "alice"),
        (hash, ""),
        (hash, "al\x1b[31mice"),
        (hash, &*"x".repeat(201)),
    ] {
        let refused = history.announce(announcement(hash, by), ChangeCause::Cli);
        assert!(refused.is_err(), "{hash} {by:?}");
    }
    for n in 0..3 * ANNOUNCED {
        let one = announcement(&format!("{n:016x}"), "alice");
        history.announce(one, ChangeCause::Cli).unwrap();
    }
    assert_eq!(history.state().announced.len(), ANNOUNCED);
}

#[test]
fn the_history_of_a_service_has_its_changes_only() {
    let history = History::default();
    history.add(
        entry(2, "a", &[("shop", "shop: one"), ("api", "api: two")]),
        None,
    );
    history.add(entry(3, "b", &[("api", "api: three")]), None);
    let report = history.report(Some("shop"));
    assert_eq!(report.entries.len(), 1);
    assert_eq!(report.entries[0].changes.len(), 1);
    assert_eq!(report.entries[0].changes[0].text, "shop: one");
    let all = history.report(None).entries;
    let all: Vec<u64> = all.iter().map(|e| e.generation).collect();
    assert_eq!(all, [3, 2], "the newest first");
}

#[test]
fn undo_goes_back_to_the_last_other_text() {
    let history = History::default();
    assert!(history.target(None, "a").is_err());
    history.add(entry(1, "a", &[]), None);
    history.add(entry(2, "b", &[]), None);
    // The gate opened: the same text, another generation.
    history.add(entry(3, "b", &[]), None);
    assert_eq!(history.target(None, "b").unwrap().generation, 1);
    history.add(entry(4, "a", &[]), None);
    assert_eq!(
        history.target(None, "a").unwrap().generation,
        3,
        "an undo can be undone"
    );
    assert_eq!(history.target(Some(2), "a").unwrap().hash, "b");
    let missing = history.target(Some(9), "a").unwrap_err();
    assert!(missing.contains("from 1 to 4"), "{missing}");
}

#[test]
fn memory_is_bounded_and_texts_are_read_back_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::new(Some(dir.path().to_owned()));
    let text = |n: usize| format!("{n}{}", " ".repeat(TEXT_BYTES / 3));
    let hashes: Vec<String> = (0..5)
        .map(|n| config::load::hash(text(n).as_bytes()))
        .collect();
    for (n, hash) in hashes.iter().enumerate() {
        history.add(entry(n as u64, hash, &[]), Some(text(n).into()));
    }
    assert_eq!(history.state().texts.len(), 2);
    assert_eq!(history.text(&hashes[4]).as_deref(), Some(&*text(4)));
    assert_eq!(history.text(&hashes[0]), None);
    std::fs::write(text_file(dir.path(), &hashes[0]), text(0)).unwrap();
    assert_eq!(history.text(&hashes[0]).as_deref(), Some(&*text(0)));
    std::fs::write(text_file(dir.path(), &hashes[0]), "another text").unwrap();
    assert_eq!(history.text(&hashes[0]), None, "a changed file isn't used");
    for n in 0..MOST_ENTRIES as u64 + 10 {
        history.add(entry(n, "x", &[]), None);
    }
    assert_eq!(history.report(None).entries.len(), MOST_ENTRIES);
}
