//! Members of a fleet whose program is an older one, which `tests/peers/older.sh` builds: it names it in `CUTOVER_OLDER`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::fleet_outages::{all_have, loads, nothing_has_failed, stays, tables};
use crate::fleet_rollouts::{all_in_state, driver};
use crate::fleet_tables;
use crate::rollouts::{Version, rollout, share};
use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, Builder, Proxy};
use crate::support::{client, until, until_within};

fn older() -> Option<PathBuf> {
    let older = std::env::var_os("CUTOVER_OLDER").map(PathBuf::from);
    if older.is_none() {
        eprintln!("skipped: tests/peers/older.sh builds an older program and runs it");
    }
    older
}

/// A member that runs this program.
fn member(
    binary: impl Into<PathBuf>,
    etcd: &Etcd,
    number: usize,
    versions: (&Version, &Version),
    steps: &str,
) -> Proxy {
    let rest = tables(&etcd.ports(), number, versions, "", steps);
    Builder::rest(&rest).binary(binary).start()
}

#[test]
fn a_rollout_that_an_older_member_drives_walks_and_is_taken_back_everywhere() {
    let Some(older) = older() else { return };
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let versions = (&v1, &v2);
    let steps = "\"10% for 12s\", \"20% for 300s\"";
    let mut fleet = vec![member(older, &etcd, 0, versions, steps)];
    all_have(&fleet, "10%");
    fleet.extend([1, 2].map(|number| member(BINARY, &etcd, number, versions, steps)));
    let loads = loads(&fleet);
    assert_eq!(driver(&fleet), 0, "the older one");
    all_have(&fleet, "10%");
    all_have(&fleet, "20%");
    // It reads what the newer ones have counted.
    until_within(Duration::from_secs(15), "counts of all", || {
        (rollout(&fleet[0])["fleet"]["counting"] == 3).then_some(())
    });
    // A command to a newer one, and one to the older one.
    assert_eq!(fleet[2].local(&["pause", "app"]).code, 0);
    all_in_state(&fleet, "paused");
    assert_eq!(fleet[0].local(&["resume", "app"]).code, 0);
    all_in_state(&fleet, "step");
    assert_eq!(driver(&fleet), 0, "the older one");
    nothing_has_failed(loads);
    // Of each member's requests the canary gets a fifth.
    let loads = self::loads(&fleet);
    v2.failing.store(500, std::sync::atomic::Ordering::SeqCst);
    all_in_state(&fleet, "rolled-back");
    all_have(&fleet, "0%");
    for load in loads {
        load.end();
    }
}

#[test]
fn members_that_are_downgraded_one_after_the_other_keep_the_share_and_the_latch() {
    let Some(older) = older() else { return };
    let Some(etcd) = Etcd::start() else { return };
    let (v1, v2) = (Version::new("v1", 0), Version::new("v2", 0));
    let versions = (&v1, &v2);
    let steps = "\"10% for 20s\", \"20% for 300s\"";
    let start = |number| member(BINARY, &etcd, number, versions, steps);
    let mut fleet: Vec<_> = (0..3).map(start).collect();
    all_have(&fleet, "10%");
    let began = Instant::now();
    for at in 0..fleet.len() {
        fleet[at].binary.clone_from(&older);
        let next = fleet[at].successor().expect("a takeover");
        fleet[at].ended();
        fleet[at] = next;
        let program = std::fs::read_link(format!("/proc/{}/exe", fleet[at].pid()));
        assert_eq!(
            program.expect("its program"),
            older.canonicalize().expect("a path")
        );
        stays(&fleet, "10%", Duration::from_secs(1));
        assert_eq!(client::get(fleet[at].port, "/").status(), 200);
    }
    all_have(&fleet, "20%");
    let held = began.elapsed();
    eprintln!("a step of 20 s took {held:?} while three members were downgraded");
    assert!(held > Duration::from_secs(15), "{held:?}");
    assert_eq!(fleet[1].local(&["abort", "app"]).code, 0);
    all_in_state(&fleet, "aborted");
    // And back: what an older one has latched, a newer one keeps.
    for proxy in &mut fleet {
        proxy.binary = PathBuf::from(BINARY);
        let next = proxy.successor().expect("a takeover");
        proxy.ended();
        *proxy = next;
        assert_eq!(share(proxy), "0%");
    }
    all_in_state(&fleet, "aborted");
    assert!(fleet.iter().all(|proxy| rollout(proxy)["latched"] == true));
}

#[test]
fn tables_are_edited_beside_an_older_member_and_restored_ones_refused_by_both() {
    let Some(older) = older() else { return };
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let tables = fleet_tables::service(&v1, &v2);
    let init = |etcd: &Etcd, options: &[&str]| {
        let written = fleet_tables::init(etcd, &tables, dir.path(), options);
        assert_eq!(written.code, 0, "{written:?}");
    };
    init(&etcd, &[]);
    let seed = dir.path().join("seed.toml");
    let check = Command::new(&older)
        .args(["check", "-c"])
        .arg(seed)
        .output();
    if !check.expect("it runs").status.success() {
        eprintln!("this older program shares no tables: they aren't tried");
        return;
    }
    let start = |binary: PathBuf, name| {
        let rest = fleet_tables::member(&etcd, name);
        Builder::rest(&rest).binary(binary).start()
    };
    let (a, b) = (start(older, "a"), start(BINARY.into(), "b"));
    let serve = |name| [&a, &b].map(|proxy| fleet_tables::answers(proxy, name));
    let has_timeline = |etcd: &Etcd| etcd.value(fleet_tables::KEY).contains("timeline");
    serve("v1");
    assert!(has_timeline(&etcd));
    assert_eq!(a.local(&["shift", "app", "v2"]).code, 0);
    serve("v2");
    assert!(!has_timeline(&etcd), "the older one doesn't know it");
    assert_eq!(b.local(&["shift", "app", "v1"]).code, 0);
    serve("v1");
    assert!(has_timeline(&etcd));
    let backup = etcd.back_up();
    assert_eq!(a.local(&["shift", "app", "v2"]).code, 0);
    serve("v2");
    etcd.restore(&backup);
    for proxy in [&a, &b] {
        until("the older tables are refused", || {
            let error = fleet_tables::config(proxy)["error"].as_str()?.to_owned();
            error.contains("older than the tables in use").then_some(())
        });
    }
    serve("v2");
    init(&etcd, &["--force"]);
    serve("v1");
    assert_eq!(b.local(&["shift", "app", "v2"]).code, 0);
    serve("v2");
    assert_eq!(a.local(&["shift", "app", "v1"]).code, 0);
    serve("v1");
}
