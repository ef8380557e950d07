//! Certificates that the members of a fleet share, from a scripted authority and on a real etcd where it is installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::acme::get;
use crate::fleet_rollouts::is_asked_for;
use crate::support::acme::{AcmeServer, Mood};
use crate::support::client::Client;
use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, single};
use crate::support::relay::Relay;
use crate::support::{free_port, until, until_within};

const NAMES: [&str; 2] = ["shop.test", "api.shop.test"];

/// A member with a TLS listener at `tls` and a clear-text one at `http`.
fn member(
    (server, etcd): (&AcmeServer, &Etcd),
    name: &str,
    (tls, http): (u16, u16),
    seal: &Path,
    origin: &Origin,
) -> Proxy {
    let text = format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
         [acme]\ndirectory = \"{}\"\nseal_key_file = \"{}\"\n\
         [fleet]\netcd = \"{}\"\nname = \"test\"\nmember = \"{name}\"\n\
         [listen.http]\nbind = \"127.0.0.1:{http}\"\n\
         [listen.https]\nbind = \"127.0.0.1:{tls}\"\nacme = {NAMES:?}\n{}",
        server.directory(),
        seal.display(),
        etcd.url(),
        single(&origin.at(), "")
    );
    Builder::new(&text).start()
}

fn serves(server: &AcmeServer, port: u16) {
    for name in NAMES {
        let answer = until("a certificate", || get(server, port, name));
        assert_eq!(answer, (200, "app".to_owned()), "{name}");
    }
}

fn seal_key(dir: &Path, byte: u8) -> std::path::PathBuf {
    let file = dir.join(format!("seal-{byte}.key"));
    fs::write(&file, [byte; 32]).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    file
}

#[test]
fn one_member_orders_any_answers_and_all_have_the_certificates() {
    let Some(etcd) = Etcd::start() else { return };
    let origin = Origin::named("app");
    let dir = tempfile::tempdir().expect("a directory");
    let seal = seal_key(dir.path(), 7);
    let ports = [(); 3].map(|()| (free_port(), free_port()));
    // The authority asks another member for each name.
    let balancer = Relay::in_turn(&[ports[0].1, ports[1].1]);
    let server = AcmeServer::start(balancer.ports()[0], free_port());
    let both = (&server, &etcd);
    // Both run before one of them can be the first that orders.
    etcd.signal(0, Signal::STOP);
    let a = member(both, "a", ports[0], &seal, &origin);
    let b = member(both, "b", ports[1], &seal, &origin);
    etcd.signal(0, Signal::CONT);
    serves(&server, ports[0].0);
    serves(&server, ports[1].0);
    let ordered = || (server.orders().len(), server.account().2);
    assert_eq!(ordered(), (2, 1), "each name once, by one account");
    let answers = |proxy: &Proxy| {
        let labels = [("reason", "acme-challenge")];
        proxy.metrics().sum("cutover_own_answers_total", &labels)
    };
    assert_eq!((answers(&a), answers(&b)), (1.0, 1.0));
    let is_orderer = |proxy: &Proxy| proxy.log().contains("this member orders the certificates");
    assert!(is_orderer(&a) != is_orderer(&b), "one of them orders");

    // A member that comes later orders nothing.
    let c = member(both, "c", ports[2], &seal, &origin);
    serves(&server, ports[2].0);
    assert_eq!(ordered(), (2, 1));
    let prefix = "/cutover/test/acme/";
    let listed = etcd.ctl(&["get", "--prefix", prefix]);
    assert_eq!(listed.matches("cutover-seal-1:").count(), 3, "{listed}");
    assert!(!listed.contains("PRIVATE KEY") && !listed.contains("BEGIN"));

    // What isn't sealed by the key is named and changes nothing, and nobody orders on top of it.
    let keys = etcd.ctl(&["get", "--prefix", prefix, "--keys-only"]);
    let key = { keys.lines() }.find(|key| key.ends_with("/cert/shop.test"));
    let key = key.expect("the key");
    let sealed = etcd.value(&key.replace("/cert/shop.test", "/cert/api.shop.test"));
    etcd.ctl(&["put", key, sealed.trim()]);
    for proxy in [&a, &b, &c] {
        until("it is named", || {
            let log = proxy.log();
            (log.contains(key) && log.contains("isn't sealed by")).then_some(())
        });
    }
    for (tls, _) in ports {
        serves(&server, tls);
    }
    let status = a.status().to_string();
    assert!(
        status.contains("which isn't sealed by `acme.seal_key_file`"),
        "{status}"
    );
    // Without it, the orderer writes it again.
    etcd.ctl(&["del", key]);
    until("it is there again", || {
        etcd.value(key).starts_with("cutover-seal-1:").then_some(())
    });
    assert_eq!(ordered(), (2, 1));

    // A member with another key takes nothing, and orders nothing.
    drop(c);
    let other = seal_key(dir.path(), 8);
    let stranger = member(both, "d", ports[2], &other, &origin);
    until("it says so", || {
        { stranger.status().to_string() }
            .contains("which isn't sealed by")
            .then_some(())
    });
    assert_eq!(get(&server, ports[2].0, NAMES[0]), None);
    assert_eq!(ordered(), (2, 1));
}

