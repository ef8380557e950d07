//! The failures of a version in the notice of its rollback.

use super::calls::find;
use crate::admin::error_groups::unknown_to_stable;
use crate::snapshot::Snapshot;

/// Number of groups of failures in a notice.
const IN_NOTICE: usize = 3;

/// The failures of `version` that stable doesn't have, in one line; `None` if there are none.
pub(super) fn notice(snapshot: &Snapshot, service: &str, version: &str) -> Option<String> {
    let (spec, live) = find(snapshot, service)?;
    let stable = spec.stable_name();
    let groups = unknown_to_stable(live, stable);
    let lines: Vec<String> = { groups.iter() }
        .filter(|group| group.version == version)
        .take(IN_NOTICE)
        .map(|group| group.line())
        .collect();
    let notice = || format!("failures that {stable} doesn't have: {}", lines.join("; "));
    (!lines.is_empty()).then(notice)
}
