//! The fleet of a proxy as text.

use std::fmt::Write as _;
use std::time::Duration;

use super::table::{Align, TextTable};
use crate::admin::fleet::FleetStatus;

/// Renders the connection, the members and what they disagree about.
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
    for disagreement in &fleet.disagreements {
        let _ = writeln!(text, "warning: {disagreement}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fleet::FleetMember;

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
