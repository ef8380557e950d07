//! Members of a fleet, on a real etcd where it is installed.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use serde_json::Value;

use crate::fleet_outages::log_in;
use crate::fleet_rollouts::is_asked_for;
use crate::support::client::Client;
use crate::support::etcd::Etcd;
use crate::support::proxy::{Builder, Proxy, serve};
use crate::support::{PATIENCE, origin::Origin, until};

/// The tables of a member.
fn tables(etcd: &str, member: &str, origin: &Origin, more: &str) -> String {
    format!(
        "[fleet]\netcd = \"{etcd}\"\nname = \"test\"\nmember = \"{member}\"\n[service.app]\nversions = {{ v1 = [\"{}\"] }}\n{more}",
        origin.at()
    )
}

fn fleet(proxy: &Proxy) -> Value {
    proxy.status()["fleet"].clone()
}

/// Waits until a member sees these ones, itself included.
fn until_sees(proxy: &Proxy, names: &[&str]) {
    until(&format!("{names:?} are the members"), || {
        let fleet = fleet(proxy);
        let members = fleet["members"].as_array().expect("a list");
        let seen: Vec<_> = members
            .iter()
            .map(|m| m["name"].as_str().unwrap())
            .collect();
        (seen == names && fleet["connected"] == true).then_some(())
    });
}

#[test]
fn members_see_each_other_come_and_go() {
    let Some(etcd) = Etcd::start() else { return };
    let origin = Origin::named("app");
    let cohort = |salt| format!("[service.app.cohort]\nby = \"ip\"\nsalt = \"{salt}\"\n");
    let a = serve(&tables(&etcd.url(), "a", &origin, &cohort("one")));
    until_sees(&a, &["a"]);
    let mut b = serve(&tables(&etcd.url(), "b", &origin, &cohort("two")));
    until_sees(&a, &["a", "b"]);
    until_sees(&b, &["a", "b"]);
    let metrics = a.metrics();
    assert_eq!(metrics.sum("cutover_fleet_members", &[]), 2.0);
    assert_eq!(metrics.sum("cutover_fleet_connected", &[]), 1.0);
    assert_eq!(metrics.sum("cutover_fleet_disagreements", &[]), 1.0);
    assert_eq!(
        fleet(&a)["disagreements"][0],
        "service app: other cohort on b"
    );
    let shown = a.command(&["fleet", "status"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let shown = a.command(&["status"]);
    assert!(
        shown.stdout.contains("fleet test: member a"),
        "{}",
        shown.stdout
    );
    // An edit reaches the other member.
    b.edit(&tables(&etcd.url(), "b", &origin, &cohort("one")));
    until("they agree", || {
        fleet(&a)["disagreements"]
            .as_array()?
            .is_empty()
            .then_some(())
    });
    // A takeover keeps the name, and doesn't look like two proxies with one.
    let c = a.successor().expect("takes over");
    until_sees(&c, &["a", "b"]);
    assert_eq!(fleet(&c)["error"], Value::Null);
    b.signal(rustix::process::Signal::TERM);
    b.ended();
    until_sees(&c, &["a"]);
}

#[test]
fn a_member_without_etcd_is_alone_and_serves() {
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let origin = Origin::named("app");
    let proxy = serve(&tables(&etcd.url(), "a", &origin, ""));
    until_sees(&proxy, &["a"]);
    etcd.kill();
    let alone = until("it is alone", || {
        let fleet = fleet(&proxy);
        (fleet["connected"] == false).then_some(fleet)
    });
    assert!(alone["alone_s"].is_u64(), "{alone}");
    assert_eq!(proxy.metrics().sum("cutover_fleet_connected", &[]), 0.0);
    assert_eq!(proxy.get("/").text(), "app");
    assert_eq!(proxy.command(&["fleet", "status"]).code, 2);
    etcd.run();
    until_sees(&proxy, &["a"]);
    let count = |line: &str| proxy.log().matches(line).count();
    until("the log's line", || {
        (count("fleet: connected to etcd") == 2).then_some(())
    });
    assert_eq!(count("fleet: alone"), 1, "{}", proxy.log());
}

#[test]
fn a_member_without_a_user_is_alone_once_etcd_asks_for_one() {
    if !is_asked_for() {
        return;
    }
    let Some(mut etcd) = Etcd::cluster(1, &["--bcrypt-cost", "4"]) else {
        return;
    };
    let origin = Origin::named("app");
    let proxy = serve(&tables(&etcd.url(), "a", &origin, ""));
    until_sees(&proxy, &["a"]);
    let dir = tempfile::tempdir().expect("a directory");
    let login = log_in(&mut etcd, dir.path());
    let alone = until("it is alone", || {
        let fleet = fleet(&proxy);
        (fleet["connected"] == false).then_some(fleet)
    });
    assert!(alone["alone_s"].is_u64(), "{alone}");
    let error = alone["error"].as_str().expect("a reason");
    assert_eq!(error, "etcd refused the user: it asks for a user");
    assert_eq!(proxy.metrics().sum("cutover_fleet_connected", &[]), 0.0);
    until("the log's line", || {
        let log = proxy.log();
        let line = log.lines().find(|line| line.contains("fleet: alone"))?;
        line.contains("it asks for a user").then_some(())
    });
    assert_eq!(proxy.get("/").text(), "app");
    let tables = tables(&etcd.url(), "a", &origin, "");
    proxy.edit(&tables.replace("[fleet]\n", &format!("[fleet]\n{login}\n")));
    until_sees(&proxy, &["a"]);
}

#[test]
fn a_divided_limit_is_that_of_all_members_together() {
    let Some(etcd) = Etcd::start() else { return };
    let (open, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    // Answers to `/held` come when the test ends the channel.
    let origin = Origin::each(move |request, conn| {
        if request.target() == "/held" {
            let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
        }
        conn.reply(200, "app")
    });
    let limits = "[service.app.limits]\nrequests = 4\n";
    let text = |member| {
        let tables = tables(&etcd.url(), member, &origin, limits);
        tables.replace("[service.app]", "divide_limits = true\n[service.app]")
    };
    let a = serve(&text("a"));
    let mut b = serve(&text("b"));
    until_sees(&a, &["a", "b"]);
    let hold = |count: usize| -> Vec<Client> {
        let before = origin.hits();
        let mut clients: Vec<_> = (0..count).map(|_| a.client()).collect();
        for client in &mut clients {
            client.send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n");
        }
        until("they are in flight", || {
            (origin.hits() == before + count).then_some(())
        });
        clients
    };
    let first = hold(2);
    // Two are this member's part, once it has counted.
    until("the part is full", || {
        (a.get("/").status() == 503).then_some(())
    });
    assert_eq!(
        a.get("/").field("x-cutover-reason").as_deref(),
        Some("limit-requests")
    );
    b.signal(rustix::process::Signal::TERM);
    b.ended();
    until("there is room again", || {
        (a.get("/").status() == 200).then_some(())
    });
    let second = hold(1);
    assert_eq!(a.get("/").status(), 200);
    drop((open, first, second));
}

#[test]
fn a_proxy_starts_and_serves_although_etcd_was_never_there() {
    let origin = Origin::named("app");
    // Nothing listens at this port.
    let nobody = format!("http://127.0.0.1:{}", crate::support::free_port());
    let proxy = Builder::rest(&tables(&nobody, "a", &origin, "")).start();
    assert_eq!(proxy.get("/").text(), "app");
    let error = until("the reason is shown", || {
        fleet(&proxy)["error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("refused"), "{error}");
}
