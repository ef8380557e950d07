//! Tables of the configuration that the members of a fleet share, on a real etcd where it is installed.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, Output, Proxy, command, serve};
use crate::support::{Ended, client, until};

pub const KEY: &str = "/cutover/test/config";

/// The `[fleet]` of a member.
pub fn member(etcd: &Etcd, member: &str) -> String {
    let url = etcd.url();
    format!(
        "[fleet]\netcd = \"{url}\"\nname = \"test\"\nmember = \"{member}\"\nshare = [\"service\", \"defaults\"]\njoin_wait = \"2s\"\n"
    )
}

/// A service whose versions answer with their names.
pub fn service(v1: &Origin, v2: &Origin) -> String {
    format!(
        "[defaults.timeouts]\nconnect = \"2s\"\n# The app.\n[service.app]\nstable = \"v1\"\n[service.app.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\"]\n",
        v1.at(),
        v2.at()
    )
}

/// Writes these tables for the fleet.
pub fn init(etcd: &Etcd, tables: &str, dir: &Path, options: &[&str]) -> Output {
    let file = dir.join("seed.toml");
    let head = "listen = \"127.0.0.1:1\"\n";
    let text = format!(
        "{head}state_dir = \"{}\"\n{}{tables}",
        dir.display(),
        member(etcd, "x")
    );
    std::fs::write(&file, text).expect("write the file");
    command(
        &[
            &["fleet", "init", "-c", file.to_str().expect("UTF-8")],
            options,
        ]
        .concat(),
        dir,
    )
}

/// Waits until no error is shown: workers adopt tables one after the other, and the error of the former ones ends with the last.
fn has_no_error(proxy: &Proxy) {
    until("no error any more", || {
        config(proxy)["error"].is_null().then_some(())
    });
}

pub fn answers(proxy: &Proxy, name: &str) {
    until(&format!("{name} answers"), || {
        (proxy.get("/").body == name.as_bytes()).then_some(())
    });
}

pub fn config(proxy: &Proxy) -> Value {
    proxy.status()["fleet"]["config"].clone()
}

#[test]
fn tables_in_etcd_are_served_by_all_members_and_edited_on_any() {
    let Some(etcd) = Etcd::start() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let tables = service(&v1, &v2);
    let written = init(&etcd, &tables, dir.path(), &[]);
    assert_eq!(written.code, 0, "{written:?}");
    assert!(
        written.stdout.contains(KEY) && written.stdout.contains("[service.app]"),
        "{written:?}"
    );
    let again = init(&etcd, &tables, dir.path(), &[]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("has tables already"), "{again:?}");
    let forced = init(&etcd, &tables, dir.path(), &["--force"]);
    assert_eq!(forced.code, 0, "{forced:?}");

    let [a, b] = ["a", "b"].map(|name| serve(&member(&etcd, name)));
    answers(&a, "v1");
    answers(&b, "v1");
    let shifted = a.local(&["shift", "app", "v2"]);
    assert_eq!(shifted.code, 0, "{shifted:?}");
    answers(&a, "v2");
    answers(&b, "v2");
    // Everybody knows who did it.
    for proxy in [&a, &b] {
        let history = proxy.local(&["history", "app"]).stdout;
        assert!(history.contains("(shift)"), "{history}");
        assert_eq!(config(proxy)["error"], Value::Null);
        assert!(!proxy.text().contains("[service"), "files stay as they are");
    }
    let undone = b.local(&["undo"]);
    assert_eq!(undone.code, 0, "{undone:?}");
    answers(&a, "v1");
    answers(&b, "v1");
    let deployed = b.local(&["deploy", "app", "v2", "--label", "2.0"]);
    assert_eq!(deployed.code, 0, "{deployed:?}");
    answers(&a, "v2");
    let revisions = [&a, &b].map(|proxy| config(proxy)["revision"].as_i64());
    assert_eq!(revisions[0], revisions[1]);
}

#[test]
fn bad_tables_are_named_and_the_last_good_ones_served_also_by_a_start_without_etcd() {
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    assert_eq!(init(&etcd, &service(&v1, &v2), dir.path(), &[]).code, 0);
    let mut proxy = serve(&member(&etcd, "a"));
    answers(&proxy, "v1");
    let put = |value: &str| {
        let put = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &etcd.url(), "put", KEY, value])
            .stdout(Stdio::null())
            .status();
        assert!(put.expect("etcdctl runs").success());
    };
    for (bad, why) in [
        ("[service.app]", "is not what `cutover fleet init` writes"),
        (
            r#"{"text":"[service.app]\nversion = 1\n","by":"me"}"#,
            "etcd:/cutover/test/config:2:1",
        ),
    ] {
        put(bad);
        let error = until("it is refused", || {
            let error = config(&proxy)["error"].as_str()?.to_owned();
            error.contains(why).then_some(error)
        });
        assert_eq!(proxy.get("/").body, b"v1", "{error}");
    }
    assert_eq!(
        proxy.metrics().sum("cutover_fleet_config_adopted", &[]),
        0.0
    );
    let shown = proxy.local(&["fleet", "status"]).stdout;
    assert!(shown.contains("newer tables are refused"), "{shown}");
    // An edit is one of the tables in use, and replaces the bad ones.
    let shifted = proxy.local(&["shift", "app", "v2"]);
    assert_eq!(shifted.code, 0, "{shifted:?}");
    has_no_error(&proxy);

    proxy.signal(Signal::TERM);
    proxy.ended();
    etcd.kill();
    let restarted = Command::new(BINARY)
        .args(["run", "-c"])
        .arg(proxy.file())
        .stderr(Stdio::null())
        .spawn();
    let _restarted = Ended(restarted.expect("the binary runs"));
    until("it serves", || {
        std::net::TcpStream::connect(("127.0.0.1", proxy.port)).ok()
    });
    assert_eq!(client::get(proxy.port, "/").body, b"v2");
}

