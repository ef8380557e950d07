//! What the members of a fleet do while their etcd is out of reach, full, restored or asks for another token.
//!
//! They take minutes, because the time limits of leases and PINGs do: `tests/peers/etcd.sh` runs them.

use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustix::process::Signal;
use serde_json::Value;

use crate::fleet_rollouts::{all_in_state, driver, is_asked_for};
use crate::rollouts::{Load, Version, rollout, service, share, state};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Proxy, serve};
use crate::support::relay::Relay;
use crate::support::{pause, until, until_within};

/// Longest time for members to come back: a connection is tried again after 10 s at most, and a lease takes 10 s to expire.
const RECOVERY: Duration = Duration::from_secs(45);

/// The tables of a member that reaches etcd at these ports.
pub fn tables(
    ports: &[u16],
    member: usize,
    (v1, v2): (&Version, &Version),
    fleet: &str,
    steps: &str,
) -> String {
    let urls: Vec<_> = { ports.iter() }
        .map(|port| format!("\"http://127.0.0.1:{port}\""))
        .collect();
    let plan = format!("steps = [{steps}]\nguard.on_silence = \"pass\"\n");
    format!(
        "[fleet]\netcd = [{}]\nname = \"test\"\nmember = \"m{member}\"\n{fleet}\n{}",
        urls.join(", "),
        service(v1, v2, "1.1.0", &plan)
    )
}

/// Loads of 50 requests a second on each member.
pub fn loads(fleet: &[Proxy]) -> Vec<Load> {
    let load = |proxy: &Proxy| Load::of(proxy.port, "GET / HTTP/1.1\r\nhost: test\r\n\r\n", 1);
    fleet.iter().map(load).collect()
}

pub fn nothing_has_failed(loads: Vec<Load>) {
    for (at, load) in loads.into_iter().enumerate() {
        let (sent, failed) = load.end();
        assert_eq!(failed, 0, "of {sent} requests to member {at}");
    }
}

pub fn all_have(fleet: &[Proxy], wanted: &str) {
    until_within(RECOVERY, &format!("{wanted} everywhere"), || {
        let has = |proxy: &Proxy| share(proxy) == wanted;
        fleet.iter().all(has).then_some(())
    });
}

/// Asserts for this long that every member gives this share.
pub fn stays(fleet: &[Proxy], wanted: &str, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        for proxy in fleet {
            assert_eq!(share(proxy), wanted, "after {:?}", began.elapsed());
        }
        pause(Duration::from_millis(200));
    }
}

fn warnings(proxy: &Proxy) -> String {
    rollout(proxy)["warnings"].to_string()
}

#[test]
fn a_share_stays_or_falls_without_etcd_as_on_lost_says() {
    if !is_asked_for() {
        return;
    }
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let relay = Relay::to(&etcd.ports());
    let steps = "\"10% for 300s\"";
    let falls = "on_lost = \"rollback 12s\"";
    let fleet = [
        serve(&tables(relay.ports(), 0, (&v1, &v2), falls, steps)),
        serve(&tables(&etcd.ports(), 1, (&v1, &v2), "", steps)),
    ];
    let [falling, staying] = &fleet;
    all_have(&fleet, "10%");
    let loads = loads(&fleet);

    // etcd stands still: nobody closes a connection.
    etcd.signal(0, Signal::STOP);
    let began = Instant::now();
    let after = until_within(Duration::from_secs(20), "no share", || {
        assert_eq!(share(staying), "10%");
        (share(falling) == "0%").then(|| began.elapsed())
    });
    eprintln!("on_lost took the share away {after:?} after etcd stood still");
    // The last answer was up to 3 s old by then.
    assert!(
        (Duration::from_secs(8)..Duration::from_secs(15)).contains(&after),
        "{after:?}"
    );
    let shown = warnings(falling);
    assert!(
        shown.contains("no share, as `fleet.on_lost` says"),
        "{shown}"
    );
    assert!(warnings(staying).contains("the share doesn't rise"));
    until("the metrics", || {
        let metrics = falling.metrics();
        let canary = [("service", "app"), ("version", "v2")];
        let is_alone = metrics.sum("cutover_fleet_connected", &[]) == 0.0;
        (is_alone && metrics.sum("cutover_split_ratio", &canary) == 0.0).then_some(())
    });
    assert!(falling.log().contains("no share as fleet.on_lost says"));
    assert_eq!(rollout(falling)["latched"], false);
    etcd.signal(0, Signal::CONT);
    all_have(&fleet, "10%");

    // Only this member is cut off, and the other one ends the rollout meanwhile.
    relay.cut(true);
    until_within(Duration::from_secs(20), "no share", || {
        (share(falling) == "0%").then_some(())
    });
    assert_eq!(share(staying), "10%");
    until_within(RECOVERY, "the other one drives", || {
        (rollout(staying)["fleet"]["is_driver"] == true).then_some(())
    });
    assert_eq!(staying.local(&["abort", "app"]).code, 0);
    relay.cut(false);
    all_in_state(&fleet, "aborted");
    stays(&fleet, "0%", Duration::from_secs(2));
    nothing_has_failed(loads);
}

