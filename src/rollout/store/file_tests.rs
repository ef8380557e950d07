//! The file store: changes, conflicts, damage and kills.

use super::*;
use crate::rollout::state::{RolloutPhase, RolloutState};

fn entry(step: usize) -> JournalEntry {
    JournalEntry {
        notes: vec![format!("step {step}")],
        state: RolloutState {
            phase: RolloutPhase::Step,
            step,
            ..RolloutState::default()
        },
        ..JournalEntry::default()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

fn change(store: &mut FileStore, expected: u64, step: usize) -> Result<Stored, StoreError> {
    store.cas("shop", expected, entry(step));
    runtime().block_on(store.watch()).unwrap().result
}

fn open(directory: &Path) -> FileStore {
    FileStore::open(directory).unwrap().store
}

#[test]
fn states_survive_and_only_the_expected_revision_can_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    let opened = FileStore::open(directory.path()).unwrap();
    assert!(!opened.known);
    let mut store = opened.store;
    assert_eq!(store.load("shop"), Ok(Stored::default()));
    assert_eq!(change(&mut store, 0, 1).unwrap().revision, 1);
    assert_eq!(change(&mut store, 1, 2).unwrap().revision, 2);
    assert_eq!(change(&mut store, 1, 3), Err(StoreError::Conflict));
    assert!(FileStore::open(directory.path()).unwrap().known);
    let mut other = open(directory.path());
    assert_eq!(other.load("shop").unwrap().state.step, 2);
    // Another process, as in a takeover.
    assert_eq!(change(&mut other, 2, 3).unwrap().revision, 3);
    assert_eq!(change(&mut store, 2, 4), Err(StoreError::Conflict));
    assert_eq!(store.load("shop").unwrap().state.step, 3);
}

#[test]
fn evidence_is_replaced_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    assert_eq!(store.read_evidence("shop"), None);
    let evidence = |epoch| Evidence {
        plan: "p".to_owned(),
        epoch,
        data: serde_json::json!({ "log_e": 1.5 }),
    };
    (1..=3).for_each(|epoch| store.push_evidence("shop", evidence(epoch)));
    // Changes come before evidence, so that it may take some of them until it is written.
    let changes = (0..1000).find(|n| {
        change(&mut store, *n, 1).unwrap();
        store.read_evidence("shop") == Some(evidence(3))
    });
    assert!(changes.is_some());
}

#[test]
fn files_are_private_and_names_are_encoded() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    store.cas("../e vil/ü", 0, entry(1));
    assert!(runtime().block_on(store.watch()).unwrap().result.is_ok());
    let files: Vec<_> = fs::read_dir(directory.path().join("rollouts"))
        .unwrap()
        .collect();
    assert_eq!(files.len(), 1);
    for file in files {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(file.file_name(), "%2e%2e%2fe%20vil%2f%c3%bc.journal");
    }
}

#[test]
fn a_process_that_is_killed_while_it_appends_loses_only_that_entry() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    (0..3).for_each(|n| drop(change(&mut store, n, n as usize + 1).unwrap()));
    let file = directory.path().join("rollouts/shop.journal");
    let whole = fs::read(&file).unwrap();
    let before = whole[..whole.len() - 1]
        .iter()
        .rposition(|b| *b == b'\n')
        .unwrap()
        + 1;
    for cut in before..whole.len() {
        fs::write(&file, &whole[..cut]).unwrap();
        let mut next = open(directory.path());
        let stored = next.load("shop").unwrap();
        assert_eq!((stored.revision, stored.state.step), (2, 2), "cut at {cut}");
        assert_eq!(change(&mut next, 2, 9).unwrap().revision, 3);
        assert_eq!(next.load("shop").unwrap().state.step, 9);
    }
}

#[test]
fn damage_is_an_error_for_reading_and_writing() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    (0..3).for_each(|n| drop(change(&mut store, n, 1).unwrap()));
    let file = directory.path().join("rollouts/shop.journal");
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let mut next = open(directory.path());
    assert!(matches!(next.load("shop"), Err(StoreError::Corrupt(_))));
    assert!(matches!(
        change(&mut next, 3, 1),
        Err(StoreError::Corrupt(_))
    ));
    assert_eq!(
        fs::read(&file).unwrap(),
        bytes,
        "the damaged file is left for an operator"
    );
}

#[test]
fn a_long_journal_is_compacted_without_losing_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut long = entry(1);
    long.notes = vec!["x".repeat(2_000)];
    for n in 0..700 {
        store.cas("shop", n, long.clone());
    }
    for n in 0..700 {
        let event = runtime().block_on(store.watch()).unwrap();
        assert_eq!(event.result.unwrap().revision, n + 1);
    }
    let file = directory.path().join("rollouts/shop.journal");
    let length = fs::metadata(&file).unwrap().len();
    assert!(
        (KEPT_BYTES as u64 / 2..COMPACT).contains(&length),
        "{length}"
    );
    let journal = read(&file).unwrap();
    assert_eq!(journal.revision(), 700);
    assert!(journal.entries.len() >= KEPT);
    assert_eq!(open(directory.path()).load("shop").unwrap().revision, 700);
}

