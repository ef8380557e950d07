use super::*;
use crate::admin::history::ChangeCause;
use crate::config::load::hash;

fn entry(generation: u64, text: &str) -> HistoryEntry {
    let by = ChangeCause::File.into();
    HistoryEntry::now(generation, by, hash(text.as_bytes()), Vec::new())
}

fn store() -> (tempfile::TempDir, HistoryStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = HistoryStore::new(dir.path().join("state/history/0123"));
    (dir, store)
}

fn append(store: &mut HistoryStore, generation: u64, text: &str) {
    store.append(&entry(generation, text), Some(text)).unwrap();
}

fn generations(store: &HistoryStore) -> Vec<u64> {
    let entries = HistoryStore::new(store.directory.clone()).load().unwrap();
    entries.iter().map(|entry| entry.generation).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn entries_and_texts_come_back_and_are_private() {
    let (_dir, mut store) = store();
    assert!(generations(&store).is_empty());
    append(&mut store, 1, "one");
    append(&mut store, 2, "two");
    append(&mut store, 3, "one");
    assert_eq!(generations(&store), [1, 2, 3]);
    assert_eq!(mode(&store.directory), 0o700);
    let texts = store.texts().unwrap();
    assert_eq!(texts.len(), 2, "one file for each text");
    for (path, _) in texts {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert_eq!(mode(&store.log()), 0o600);
    let one = text_file(&store.directory, &hash(b"one"));
    assert_eq!(fs::read_to_string(one).unwrap(), "one");
}

#[test]
fn a_torn_line_is_dropped_and_later_entries_are_kept() {
    let (_dir, mut store) = store();
    append(&mut store, 1, "one");
    append(&mut store, 2, "two");
    let log = fs::read(store.log()).unwrap();
    for cut in 1..40 {
        fs::write(store.log(), &log[..log.len() - cut]).unwrap();
        let mut next = HistoryStore::new(store.directory.clone());
        append(&mut next, 7, "three");
        append(&mut next, 8, "four");
        // Without its newline alone the line is whole.
        let expected: &[u64] = if cut == 1 { &[1, 2, 7, 8] } else { &[1, 7, 8] };
        assert_eq!(generations(&store), expected, "cut {cut}");
    }
}

#[test]
fn a_log_of_a_newer_release_is_left_alone() {
    let (_dir, mut store) = store();
    append(&mut store, 1, "one");
    let newer = "{\"format\":2}\n{\"other\":1}\n";
    fs::write(store.log(), newer).unwrap();
    let mut next = HistoryStore::new(store.directory.clone());
    assert!(next.load().unwrap_err().to_string().contains("newer"));
    assert!(next.append(&entry(2, "two"), Some("two")).is_err());
    assert_eq!(fs::read_to_string(store.log()).unwrap(), newer);
}

#[test]
fn garbage_instead_of_a_log_is_replaced() {
    let (_dir, mut store) = store();
    append(&mut store, 1, "one");
    fs::write(store.log(), b"\xff\x00garbage").unwrap();
    let mut next = HistoryStore::new(store.directory.clone());
    append(&mut next, 5, "two");
    assert_eq!(generations(&store), [5]);
}

#[test]
fn the_number_of_entries_is_bounded_and_unneeded_texts_go() {
    let (_dir, mut store) = store();
    append(&mut store, 0, "first");
    // Written at once, because each append waits for the disk.
    let mut log = fs::read_to_string(store.log()).unwrap();
    for generation in 1..(MOST_ENTRIES + SLACK) as u64 {
        log += &line(&entry(generation, "second")).unwrap();
    }
    fs::write(store.log(), log).unwrap();
    let mut next = HistoryStore::new(store.directory.clone());
    append(&mut next, 5000, "second");
    let kept = generations(&store);
    assert_eq!(kept.len(), MOST_ENTRIES);
    assert_eq!(kept.last(), Some(&5000));
    assert_eq!(next.texts().unwrap().len(), 1);
    append(&mut next, 5001, "second");
    assert_eq!(generations(&store).len(), MOST_ENTRIES + 1);
}

#[test]
fn the_size_of_the_texts_is_bounded() {
    let (_dir, mut store) = store();
    let large = |n: u64| format!("{n}{}", " ".repeat(TEXT_BYTES as usize / 4));
    for generation in 1..=6 {
        append(&mut store, generation, &large(generation));
    }
    assert!(store.text_bytes().unwrap() <= TEXT_BYTES + TEXT_BYTES / 4);
    let kept = generations(&store);
    assert_eq!(kept.last(), Some(&6));
    assert!(kept.len() >= 3, "{kept:?}");
    for entry in store.load().unwrap() {
        assert!(text_file(&store.directory, &entry.hash).exists());
    }
}

#[test]
fn a_directory_that_vanishes_is_made_again() {
    let (_dir, mut store) = store();
    append(&mut store, 1, "one");
    fs::remove_dir_all(&store.directory).unwrap();
    append(&mut store, 2, "one");
    assert_eq!(generations(&store), [2]);
    assert_eq!(store.texts().unwrap().len(), 1);
}
