//! What etcd's own history of the shared state must be: each value follows from the one before.

use serde_json::Value;

use crate::support::etcd::Etcd;

const KEY: &str = "/cutover/test/state/app";

/// The values that were looked at.
#[derive(Default)]
pub struct History {
    /// The last one, and its revision.
    last: Option<(i64, Value)>,
    violations: Vec<String>,
    values: usize,
}

impl History {
    /// Looks at what was written since, as far as etcd still has it. To be called before etcd forgets former values.
    pub fn look(&mut self, etcd: &Etcd) {
        let after = self.last.as_ref().map_or(0, |(revision, _)| *revision);
        for (revision, text) in etcd.history(KEY, after) {
            let value: Value = serde_json::from_str(&text).expect("a state");
            self.values += 1;
            if let Some((_, before)) = &self.last
                && let Some(wrong) = wrong(before, &value)
            {
                let step = format!("{wrong}: {before} and then {value}");
                self.violations.push(step);
            }
            self.last = Some((revision, value));
        }
    }

    /// The next values follow from those of a backup.
    pub fn restored(&mut self) {
        self.last = None;
    }

    /// What was wrong.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// How many values were looked at.
    pub fn values(&self) -> usize {
        self.values
    }
}

/// Why a value can't follow from the one before. Some values in between may be unknown.
fn wrong(before: &Value, after: &Value) -> Option<&'static str> {
    let number = |of: &Value| of.as_u64().expect("a number");
    let (old, new) = (&before["state"], &after["state"]);
    let rises = |field: &str| number(&new[field]).cmp(&number(&old[field]));
    let (term, epoch) = (number(&after["term"]), rises("epoch"));
    if term < number(&before["term"]) {
        return Some("the term falls");
    }
    if term == number(&before["term"]) && before["driver"] != after["driver"] {
        return Some("another driver in the same term");
    }
    if epoch.is_lt() {
        return Some("the attempt falls");
    }
    if epoch.is_gt() {
        return None;
    }
    let has_ended =
        |state: &Value| matches!(state["phase"].as_str(), Some("aborted" | "rolled-back"));
    if has_ended(old) && old["phase"] != new["phase"] {
        return Some("an end is lost");
    }
    if has_ended(new) {
        // By a member that knew only an earlier step, which it remembers.
        return None;
    }
    match rises("step") {
        std::cmp::Ordering::Less => Some("the step falls"),
        std::cmp::Ordering::Equal if rises("held_ms").is_lt() => Some("the clock falls"),
        _ => None,
    }
}
