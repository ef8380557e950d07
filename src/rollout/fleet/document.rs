//! The document that all members of a fleet share for one service.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::spec::Share;
use crate::rollout::state::{LATCHES, RolloutState};

/// Version of the format.
const FORMAT: u32 = 1;
/// Largest size of a document, in bytes.
pub const MOST_BYTES: usize = 64 * 1024;
/// Longest name, in bytes.
const LONGEST_NAME: usize = 256;
/// Longest reason or note, in bytes. Longer ones are cut before they are written.
const LONGEST_TEXT: usize = 2048;
/// Longest reason of a latch, in bytes.
const LONGEST_LATCH: usize = 256;
/// Largest number of notes of a change.
const MOST_NOTES: usize = 16;
/// Largest number of steps of a plan and of attempts, far above those of a real plan.
const MOST_STEPS: usize = 100_000;
/// Longest time that a step has held, in milliseconds: a hundred years.
const LONGEST_HOLD_MS: u64 = 100 * 365 * 86_400_000;
/// Largest term and attempt. A hostile document could otherwise take the last number.
const LARGEST: u64 = 1 << 48;

/// The shared state of a service's rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetDocument {
    /// Version of the format.
    format: u32,
    /// The member that drives the rollout.
    pub driver: String,
    /// Number that each member raises when it takes over as driver.
    pub term: u64,
    /// The member that wrote this change.
    pub writer: String,
    /// Description of the change, in words. Empty if only the clock of the step has advanced.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Evidence by rule of the guard, as log10.
    #[serde(default)]
    pub evidence: Vec<(String, f64)>,
    /// The rollout.
    pub state: RolloutState,
}

/// Why a document is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentError {
    /// The document is empty, or larger than 64 KiB.
    Size(usize),
    /// The document isn't JSON of the expected form.
    Syntax(String),
    /// The document was written in another format.
    Format(u32),
    /// A field has a value that no member writes.
    Field(&'static str),
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(bytes) => write!(f, "{bytes} bytes, expected 1 to {MOST_BYTES}"),
            Self::Syntax(error) => f.write_str(error),
            Self::Format(format) => write!(f, "unknown format {format}"),
            Self::Field(field) => write!(f, "impossible value of `{field}`"),
        }
    }
}

impl std::error::Error for DocumentError {}

impl FleetDocument {
    /// A document that `writer` is going to write.
    pub fn new(
        (driver, term): (&str, u64),
        writer: &str,
        notes: &[String],
        evidence: Vec<(String, f64)>,
        state: RolloutState,
    ) -> Self {
        let mut state = state;
        state.reason = state.reason.map(|text| cut(&text, LONGEST_TEXT));
        for latch in &mut state.latches {
            latch.reason = cut(&latch.reason, LONGEST_LATCH);
        }
        Self {
            format: FORMAT,
            driver: driver.to_owned(),
            term,
            writer: writer.to_owned(),
            notes: { notes.iter().take(MOST_NOTES) }
                .map(|note| cut(note, LONGEST_TEXT))
                .collect(),
            // JSON has no infinite numbers.
            evidence: evidence.into_iter().filter(|e| e.1.is_finite()).collect(),
            state,
        }
    }

    /// Reads a document. Unknown fields are ignored, so that members of different releases can share a rollout.
    ///
    /// # Errors
    /// No member would write this document.
    pub fn read(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.is_empty() || bytes.len() > MOST_BYTES {
            return Err(DocumentError::Size(bytes.len()));
        }
        let document: Self =
            serde_json::from_slice(bytes).map_err(|e| DocumentError::Syntax(e.to_string()))?;
        if document.format != FORMAT {
            return Err(DocumentError::Format(document.format));
        }
        match document.wrong_field() {
            Some(field) => Err(DocumentError::Field(field)),
            None => Ok(document),
        }
    }

    /// The document as bytes.
    ///
    /// # Errors
    /// The document would be larger than members accept.
    pub fn write(&self) -> Result<Vec<u8>, DocumentError> {
        let bytes = serde_json::to_vec(self).map_err(|e| DocumentError::Syntax(e.to_string()))?;
        if bytes.len() > MOST_BYTES {
            return Err(DocumentError::Size(bytes.len()));
        }
        Ok(bytes)
    }

