//! Members of a fleet, on a real etcd where it is installed.

use serde_json::Value;

use crate::support::etcd::Etcd;
use crate::support::proxy::{Builder, Proxy, serve};
use crate::support::{origin::Origin, until};

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
    let log = proxy.log();
    assert_eq!(log.matches("fleet: alone").count(), 1, "{log}");
    assert_eq!(log.matches("fleet: connected to etcd").count(), 2, "{log}");
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
