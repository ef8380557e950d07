//! A thousand kills of a process that drives a rollout: machine and store, with real files.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::rollout::RolloutSpec;
use crate::config::spec::Share;
use crate::rollout::events::{Effect, Facts, OperatorCommand};
use crate::rollout::fixtures::{S, facts, failing, plan};
use crate::rollout::machine::Machine;
use crate::rollout::state::SubjectName;
use crate::rollout::store::paths::replacement;

/// A process. Its changes are stored one after the other, and only a stored share is in force.
struct Process {
    store: FileStore,
    stored: Stored,
    machine: Machine,
    in_force: Share,
    /// Notes that are not stored yet.
    notes: Vec<String>,
}

impl Process {
    fn start(directory: &Path, plan: &RolloutSpec) -> Self {
        let store = FileStore::open(directory).unwrap().store;
        let stored = store.load("shop").expect("the journal reads after a kill");
        let names = ("print", SubjectName::version("v2", None));
        let (machine, effects) = Machine::new(stored.state.clone(), names, plan.unknown, true, 1);
        let mut process = Self {
            store,
            in_force: stored.state.share(),
            stored,
            machine,
            notes: Vec::new(),
        };
        process.note(effects);
        process
    }

    fn note(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Note(text) = effect {
                self.notes.push(text);
            }
        }
    }

    /// The entry of the next change, if there is one.
    fn change(&mut self) -> Option<JournalEntry> {
        let state = self.machine.state();
        if self.notes.is_empty() && !state.differs_from(&self.stored.state) {
            return None;
        }
        Some(JournalEntry {
            state: state.clone(),
            notes: std::mem::take(&mut self.notes),
            ..JournalEntry::default()
        })
    }

    fn settle(&mut self) {
        self.in_force = self.in_force.min(self.machine.state().share());
        if let Some(entry) = self.change() {
            self.store.cas("shop", self.stored.revision, entry);
            let event = runtime().block_on(self.store.watch()).unwrap();
            self.stored = event.result.unwrap();
        }
        self.in_force = self.machine.state().share();
    }

    /// A second, or a command. What follows from it isn't stored yet.
    fn act(&mut self, rng: &mut fastrand::Rng, plan: &RolloutSpec) {
        let verdict = failing();
        let effects = match rng.u8(..) {
            0..6 => {
                let command = rng.choice(OperatorCommand::ALL).copied().unwrap();
                let done = self.machine.command(command, "ops", plan, 1);
                done.unwrap_or_default()
            }
            n => {
                let facts = Facts {
                    verdict: (n < 8).then_some(&verdict),
                    in_force: self.in_force,
                    ..facts(plan)
                };
                self.machine.tick(&facts, S, 1)
            }
        };
        self.note(effects);
    }

    /// Kills it at any instant: nothing of the last change may have reached the file, or a part of it, or all. Returns its entry if it
    /// is in the file whole.
    fn kill(mut self, file: &Path, rng: &mut fastrand::Rng) -> Option<JournalEntry> {
        let entry = self.change()?;
        let line = journal::line(self.stored.revision + 1, &entry).unwrap();
        let cut = match rng.u8(..4) {
            0 => line.len(),
            1 => line.len() - 1,
            _ => rng.usize(..line.len()),
        };
        let mut bytes = fs::read(file).unwrap_or_default();
        // A writer begins behind the part that reads.
        bytes.truncate(journal::read(&bytes).unwrap().length);
        if rng.u8(..) < 40 {
            // While it compacts. The journal has the entry then.
            bytes.extend(line.as_bytes());
            let part = rng.usize(..bytes.len());
            fs::write(replacement(file), &bytes[..part]).unwrap();
            fs::write(file, bytes).unwrap();
            return Some(entry);
        }
        bytes.extend(&line.as_bytes()[..cut]);
        fs::write(file, bytes).unwrap();
        (cut == line.len()).then_some(entry)
    }
}

/// The notes of a journal, in order. Checks that its entries are numbered without gaps.
fn notes(file: &PathBuf) -> Vec<String> {
    let journal = journal::read(&fs::read(file).unwrap()).unwrap();
    let numbers: Vec<u64> = journal.entries.iter().map(|(seq, _)| *seq).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    journal
        .entries
        .into_iter()
        .flat_map(|(_, entry)| entry.notes)
        .collect()
}

#[test]
fn a_thousand_kills_raise_no_share_lose_no_latch_and_double_no_entry() {
    let plan = plan(&[(1, Some(2)), (10, Some(2)), (50, None), (100, Some(2))]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rollouts/shop.journal");
    let mut rng = fastrand::Rng::with_seed(10);
    let mut process = Process::start(directory.path(), &plan);
    // What the journal must contain: everything that was acknowledged or is in the file whole.
    let mut expected: Vec<String> = Vec::new();
    let mut latched = 0;
    for kill in 0..1000 {
        for _ in 0..rng.u8(..8) {
            expected.append(&mut process.notes.clone());
            process.settle();
            let state = process.machine.state();
            let at = state.step.checked_sub(1);
            let most = at.map_or(Share(0), |at| plan.steps[at].share);
            assert!(process.in_force <= most, "kill {kill}");
            process.act(&mut rng, &plan);
        }
        let stored = process.stored.clone();
        let entry = process.kill(&file, &mut rng);
        process = Process::start(directory.path(), &plan);
        let now = process.machine.state();
        match &entry {
            Some(entry) => {
                assert_eq!(now, &entry.state, "kill {kill}");
                expected.extend(entry.notes.clone());
            }
            None => {
                assert_eq!(process.stored, stored, "kill {kill}");
                assert_eq!(now.share(), stored.state.share(), "kill {kill}");
            }
        }
        latched += u32::from(now.latch("print").is_some());
    }
    assert!(latched > 50, "{latched}");
    assert_eq!(notes(&file), expected);
    let files = fs::read_dir(directory.path().join("rollouts")).unwrap();
    assert_eq!(files.count(), 1, "nothing else is left of the kills");
}
