//! The client against a real etcd: restarts, a lost majority, a stopped member, compaction, backups, a full quota, tokens, TLS.
//!
//! `tests/peers/etcd.sh` runs them. They take minutes, because etcd's elections and PING deadlines do.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{sleep, timeout};

use super::cluster::{Cluster, free_port};
use super::*;
use crate::config::fleet::EtcdUser;
use crate::config::spec::UpstreamTls;

const PREFIX: &str = "/cutover/front/";
/// Longest time for anything to recover.
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs a test where it is asked for: etcd's elections take longer than everybody should wait.
fn run(test: impl Future<Output = ()>) {
    if std::env::var_os("CUTOVER_ETCD").is_none() {
        eprintln!("skipped: tests/peers/etcd.sh runs it");
        return;
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime");
    let limited = async { timeout(Duration::from_secs(180), test).await };
    runtime.block_on(limited).expect("ends in time");
}

/// Waits for a usable connection.
async fn connected(etcd: &Etcd) {
    let mut connection = etcd.connection();
    let is = connection.wait_for(|state| matches!(state, Connection::Connected { .. }));
    let found = timeout(PATIENCE, is).await.expect("connected in time");
    found.expect("the client lives");
}

/// The next news; fails if there are none.
async fn news(watch: &mut Watch) -> WatchNews {
    timeout(PATIENCE, watch.next()).await.expect("news in time")
}

/// Writes until it succeeds.
async fn put(etcd: &Etcd, key: &str) {
    let began = Instant::now();
    while let Err(error) = etcd
        .put(&format!("{PREFIX}{key}"), b"1".to_vec(), None)
        .await
    {
        assert!(began.elapsed() < PATIENCE, "{key}: {error}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a watch has told of a key, by a listing or a change. Returns whether it was a listing of another history.
async fn told(watch: &mut Watch, key: &str) -> bool {
    let key = format!("{PREFIX}{key}");
    loop {
        match news(watch).await {
            WatchNews::Listed {
                listing,
                is_restored,
            } if listing.entries.iter().any(|e| e.key == key) => return is_restored,
            WatchNews::Changed { events, .. } => {
                let has = |event: &WatchEvent| matches!(event, WatchEvent::Put(e) if e.key == key);
                if events.iter().any(has) {
                    return false;
                }
            }
            _ => {}
        }
    }
}

#[test]
fn a_member_that_is_killed_is_replaced_by_another_one() {
    run(async {
        let mut cluster = Cluster::start(3, &[]);
        let etcd = Etcd::new(&cluster.fleet());
        connected(&etcd).await;
        let mut watch = etcd.watch(PREFIX);
        put(&etcd, "a").await;
        told(&mut watch, "a").await;
        for round in 0..3 {
            let used = cluster.used_by(&etcd).expect("connected");
            cluster.kill(used);
            let key = format!("b{round}");
            put(&etcd, &key).await;
            told(&mut watch, &key).await;
            assert_ne!(cluster.used_by(&etcd), Some(used));
            cluster.run(used);
            sleep(Duration::from_secs(2)).await;
        }
    });
}

#[test]
fn a_member_that_is_stopped_is_noticed_within_a_ping_s_deadline() {
    run(async {
        let cluster = Cluster::start(3, &[]);
        let etcd = Etcd::new(&cluster.fleet());
        connected(&etcd).await;
        let used = cluster.used_by(&etcd).expect("connected");
        cluster.signal(used, Signal::STOP);
        let began = Instant::now();
        let mut connection = etcd.connection();
        let left = connection.wait_for(|state| matches!(state, Connection::Alone { .. }));
        timeout(PATIENCE, left)
            .await
            .expect("noticed")
            .expect("the client lives");
        let noticed = began.elapsed();
        put(&etcd, "a").await;
        println!(
            "stopped member noticed after {noticed:.1?}, written after {:.1?}",
            began.elapsed()
        );
        assert!(noticed < Duration::from_secs(12), "{noticed:?}");
        cluster.signal(used, Signal::CONT);
    });
}

#[test]
fn without_a_majority_a_client_is_alone() {
    run(async {
        let mut cluster = Cluster::start(3, &[]);
        let etcd = Etcd::new(&cluster.fleet());
        connected(&etcd).await;
        let mut watch = etcd.watch(PREFIX);
        assert!(matches!(news(&mut watch).await, WatchNews::Listed { .. }));
        let used = cluster.used_by(&etcd).expect("connected");
        for other in (0..3).filter(|at| *at != used) {
            cluster.kill(other);
        }
        // The connection itself stays open: etcd ends the watch, because it was asked to.
        let began = Instant::now();
        loop {
            if let WatchNews::Lost(error) = news(&mut watch).await {
                println!("majority lost, told after {:.1?}: {error}", began.elapsed());
                break;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(12));
        assert!(etcd.get("a").await.is_err());
        (0..3)
            .filter(|at| *at != used)
            .for_each(|at| cluster.run(at));
        put(&etcd, "b").await;
        told(&mut watch, "b").await;
    });
}

#[test]
fn changes_that_were_compacted_meanwhile_are_listed() {
    run(async {
        let mut cluster = Cluster::start(1, &[]);
        let etcd = Etcd::new(&cluster.fleet());
        connected(&etcd).await;
        let mut watch = etcd.watch(PREFIX);
        put(&etcd, "a").await;
        told(&mut watch, "a").await;
        // At another port the client can't find it.
        cluster.kill(0);
        let port = std::mem::replace(&mut cluster.members[0].port, free_port());
        cluster.run(0);
        cluster.ctl(&["--dial-timeout=10s", "put", "/cutover/front/b", "1"]);
        let json = cluster.ctl(&["put", "/other", "1", "-w", "json"]);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let revision = json["header"]["revision"].to_string();
        cluster.ctl(&["compact", &revision]);
        cluster.kill(0);
        cluster.members[0].port = port;
        cluster.run(0);
        assert!(!told(&mut watch, "b").await);
    });
}

#[test]
fn a_restored_backup_is_listed_as_another_history() {
    run(async {
        let mut cluster = Cluster::start(1, &[]);
        let etcd = Etcd::new(&cluster.fleet());
        connected(&etcd).await;
        let mut watch = etcd.watch(PREFIX);
        put(&etcd, "a").await;
        let backup = cluster.directory.path().join("backup");
        let backup = backup.display().to_string();
        cluster.ctl(&["snapshot", "save", &backup]);
        for _ in 0..20 {
            put(&etcd, "b").await;
        }
        told(&mut watch, "b").await;
        cluster.kill(0);
        std::fs::remove_dir_all(cluster.data(0)).expect("removed");
        let (initial, data) = (cluster.initial(), cluster.data(0));
        let peer = format!("http://127.0.0.1:{}", cluster.members[0].peers);
        cluster.ctl(&[
            "snapshot",
            "restore",
            &backup,
            "--name",
            "m0",
            "--data-dir",
            &data,
            "--initial-cluster",
            &initial,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        cluster.run(0);
        let is_restored = loop {
            if let WatchNews::Listed {
                listing,
                is_restored,
            } = news(&mut watch).await
                && listing.entries.iter().any(|e| e.key.ends_with("/a"))
                && !listing.entries.iter().any(|e| e.key.ends_with("/b"))
            {
                break is_restored;
            }
        };
        assert!(is_restored);
        put(&etcd, "c").await;
        told(&mut watch, "c").await;
    });
}

#[test]
fn a_full_quota_is_named() {
    run(async {
        let cluster = Cluster::start(1, &["--quota-backend-bytes", "1000000"]);
        let etcd = Etcd::new(&cluster.fleet());
        connected(&etcd).await;
        put(&etcd, "a").await;
        let error = loop {
            let value = vec![7; 60_000];
            if let Err(error) = etcd.put(&format!("{PREFIX}big"), value, None).await {
                break error;
            }
        };
        assert_eq!(error, EtcdError::NoSpace);
        let lease = etcd.grant(Duration::from_secs(10)).await;
        assert_eq!(lease, Err(EtcdError::NoSpace));
        // Reading goes on.
        let entry = etcd.get(&format!("{PREFIX}a")).await.expect("read");
        assert!(entry.is_some());
    });
}

#[test]
fn a_user_with_a_role_on_the_prefix_is_enough() {
    run(async {
        let cluster = Cluster::start(1, &["--auth-token-ttl", "2"]);
        let mut spec = cluster.fleet();
        let none = Etcd::new(&spec);
        connected(&none).await;
        for line in [
            "role add cutover",
            "role grant-permission cutover --prefix=true readwrite /cutover/front/",
            "user add cutover:secret",
            "user grant-role cutover cutover",
            "user add root:root",
            "user grant-role root root",
            "auth enable",
        ] {
            cluster.ctl(&line.split(' ').collect::<Vec<_>>());
        }
        assert!(matches!(none.get(PREFIX).await, Err(EtcdError::Auth(_))));
        drop(none);
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        writeln!(file, "secret").expect("written");
        spec.user = Some(EtcdUser {
            name: "cutover".to_owned(),
            password_file: file.path().to_owned(),
        });
        let etcd = Etcd::new(&spec);
        let mut watch = etcd.watch(PREFIX);
        put(&etcd, "a").await;
        told(&mut watch, "a").await;
        let denied = etcd.put("/other", Vec::new(), None).await;
        assert_eq!(denied, Err(EtcdError::Denied));
        // Tokens expire 2 s after they were used last.
        sleep(Duration::from_secs(5)).await;
        assert!(
            etcd.get(&format!("{PREFIX}a"))
                .await
                .expect("read")
                .is_some()
        );
        put(&etcd, "b").await;
        told(&mut watch, "b").await;
    });
}

/// Writes an authority, and a certificate with key for 127.0.0.1 that it has issued.
fn certificates(directory: &Path) {
    let write = |name: &str, text: String| {
        std::fs::write(directory.join(name), text).expect("written");
    };
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = ca.self_signed(&ca_key).expect("an authority");
    write("ca.pem", certificate.pem());
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    write("cert.pem", leaf.pem());
    write("key.pem", key.serialize_pem());
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(directory.join("key.pem"), private).expect("a mode");
}

#[test]
fn etcd_is_verified_and_shown_a_certificate() {
    run(async {
        let files = tempfile::tempdir().expect("a directory");
        certificates(files.path());
        let path = |name: &str| files.path().join(name);
        let text = |name: &str| path(name).display().to_string();
        let mut cluster = Cluster::start(1, &[]);
        cluster.kill(0);
        cluster.scheme = "https";
        cluster.options = [
            "--cert-file",
            &text("cert.pem"),
            "--key-file",
            &text("key.pem"),
            "--client-cert-auth",
            "--trusted-ca-file",
            &text("ca.pem"),
        ]
        .map(str::to_owned)
        .to_vec();
        cluster.run(0);
        let tls = UpstreamTls {
            ca: Some(path("ca.pem")),
            cert: Some(path("cert.pem")),
            key: Some(path("key.pem")),
            server_name: None,
        };
        let with = |tls: UpstreamTls| FleetSpec {
            tls: Some(tls),
            ..cluster.fleet()
        };
        let etcd = Etcd::new(&with(tls.clone()));
        put(&etcd, "a").await;
        // Without a certificate, and with the system's authorities, it isn't reached.
        let without = UpstreamTls {
            cert: None,
            key: None,
            ..tls.clone()
        };
        let stranger = UpstreamTls { ca: None, ..tls };
        for tls in [without, stranger] {
            let refused = Etcd::new(&with(tls)).get("a").await;
            assert!(
                matches!(refused, Err(EtcdError::Unreachable(_))),
                "{refused:?}"
            );
        }
    });
}
