//! The view of a mirror in `cutover status`.

use std::fmt::Write as _;

use super::drain::counted;
use crate::admin::mirror::{DifferenceStatus, MirrorStatus};

/// Number of kinds of difference that are listed.
const KINDS: usize = 5;

/// Renders the outcomes of the copies, the most frequent differences, and the latest ones.
pub(super) fn shown(service: &str, mirror: &MirrorStatus) -> String {
    let outcomes: Vec<String> = { mirror.outcomes.iter() }
        .filter(|(_, count)| **count > 0)
        .map(|(outcome, count)| format!("{count} {outcome}"))
        .collect();
    let outcomes = match outcomes.is_empty() {
        true => "none yet".to_owned(),
        false => outcomes.join(", "),
    };
    let MirrorStatus { to, share, .. } = mirror;
    let mut text = format!("{service} mirror: copies of {share} go to {to}: {outcomes}\n");
    for kind in mirror.kinds.iter().take(KINDS) {
        let _ = writeln!(text, "  {:>8}  {}", kind.count, kind.kind);
    }
    if let Some(more) = mirror.kinds.len().checked_sub(KINDS).filter(|n| *n > 0) {
        let kinds = counted(more, "more kind");
        let _ = writeln!(text, "            and {kinds} of difference");
    }
    for difference in &mirror.differences {
        let _ = writeln!(text, "  {}", line(difference));
    }
    text
}

/// `2026-… GET /products id=… status 200 -> 500`.
fn line(difference: &DifferenceStatus) -> String {
    let findings = difference.findings.iter();
    let findings = findings.map(|f| format!("{} {} -> {}", f.kind, f.live, f.copy));
    format!(
        "{} {} {} id={} {}",
        difference.at,
        difference.method,
        difference.path,
        difference.id,
        findings.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::mirror::{FindingStatus, KindStatus};

    #[test]
    fn outcomes_kinds_and_the_latest_are_shown() {
        let mut mirror = MirrorStatus {
            to: "v2".to_owned(),
            share: "2%".to_owned(),
            outcomes: [("failed".to_owned(), 0)].into(),
            kinds: Vec::new(),
            differences: Vec::new(),
        };
        assert_eq!(
            shown("shop", &mirror),
            "shop mirror: copies of 2% go to v2: none yet\n"
        );
        mirror.outcomes.insert("same".to_owned(), 7);
        mirror.outcomes.insert("different".to_owned(), 9);
        mirror.kinds = (0..6)
            .map(|n| KindStatus {
                kind: format!("json:$.k{n}"),
                count: 9 - n,
            })
            .collect();
        mirror.differences.push(DifferenceStatus {
            id: "a1".to_owned(),
            at: "2026-11-29T04:00:00.000Z".to_owned(),
            method: "GET".to_owned(),
            path: "/cart".to_owned(),
            version: "v1".to_owned(),
            endpoint: "127.0.0.1:1".to_owned(),
            findings: vec![FindingStatus {
                kind: "status".to_owned(),
                live: "200".to_owned(),
                copy: "500".to_owned(),
            }],
            bodies: None,
        });
        let text = shown("shop", &mirror);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "shop mirror: copies of 2% go to v2: 9 different, 7 same"
        );
        assert_eq!(lines[1], "         9  json:$.k0");
        assert_eq!(lines[6], "            and 1 more kind of difference");
        assert_eq!(
            lines[7],
            "  2026-11-29T04:00:00.000Z GET /cart id=a1 status 200 -> 500"
        );
    }
}