#[test]
fn a_service_in_the_file_and_in_etcd_is_refused_until_the_file_gives_it_up() {
    let Some(etcd) = Etcd::start() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let proxy = serve(&format!("{}{}", member(&etcd, "a"), service(&v2, &v1)));
    answers(&proxy, "v2");
    assert_eq!(init(&etcd, &service(&v1, &v2), dir.path(), &[]).code, 0);
    let error = until("it is refused", || {
        config(&proxy)["error"].as_str().map(str::to_owned)
    });
    assert!(
        error.contains("service `app` is in the file and in the fleet's tables"),
        "{error}"
    );
    assert_eq!(proxy.get("/").body, b"v2");
    proxy.edit(&member(&etcd, "a"));
    answers(&proxy, "v1");
    has_no_error(&proxy);
}

#[test]
fn tables_of_a_restored_backup_are_refused_until_somebody_decides() {
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    assert_eq!(init(&etcd, &service(&v1, &v2), dir.path(), &[]).code, 0);
    let mut a = serve(&member(&etcd, "a"));
    let b = serve(&member(&etcd, "b"));
    answers(&a, "v1");
    answers(&b, "v1");
    let backup = etcd.back_up();
    assert_eq!(a.local(&["shift", "app", "v2"]).code, 0);
    answers(&a, "v2");
    answers(&b, "v2");

    // The backup still has v1.
    etcd.restore(&backup);
    let is_refused = |proxy: &Proxy| {
        until("the older tables are refused", || {
            let error = config(proxy)["error"].as_str()?.to_owned();
            error.contains("older than the tables in use").then_some(())
        });
        assert_eq!(proxy.get("/").body, b"v2");
    };
    is_refused(&a);
    is_refused(&b);
    assert!(etcd.value(KEY).contains("stable = \\\"v1\\\""));
    // A start doesn't take them either.
    a.signal(Signal::TERM);
    a.ended();
    a.restart();
    until("it is ready", || a.is_ready().then_some(()));
    is_refused(&a);
    // Nor a change of the file, which tries other refused tables again.
    b.edit(&format!("{}# another comment\n", member(&etcd, "b")));
    is_refused(&b);

    // An edit is one of the tables in use, and is later than the backup, although its revision is lower than that before.
    let shifted = b.local(&["shift", "app", "v1"]);
    assert_eq!(shifted.code, 0, "{shifted:?}");
    let are_used = |members: [&Proxy; 2]| {
        for proxy in members {
            answers(proxy, "v1");
            has_no_error(proxy);
        }
    };
    are_used([&a, &b]);

    // `fleet init --force` decides for the older ones, if that is what was meant. The revisions of the later backup are higher.
    (0..12).for_each(|_| drop(etcd.ctl(&["put", "/other", "x"])));
    assert_eq!(a.local(&["shift", "app", "v2"]).code, 0);
    answers(&b, "v2");
    let later = dir.path().join("later");
    std::fs::copy(&backup, &later).expect("a copy");
    let (backup, later) = (later, etcd.back_up());
    // A member that is away takes the decision when it is back, although the revision is lower than the one that it remembers.
    a.signal(Signal::TERM);
    a.ended();
    etcd.restore(&backup);
    is_refused(&b);
    let forced = init(&etcd, &service(&v1, &v2), dir.path(), &["--force"]);
    assert_eq!(forced.code, 0, "{forced:?}");
    answers(&b, "v1");
    let revision = config(&b)["revision"].as_i64();
    a.restart();
    until("it is ready", || a.is_ready().then_some(()));
    are_used([&a, &b]);

    // A backup of before the decision is older, although its revision is higher.
    etcd.restore(&later);
    for proxy in [&a, &b] {
        until("the older tables are refused", || {
            config(proxy)["error"].is_string().then_some(())
        });
        assert!(config(proxy)["revision"].as_i64() > revision);
        assert_eq!(proxy.get("/").body, b"v1");
    }
}
