//! The fleet of a proxy as text.

use std::fmt::Write as _;
use std::time::Duration;

use super::table::{Align, TextTable};
use crate::admin::fleet::{FleetStatus, SharedConfigStatus};
use crate::admin::rollout::SharedStatus;

/// Renders the connection, the members and the differences between their configurations.
pub(super) fn shown(fleet: &FleetStatus) -> String {
    let mut text = format!("fleet {}: member {}, ", fleet.name, fleet.member);
    // Writing to a string can't fail.
    let _ = match (&fleet.endpoint, fleet.alone_s) {
        (Some(endpoint), _) => writeln!(text, "connected to etcd at {endpoint}"),
        (None, alone) => {
            let alone = humantime::format_duration(Duration::from_secs(alone.unwrap_or(0)));
            writeln!(text, "alone for {alone}; the members are those it saw last")
        }
    };
    if let Some(error) = &fleet.error {
        let _ = writeln!(text, "  {error}");
    }
    let mut members = TextTable::new(&[("MEMBER", Align::Left), ("PROGRAM", Align::Left)]);
    for member in &fleet.members {
        members.row([member.name.clone(), member.version.clone()]);
    }
    if !fleet.members.is_empty() {
        let _ = write!(text, "{members}");
    }
    if let Some(config) = &fleet.config {
        let by = { config.by.as_ref() }.map_or_else(String::new, |by| format!(" by {by}"));
        let SharedConfigStatus { key, revision, .. } = config;
        let _ = writeln!(text, "tables {key}, revision {revision}{by}");
        if let Some(error) = &config.error {
            let _ = writeln!(
                text,
                "warning: newer tables are refused, those before are in use"
            );
            error
                .lines()
                .for_each(|line| text += &format!("  {line}\n"));
        }
    }
    for disagreement in &fleet.disagreements {
        let _ = writeln!(text, "warning: {disagreement}");
    }
    text
}

/// Renders the drivers of services' rollouts.
pub(super) fn shown_rollouts(rollouts: &[(&str, &SharedStatus)]) -> String {
    if rollouts.is_empty() {
        return String::new();
    }
    let mut table = TextTable::new(&[
        ("ROLLOUT OF", Align::Left),
        ("DRIVER", Align::Left),
        ("TERM", Align::Right),
        ("CONFIRMED", Align::Left),
        ("", Align::Left),
    ]);
    for (service, shared) in rollouts {
        let driver = shared.driver.clone().unwrap_or_else(|| "-".to_owned());
        let note = match (shared.takes_part, shared.is_driver) {
            (false, _) => "stable only: this member has another plan".to_owned(),
            (true, true) => format!("this one, counting for {}", shared.counting),
            (true, false) => String::new(),
        };
        table.row([
            (*service).to_owned(),
            driver,
            shared.term.to_string(),
            format!("{:.0}s ago", shared.lag_s),
            note,
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fleet::FleetMember;

    #[test]
    fn rollouts_are_shown_with_their_drivers() {
        let other = SharedStatus {
            driver: Some("b".to_owned()),
            term: 12,
            takes_part: true,
            lag_s: 1.2,
            ..SharedStatus::default()
        };
        let own = SharedStatus {
            driver: Some("a".to_owned()),
            is_driver: true,
            counting: 5,
            ..other.clone()
        };
        let apart = SharedStatus {
            takes_part: false,
            ..other.clone()
        };
        assert_eq!(
            shown_rollouts(&[("cart", &other), ("shop", &own), ("pay", &apart)]),
            "ROLLOUT OF  DRIVER  TERM  CONFIRMED\n\
             cart        b         12  1s ago\n\
             shop        a         12  1s ago     this one, counting for 5\n\
             pay         b         12  1s ago     stable only: this member has another plan\n"
        );
        assert_eq!(shown_rollouts(&[]), "");
    }

    fn fleet() -> FleetStatus {
        let member = |name: &str| FleetMember {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
        };
        FleetStatus {
            name: "front".to_owned(),
            member: "a".to_owned(),
            connected: true,
            endpoint: Some("http://10.0.0.5:2379".to_owned()),
            alone_s: None,
            error: None,
            revision: 7,
            members: vec![member("a"), member("b")],
            disagreements: vec!["service shop: other sticky key on b".to_owned()],
            config: None,
        }
    }

    #[test]
    fn a_fleet_is_shown_with_its_members() {
        assert_eq!(
            shown(&fleet()),
            "fleet front: member a, connected to etcd at http://10.0.0.5:2379\n\
             MEMBER  PROGRAM\n\
             a       0.1.0\n\
             b       0.1.0\n\
             warning: service shop: other sticky key on b\n"
        );
    }

    #[test]
    fn tables_that_members_share_are_shown_with_their_author_and_why_newer_ones_are_refused() {
        let shared = FleetStatus {
            config: Some(SharedConfigStatus {
                key: "/cutover/front/config".to_owned(),
                revision: 7,
                by: Some("alice@build-7 (shift)".to_owned()),
                error: Some("one\ntwo".to_owned()),
            }),
            members: Vec::new(),
            disagreements: Vec::new(),
            ..fleet()
        };
        assert_eq!(
            shown(&shared),
            "fleet front: member a, connected to etcd at http://10.0.0.5:2379\n\
             tables /cutover/front/config, revision 7 by alice@build-7 (shift)\n\
             warning: newer tables are refused, those before are in use\n  one\n  two\n"
        );
    }

    #[test]
    fn a_member_that_is_alone_says_for_how_long_and_why() {
        let alone = FleetStatus {
            connected: false,
            endpoint: None,
            alone_s: Some(90),
            error: Some("etcd can't be reached: refused".to_owned()),
            members: Vec::new(),
            disagreements: Vec::new(),
            ..fleet()
        };
        assert_eq!(
            shown(&alone),
            "fleet front: member a, alone for 1m 30s; the members are those it saw last\n  \
             etcd can't be reached: refused\n"
        );
    }
}