    /// The first field whose value no member writes.
    fn wrong_field(&self) -> Option<&'static str> {
        let state = &self.state;
        let is_name = |text: &str| !text.is_empty() && is_text(text, LONGEST_NAME);
        let is_print = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let reasons = state.latches.iter().map(|latch| &latch.reason);
        let latches = || {
            state.latches.len() <= LATCHES
                && state.latches.iter().all(|latch| is_print(&latch.plan))
        };
        let checks = [
            ("driver", is_name(&self.driver)),
            ("writer", is_name(&self.writer)),
            ("term", (1..=LARGEST).contains(&self.term)),
            ("notes", self.notes.len() <= MOST_NOTES),
            ("notes", self.notes.iter().all(|n| is_text(n, LONGEST_TEXT))),
            ("plan", state.plan.is_empty() || is_print(&state.plan)),
            ("version", is_text(&state.name, LONGEST_NAME)),
            (
                "label",
                state.label.iter().all(|l| is_text(l, LONGEST_TEXT)),
            ),
            (
                "reason",
                state
                    .reason
                    .iter()
                    .chain(reasons)
                    .all(|r| is_text(r, LONGEST_TEXT)),
            ),
            ("promoted_by", is_text(&state.promoted_by, LONGEST_TEXT)),
            (
                "failed_rule",
                state.failed_rule.iter().all(|r| is_text(r, LONGEST_TEXT)),
            ),
            ("share", state.share <= Share::WHOLE),
            (
                "step",
                state.step <= MOST_STEPS && state.approved_step <= MOST_STEPS,
            ),
            ("held_ms", state.held_ms <= LONGEST_HOLD_MS),
            ("epoch", state.epoch <= LARGEST),
            ("latches", latches()),
        ];
        checks
            .iter()
            .find(|(_, is_right)| !is_right)
            .map(|(field, _)| *field)
    }
}

/// Whether a text is short, and contains nothing that would disturb a log or a terminal.
fn is_text(text: &str, most: usize) -> bool {
    text.len() <= most && !text.chars().any(char::is_control)
}

/// Cuts a text to one that [`FleetDocument::read`] accepts.
fn cut(text: &str, most: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut text: String = text.chars().map(clean).collect();
    text.truncate(text.floor_char_boundary(most));
    text
}