#[test]
fn another_member_orders_if_the_one_that_does_is_killed_in_the_middle_of_an_order() {
    if !is_asked_for() {
        return;
    }
    let Some(etcd) = Etcd::start() else { return };
    let origin = Origin::named("app");
    let dir = tempfile::tempdir().expect("a directory");
    let seal = seal_key(dir.path(), 7);
    let ports = [(); 2].map(|()| (free_port(), free_port()));
    let balancer = Relay::in_turn(&[ports[0].1, ports[1].1]);
    let server = AcmeServer::start(balancer.ports()[0], free_port());
    server.set_mood(Mood::Waits);
    let both = (&server, &etcd);
    etcd.signal(0, Signal::STOP);
    let mut members = vec![
        (member(both, "a", ports[0], &seal, &origin), ports[0]),
        (member(both, "b", ports[1], &seal, &origin), ports[1]),
    ];
    etcd.signal(0, Signal::CONT);
    until("a challenge was answered", || {
        (server.answered() > 0).then_some(())
    });
    let is_orderer = |proxy: &Proxy| proxy.log().contains("this member orders the certificates");
    let orders = members.iter().position(|(proxy, _)| is_orderer(proxy));
    let (mut killed, its_ports) = members.remove(orders.expect("one of them"));
    let (other, other_ports) = &members[0];
    killed.signal(Signal::KILL);
    killed.ended();

    // The other one has placed no order, and answers the challenge of the one that is open.
    assert!(!is_orderer(other));
    let answers = || {
        other
            .metrics()
            .sum("cutover_own_answers_total", &[("reason", "acme-challenge")])
    };
    let before = answers();
    let path = "/.well-known/acme-challenge/t0ken-0";
    let name = &server.orders()[0];
    let answer =
        Client::new(other_ports.1).ask(&format!("GET {path} HTTP/1.1\r\nhost: {name}\r\n\r\n"));
    assert_eq!(answer.status(), 200);
    assert!(answer.text().starts_with("t0ken-0."), "{}", answer.text());
    until("it is counted", || {
        (answers() == before + 1.0).then_some(())
    });

    let placed = server.orders().len();
    server.set_http_port(other_ports.1);
    server.set_mood(Mood::Issues);
    let began = std::time::Instant::now();
    until_within(Duration::from_secs(40), "another one orders", || {
        is_orderer(other).then_some(())
    });
    eprintln!("another member orders {:?} after the kill", began.elapsed());
    until_within(Duration::from_secs(40), "all certificates", || {
        let has = |name: &&str| get(&server, other_ports.0, name).is_some();
        NAMES.iter().all(has).then_some(())
    });
    serves(&server, other_ports.0);
    assert_eq!(
        server.orders().len(),
        placed + NAMES.len(),
        "once more each"
    );
    assert_eq!(
        server.account().2,
        1,
        "by the account of the one that was killed"
    );

    // It comes back, and has what the other one has ordered.
    killed.restart();
    until("it is ready", || killed.is_ready().then_some(()));
    serves(&server, its_ports.0);
    assert!(!is_orderer(&killed));
    assert_eq!(server.orders().len(), placed + NAMES.len());
    assert_eq!(
        etcd.ctl(&["get", "--prefix", "/cutover/test/acme/"])
            .matches("cutover-seal-1:")
            .count(),
        3
    );
}

#[test]
fn a_value_that_no_member_has_written_keeps_nobody_from_ordering() {
    if !is_asked_for() {
        return;
    }
    let Some(etcd) = Etcd::start() else { return };
    let origin = Origin::named("app");
    let dir = tempfile::tempdir().expect("a directory");
    let seal = seal_key(dir.path(), 7);
    let ports = [(); 2].map(|()| (free_port(), free_port()));
    let server = AcmeServer::start(ports[0].1, free_port());
    let both = (&server, &etcd);
    let mut a = member(both, "a", ports[0], &seal, &origin);
    serves(&server, ports[0].0);
    let b = member(both, "b", ports[1], &seal, &origin);
    serves(&server, ports[1].0);
    let orders = |proxy: &Proxy| {
        let log = proxy.log();
        log.matches("this member orders the certificates").count()
    };
    assert_eq!((orders(&a), orders(&b)), (1, 0));
    let keys = etcd.ctl(&["get", "--prefix", "/cutover/test/acme/", "--keys-only"]);
    let key = { keys.lines() }.find(|key| key.ends_with("/orderer"));
    let key = key.expect("the key");
    let own = etcd.value(key);

    // The member that orders keeps its role.
    for foreign in ["00ff00ff00ff00ff", "", "\u{1b}[2J"] {
        etcd.ctl(&["put", key, foreign]);
        until("its value is back", || {
            (etcd.value(key) == own).then_some(())
        });
    }
    let kept = etcd.ctl(&["get", key, "-w", "json"]);
    assert!(kept.contains("\"lease\""), "{kept}");
    assert_eq!((orders(&a), orders(&b)), (1, 0));

    // Without it, another one has it, though the value would never expire.
    a.signal(Signal::KILL);
    a.ended();
    etcd.ctl(&["put", key, "00ff00ff00ff00ff"]);
    until("another one orders", || (orders(&b) == 1).then_some(()));
    let named = |line: &str| line.contains("ignoring") && line.contains(key);
    for proxy in [&a, &b] {
        let log = proxy.log();
        assert!(log.lines().any(named), "{log}");
        assert!(!log.contains('\u{1b}'), "a terminal would obey it");
    }
}