#[test]
fn a_full_quota_holds_a_rollout_and_loses_no_abort() {
    if !is_asked_for() {
        return;
    }
    let Some(etcd) = Etcd::cluster(1, &["--quota-backend-bytes", "1000000"]) else {
        return;
    };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let steps = "\"10% for 6s\", \"20% for 300s\"";
    let start = |member| serve(&tables(&etcd.ports(), member, (&v1, &v2), "", steps));
    let fleet: Vec<_> = (0..3).map(start).collect();
    all_have(&fleet, "10%");
    let loads = loads(&fleet);
    let filler = "x".repeat(60_000);
    for _ in 0..100 {
        if !etcd.ctl_output(&["put", "/other", &filler]).contains("OK") {
            break;
        }
    }
    assert!(etcd.ctl_output(&["alarm", "list"]).contains("NOSPACE"));
    stays(&fleet, "10%", Duration::from_secs(10));
    let drives = driver(&fleet);
    let shown = warnings(&fleet[drives]);
    assert!(shown.contains("quota is full"), "{shown}");
    // It takes effect here at once, and for the others once there is room again.
    let other = (drives + 1) % 3;
    assert_eq!(fleet[other].local(&["abort", "app"]).code, 0);
    until("no share here", || {
        (share(&fleet[other]) == "0%").then_some(())
    });
    assert_eq!(share(&fleet[drives]), "10%");

    let status: Value =
        serde_json::from_str(&etcd.ctl(&["endpoint", "status", "-w", "json"])).expect("JSON");
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    etcd.ctl(&["compact", &revision]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    all_in_state(&fleet, "aborted");
    stays(&fleet, "0%", Duration::from_secs(1));
    assert!(fleet.iter().all(|proxy| rollout(proxy)["latched"] == true));
    nothing_has_failed(loads);
}

#[test]
fn a_member_that_was_cut_off_while_etcd_was_compacted_catches_up() {
    if !is_asked_for() {
        return;
    }
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let relay = Relay::to(&etcd.ports());
    let steps = "\"10% for 6s\", \"20% for 300s\"";
    let ports = [etcd.ports(), etcd.ports(), relay.ports().to_vec()];
    let start = |member: usize| serve(&tables(&ports[member], member, (&v1, &v2), "", steps));
    let fleet: Vec<_> = (0..3).map(start).collect();
    all_have(&fleet, "10%");
    let loads = loads(&fleet);
    relay.cut(true);
    let (others, alone) = fleet.split_at(2);
    // If the member that is cut off has driven, another one takes over first.
    until_within(RECOVERY, "the next step", || {
        assert_eq!(share(&alone[0]), "10%");
        { others.iter() }
            .all(|proxy| share(proxy) == "20%")
            .then_some(())
    });
    let status: Value =
        serde_json::from_str(&etcd.ctl(&["endpoint", "status", "-w", "json"])).expect("JSON");
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    etcd.ctl(&["compact", &revision]);
    stays(alone, "10%", Duration::from_secs(1));
    relay.cut(false);
    all_have(&fleet, "20%");
    // The watch works again as well: a change arrives at once, not only with the next read.
    assert_eq!(fleet[0].local(&["pause", "app"]).code, 0);
    all_in_state(&fleet, "paused");
    nothing_has_failed(loads);
}

#[test]
fn a_restored_backup_raises_no_share_and_undoes_no_abort() {
    if !is_asked_for() {
        return;
    }
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let steps = "\"10% for 4s\", \"20% for 300s\"";
    let start = |etcd: &Etcd, member| serve(&tables(&etcd.ports(), member, (&v1, &v2), "", steps));
    let fleet: Vec<_> = (0..3).map(|member| start(&etcd, member)).collect();
    all_have(&fleet, "10%");
    let loads = loads(&fleet);
    let first_step = etcd.back_up();
    all_have(&fleet, "20%");

    // The fleet is back in the first step, and walks on from there.
    etcd.restore(&first_step);
    all_have(&fleet, "10%");
    all_have(&fleet, "20%");
    let second_step = etcd.back_up();
    assert_eq!(fleet[1].local(&["abort", "app"]).code, 0);
    all_in_state(&fleet, "aborted");

    // The backup knows nothing of the abort. The members do, and write it again.
    etcd.restore(&second_step);
    let key = "/cutover/test/state/app";
    until_within(RECOVERY, "the abort is back in etcd", || {
        for proxy in &fleet {
            assert_eq!((share(proxy).as_str(), &*state(proxy)), ("0%", "aborted"));
        }
        etcd.value(key).contains("\"aborted\"").then_some(())
    });
    let late = start(&etcd, 3);
    assert_eq!((share(&late).as_str(), &*state(&late)), ("0%", "aborted"));
    for proxy in &fleet {
        let log = proxy.log();
        assert!(log.contains("etcd's history is another one"), "{log}");
    }
    // All of them are members again, under new leases.
    until_within(RECOVERY, "four members", || {
        let seen = |proxy: &Proxy| proxy.metrics().sum("cutover_fleet_members", &[]) == 4.0;
        fleet.iter().all(seen).then_some(())
    });
    nothing_has_failed(loads);
}

/// Raises etcd's revision.
fn write_often(etcd: &Etcd, times: usize) {
    for _ in 0..times {
        etcd.ctl(&["put", "/other", "x"]);
    }
}

#[test]
fn a_member_that_was_cut_off_notices_a_backup_that_others_have_written_more_to() {
    if !is_asked_for() {
        return;
    }
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let relay = Relay::to(&etcd.ports());
    let ports = [etcd.ports(), etcd.ports(), relay.ports().to_vec()];
    let steps = "\"10% for 8s\", \"20% for 300s\"";
    let start = |member: usize| serve(&tables(&ports[member], member, (&v1, &v2), "", steps));
    let fleet: Vec<_> = (0..3).map(start).collect();
    all_have(&fleet, "10%");
    let loads = loads(&fleet);
    let first_step = etcd.back_up();
    // What the members know gets revisions that the backup doesn't have for long.
    write_often(&etcd, 60);
    all_have(&fleet, "20%");
    relay.cut(true);
    etcd.restore(&first_step);
    until_within(RECOVERY, "an abort", || {
        (fleet[0].local(&["abort", "app"]).code == 0).then_some(())
    });
    all_in_state(&fleet[..2], "aborted");
    write_often(&etcd, 120);
    assert_eq!(share(&fleet[2]), "20%");
    relay.cut(false);
    all_in_state(&fleet, "aborted");
    stays(&fleet, "0%", Duration::from_secs(1));
    nothing_has_failed(loads);
}

/// Writes the keys of an etcd that signs tokens. Returns its option for tokens that are valid for 3 s, however they are used.
pub fn token_option(dir: &Path) -> String {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
    let write = |name: &str, text: String| {
        let file = dir.join(name);
        std::fs::write(&file, text).expect("written");
        file.display().to_string()
    };
    let public = write("public.pem", key.public_key_pem());
    let private = write("private.pem", key.serialize_pem());
    format!("jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=3s")
}

/// Makes etcd ask for users. Returns how a member logs in.
pub fn log_in(etcd: &mut Etcd, dir: &Path) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    for line in [
        "role add cutover",
        "role grant-permission cutover --prefix=true readwrite /cutover/test/",
        "user add cutover:secret",
        "user grant-role cutover cutover",
        "user add root:root",
        "user grant-role root root",
        "auth enable",
    ] {
        etcd.ctl(&line.split(' ').collect::<Vec<_>>());
    }
    etcd.log_in_as("root:root");
    let password = dir.join("password");
    std::fs::write(&password, "secret\n").expect("written");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&password, private).expect("a mode");
    let file = password.display();
    format!("user = \"cutover\"\npassword_file = \"{file}\"")
}

#[test]
fn a_rollout_continues_although_tokens_expire() {
    if !is_asked_for() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let option = token_option(dir.path());
    let Some(mut etcd) = Etcd::cluster(1, &["--auth-token", &option]) else {
        return;
    };
    let login = log_in(&mut etcd, dir.path());
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let steps = "\"10% for 5s\", \"20% for 5s\", \"30% for 300s\"";
    let start = |member| serve(&tables(&etcd.ports(), member, (&v1, &v2), &login, steps));
    let fleet: Vec<_> = (0..3).map(start).collect();
    let loads = loads(&fleet);
    let began = Instant::now();
    all_have(&fleet, "30%");
    // Two steps of 5 s, in which each token has expired at least twice.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert_eq!(fleet[2].local(&["abort", "app"]).code, 0);
    all_in_state(&fleet, "aborted");
    for proxy in &fleet {
        let log = proxy.log();
        assert!(!log.contains("fleet: alone"), "{log}");
    }
    nothing_has_failed(loads);
}
