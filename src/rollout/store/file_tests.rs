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
    // Requests are carried out in order, so that a later change marks the end.
    change(&mut store, 0, 1).unwrap();
    assert_eq!(store.read_evidence("shop"), Some(evidence(3)));
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
    assert!(fs::metadata(&file).unwrap().len() < COMPACT + 10_000);
    assert_eq!(open(directory.path()).load("shop").unwrap().revision, 700);
}