#[test]
fn large_entries_are_compacted_to_fewer() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut large = entry(1);
    large.notes = vec!["x".repeat(100_000)];
    for n in 0..30 {
        store.cas("shop", n, large.clone());
        assert!(runtime().block_on(store.watch()).unwrap().result.is_ok());
    }
    let file = directory.path().join("rollouts/shop.journal");
    let journal = read(&file).unwrap();
    assert_eq!(journal.revision(), 30);
    assert!(journal.entries.len() <= 11, "{}", journal.entries.len());
}

#[test]
fn a_journal_that_cannot_be_compacted_still_takes_changes() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let file = directory.path().join("rollouts/shop.journal");
    // In the way of the compacted journal.
    let way = crate::rollout::store::paths::replacement(&file);
    fs::create_dir(&way).unwrap();
    let mut large = entry(1);
    large.notes = vec!["x".repeat(100_000)];
    for n in 0..20 {
        store.cas("shop", n, large.clone());
        let result = runtime().block_on(store.watch()).unwrap().result;
        assert_eq!(result.unwrap().revision, n + 1);
        if n == 15 {
            assert!(fs::metadata(&file).unwrap().len() > COMPACT);
            fs::remove_dir(&way).unwrap();
        }
    }
    assert!(fs::metadata(&file).unwrap().len() < COMPACT);
    assert_eq!(store.load("shop").unwrap().revision, 20);
}

#[test]
fn a_change_that_cannot_be_written_can_be_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let way = directory.path().join("rollouts/shop.journal");
    fs::create_dir(&way).unwrap();
    for _ in 0..3 {
        assert!(matches!(change(&mut store, 0, 1), Err(StoreError::Io(_))));
    }
    store.cas("api", 0, entry(1));
    assert!(runtime().block_on(store.watch()).unwrap().result.is_ok());
    fs::remove_dir(&way).unwrap();
    assert_eq!(change(&mut store, 0, 1).unwrap().revision, 1);
}

#[test]
fn entries_that_vanish_are_damage_and_not_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    (0..3).for_each(|n| drop(change(&mut store, n, 1).unwrap()));
    let file = directory.path().join("rollouts/shop.journal");
    let whole = fs::read(&file).unwrap();
    let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    fs::write(&file, &whole[..first]).unwrap();
    let found = change(&mut store, 3, 1).unwrap_err();
    assert!(
        found.to_string().ends_with("entries 2 to 3 are gone"),
        "{found}"
    );
    fs::remove_file(&file).unwrap();
    let found = change(&mut store, 3, 1).unwrap_err();
    assert!(
        found.to_string().ends_with("entries 1 to 3 are gone"),
        "{found}"
    );
    assert!(!file.exists(), "no empty journal takes its place");
}

#[test]
fn a_directory_without_entries_knows_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let known = || FileStore::open(directory.path()).unwrap().known;
    assert!(!known());
    assert!(!known(), "a killed process has only made the directory");
    let file = directory.path().join("rollouts/shop.journal");
    fs::write(&file, "").unwrap();
    assert!(!known(), "it was killed before its first entry");
    fs::remove_file(&file).unwrap();
    change(&mut open(directory.path()), 0, 1).unwrap();
    assert!(known());
}

/// Whether a thread waits for a lock of this file.
fn is_awaited(inode: u64) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let mut lines = locks.lines();
    lines.any(|line| line.contains("-> FLOCK") && line.contains(&format!(":{inode} ")))
}

#[test]
fn a_change_that_waits_for_a_compaction_goes_into_the_new_journal() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    (0..3).for_each(|n| drop(change(&mut store, n, 1).unwrap()));
    let file = directory.path().join("rollouts/shop.journal");
    // Another process, which compacts the journal.
    let other = options().open(&file).unwrap();
    flock(&other, FlockOperation::LockExclusive).unwrap();
    store.cas("shop", 3, entry(4));
    let inode = other.metadata().unwrap().ino();
    while !is_awaited(inode) {
        std::thread::yield_now();
    }
    compact(&file).unwrap();
    drop(other);
    let result = runtime().block_on(store.watch()).unwrap().result;
    assert_eq!(result.unwrap().revision, 4);
    assert_eq!(open(directory.path()).load("shop").unwrap().revision, 4);
}

#[path = "kill_tests.rs"]
mod kills;