/// The later one of the state that a member remembers and of the state in the store. They differ if the store was restored from a
/// backup.
///
/// A later attempt replaces an earlier one. Within one attempt, an end is final: no member forgets a latch because the store did.
#[must_use]
pub fn latest<'s>(remembered: &'s RolloutState, stored: &'s RolloutState) -> &'s RolloutState {
    let is_later = remembered.epoch > stored.epoch;
    let is_same = remembered.epoch == stored.epoch && remembered.plan == stored.plan;
    let is_final = is_same && remembered.was_taken_back() && !stored.was_taken_back();
    match is_later || is_final {
        true => remembered,
        false => stored,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::rollout::state::{Latch, RolloutPhase};

    const PLAN: &str = "8f0e4c1d2b3a4950";

    fn document(state: RolloutState) -> FleetDocument {
        FleetDocument::new(("edge-1", 3), "edge-2", &[], Vec::new(), state)
    }

    fn state(step: usize, share: u32) -> RolloutState {
        RolloutState {
            plan: PLAN.to_owned(),
            name: "v2".to_owned(),
            phase: RolloutPhase::Step,
            step,
            share,
            epoch: 1,
            ..RolloutState::default()
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut state = state(2, 5000);
        state.reason = Some(format!("line\nline {}", "ü".repeat(4000)));
        state.latches.push(Latch {
            plan: PLAN.to_owned(),
            reason: "\u{1b}[2J".to_owned(),
            ..Latch::default()
        });
        let notes = vec!["a\tb".to_owned(); 40];
        let evidence = vec![("errors".to_owned(), f64::NEG_INFINITY)];
        let document = FleetDocument::new(("edge-1", 3), "edge-2", &notes, evidence, state);
        let read = FleetDocument::read(&document.write().unwrap()).unwrap();
        assert_eq!(read, document);
        assert_eq!((read.notes.len(), &*read.notes[0]), (16, "a b"));
        assert!(read.evidence.is_empty());
    }

    #[test]
    fn a_full_document_fits() {
        let mut full = state(9, 100_000);
        full.latches = vec![
            Latch {
                plan: PLAN.to_owned(),
                reason: "errors x1.5: the canary failed 9 of 10 requests, stable 1 of 1000"
                    .to_owned(),
                ..Latch::default()
            };
            LATCHES
        ];
        assert!(document(full).write().unwrap().len() < MOST_BYTES / 2);
    }

    #[test]
    fn a_document_that_no_member_writes_is_refused() {
        let json = String::from_utf8(document(state(2, 5000)).write().unwrap()).unwrap();
        let refused = |from: &str, to: &str| {
            assert!(json.contains(from), "{from} in {json}");
            FleetDocument::read(json.replacen(from, to, 1).as_bytes()).unwrap_err()
        };
        assert_eq!(FleetDocument::read(b""), Err(DocumentError::Size(0)));
        let large = vec![b' '; MOST_BYTES + 1];
        assert_eq!(
            FleetDocument::read(&large),
            Err(DocumentError::Size(MOST_BYTES + 1))
        );
        assert!(matches!(refused("{", "["), DocumentError::Syntax(_)));
        assert!(matches!(
            refused("\"term\":3", "\"term\":-3"),
            DocumentError::Syntax(_)
        ));
        assert_eq!(
            refused("\"format\":1", "\"format\":2"),
            DocumentError::Format(2)
        );
        for (from, to, field) in [
            ("\"term\":3", "\"term\":18446744073709551615", "term"),
            ("edge-1", "", "driver"),
            ("edge-2", "\\u001b[2J", "writer"),
            ("\"share\":5000", "\"share\":100001", "share"),
            ("\"step\":2", "\"step\":200000", "step"),
            (PLAN, "../../x", "plan"),
            (
                "\"held_ms\":0",
                "\"held_ms\":18446744073709551615",
                "held_ms",
            ),
            ("\"epoch\":1", "\"epoch\":18446744073709551615", "epoch"),
        ] {
            assert_eq!(refused(from, to), DocumentError::Field(field));
        }
        let newer = json.replacen('{', "{\"later\":{},", 1);
        assert!(FleetDocument::read(newer.as_bytes()).is_ok());
    }

    /// Written by members of the first program that shared rollouts (commit a924f2a), in the middle of a rollout and after an
    /// abort.
    const RECORDED: [&str; 2] = [
        include_str!("../../../tests/fleet_values/state.json"),
        include_str!("../../../tests/fleet_values/aborted.json"),
    ];

    #[test]
    fn what_the_first_members_wrote_is_read_and_written_in_the_same_form() {
        let [running, aborted] = RECORDED.map(|text| FleetDocument::read(text.as_bytes()).unwrap());
        let phase = |document: &FleetDocument| (document.state.phase, document.state.share);
        assert_eq!(phase(&running), (RolloutPhase::Step, 20_000));
        assert_eq!(phase(&aborted), (RolloutPhase::Aborted, 0));
        assert_eq!(
            (running.state.step, running.term, &*running.driver),
            (2, 1, "m0")
        );
        let latch = aborted.state.latch(&aborted.state.plan).unwrap();
        assert!(latch.aborted);
        // They can read what is written now: it has all fields, of the same kinds.
        for (text, document) in RECORDED.iter().zip([&running, &aborted]) {
            let before: Value = serde_json::from_str(text).unwrap();
            let now: Value = serde_json::from_slice(&document.write().unwrap()).unwrap();
            for (before, now) in [(&before, &now), (&before["state"], &now["state"])] {
                // The last bit of the evidence is lost in JSON.
                let fields = before.as_object().unwrap().iter();
                for (name, value) in fields.filter(|field| field.0 != "evidence") {
                    assert_eq!(value, &now[name], "{name}");
                }
                assert_eq!(
                    before.get("evidence").is_some(),
                    now.get("evidence").is_some()
                );
            }
        }
    }

    #[test]
    fn a_field_that_is_missing_raises_no_share_and_loses_no_end() {
        for text in RECORDED {
            let whole = FleetDocument::read(text.as_bytes()).unwrap();
            let json: Value = serde_json::from_str(text).unwrap();
            let (tops, inners) = (
                json.as_object().unwrap(),
                json["state"].as_object().unwrap(),
            );
            let paths = { tops.keys().map(|name| (name, false)) }
                .chain(inners.keys().map(|name| (name, true)));
            for (name, is_inner) in paths {
                let mut json = json.clone();
                let table = if is_inner {
                    &mut json["state"]
                } else {
                    &mut json
                };
                table.as_object_mut().unwrap().remove(name);
                let Ok(read) = FleetDocument::read(json.to_string().as_bytes()) else {
                    continue;
                };
                assert!(read.state.share <= whole.state.share, "{name}");
                let is_other = read.state.plan != whole.state.plan || name == "phase";
                assert!(
                    is_other || read.state.was_taken_back() == whole.state.was_taken_back(),
                    "{name}"
                );
            }
        }
    }

    fn any_state() -> impl Strategy<Value = RolloutState> {
        let phase = prop_oneof![
            Just(RolloutPhase::Step),
            Just(RolloutPhase::Paused),
            Just(RolloutPhase::Done),
            Just(RolloutPhase::Aborted),
            Just(RolloutPhase::RolledBack),
        ];
        (1u64..4, phase, 0usize..4).prop_map(|(epoch, phase, step)| {
            let is_ended = matches!(phase, RolloutPhase::Aborted | RolloutPhase::RolledBack);
            let share = if is_ended { 0 } else { step as u32 * 10_000 };
            RolloutState {
                epoch,
                phase,
                ..state(step, share)
            }
        })
    }

    proptest! {
        #[test]
        fn no_restored_backup_undoes_an_attempt_or_a_latch(remembered in any_state(), stored in any_state()) {
            let after = latest(&remembered, &stored);
            prop_assert!(after.epoch >= remembered.epoch && after.epoch >= stored.epoch);
            for state in [&remembered, &stored] {
                let is_ended = state.epoch == after.epoch && state.was_taken_back();
                prop_assert!(!is_ended || after.was_taken_back());
            }
            prop_assert_eq!(latest(after, &stored), after);
            prop_assert_eq!(latest(&remembered, after), after);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = FleetDocument::read(&bytes);
        }
    }
}
