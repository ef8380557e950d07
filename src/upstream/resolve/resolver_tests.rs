//! The resolver with scripted name servers.

use std::fs;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

use super::super::scripted_server::{A, AAAA, Answer, DnsServer, SRV, address, alias, service};

/// A resolver whose system files are these, and the directory that holds them. `servers` are those of the configuration.
fn resolver(hosts: &str, resolv_conf: &str, servers: &[SocketAddr]) -> (Resolver, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("hosts"), hosts).unwrap();
    fs::write(path("resolv.conf"), resolv_conf).unwrap();
    let resolver = Resolver::new(path("hosts"), path("resolv.conf"));
    resolver.set_servers(servers);
    (resolver, directory)
}

fn host(name: &str) -> LookupName {
    LookupName::Host(name.to_owned())
}

async fn found(resolver: &Resolver, name: &LookupName) -> Result<Vec<String>, LookupFailure> {
    let answer = resolver.lookup(name, None).await.result?;
    let text = |one: &ResolvedAddress| match one.port {
        None => one.ip.to_string(),
        Some(port) => format!("{} {}:{port} {}", one.priority, one.ip, one.weight),
    };
    let mut all: Vec<String> = answer.addresses.iter().map(text).collect();
    all.sort_unstable();
    Ok(all)
}

#[tokio::test]
async fn a_host_has_its_addresses_of_both_ip_versions() {
    let server = DnsServer::start();
    server.set_addresses("app.test", 30, &["127.0.0.2", "127.0.0.3"]);
    server.set(
        "app.test",
        AAAA,
        Answer::Records(vec![address("app.test", 20, "::1")]),
    );
    let (resolver, _files) = resolver("", "", &[server.address]);
    let outcome = resolver.lookup(&host("app.test"), None).await;
    let answer = outcome.result.unwrap();
    assert_eq!(answer.addresses.len(), 3);
    assert_eq!(
        (answer.ttl, answer.failure),
        (Duration::from_secs(20), None)
    );
    assert_eq!(outcome.absolute.as_deref(), Some("app.test"));
}

#[tokio::test]
async fn aliases_are_followed_and_truncated_or_forged_answers_are_not_believed() {
    let server = DnsServer::start();
    let records = vec![
        alias("app.test", 9, "a.test"),
        address("a.test", 30, "127.0.0.2"),
    ];
    let many: Vec<_> = (1..=200)
        .map(|n| address("many.test", 30, &format!("127.0.1.{n}")))
        .collect();
    server.set("app.test", A, Answer::Forged(records));
    server.set("many.test", A, Answer::Truncated(many));
    let (resolver, _files) = resolver("", "", &[server.address]);
    let app = resolver
        .lookup(&host("app.test"), None)
        .await
        .result
        .unwrap();
    assert_eq!((app.addresses.len(), app.ttl), (1, Duration::from_secs(9)));
    assert_eq!(app.addresses[0].ip.to_string(), "127.0.0.2");
    assert_eq!(
        found(&resolver, &host("many.test")).await.unwrap().len(),
        200
    );
}

#[tokio::test]
async fn failures_have_their_reasons() {
    let server = DnsServer::start();
    server.set("empty.test", A, Answer::Records(Vec::new()));
    server.set("broken.test", A, Answer::ServFail);
    let (resolver, _files) = resolver("", "", &[server.address]);
    let mut failures = Vec::new();
    for name in ["none.test", "empty.test", "broken.test"] {
        failures.push(found(&resolver, &host(name)).await.unwrap_err());
    }
    let code = LookupFailure::Server("SERVFAIL".to_owned());
    assert_eq!(
        failures,
        [LookupFailure::NoSuchName, LookupFailure::NoRecord, code]
    );
    let closed = DnsServer::start().address;
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_ne!(closed, nobody);
    resolver.set_servers(&[nobody]);
    let failure = found(&resolver, &host("app.test")).await.unwrap_err();
    assert!(
        matches!(failure, LookupFailure::Unreachable(_)),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_family_that_fails_does_not_hide_the_other() {
    let server = DnsServer::start();
    server.set_addresses("app.test", 30, &["127.0.0.2"]);
    server.set("app.test", AAAA, Answer::ServFail);
    let (resolver, _files) = resolver("", "", &[server.address]);
    let answer = resolver
        .lookup(&host("app.test"), None)
        .await
        .result
        .unwrap();
    assert_eq!(answer.addresses.len(), 1);
    assert_eq!(answer.failed, [("app.test".to_owned(), Family::V6)]);
    assert!(answer.failure.is_some());
}

#[tokio::test]
async fn a_silent_server_delays_only_the_first_lookup() {
    let (silent, good) = (DnsServer::start(), DnsServer::start());
    for kind in [A, AAAA] {
        silent.set("app.test", kind, Answer::Silence);
    }
    good.set_addresses("app.test", 30, &["127.0.0.2"]);
    let (resolver, _files) = resolver("", "", &[silent.address, good.address]);
    assert_eq!(
        found(&resolver, &host("app.test")).await.unwrap(),
        ["127.0.0.2"]
    );
    let asked = silent.queries("app.test", A);
    let began = Instant::now();
    assert!(found(&resolver, &host("app.test")).await.is_ok());
    assert_eq!(
        silent.queries("app.test", A),
        asked,
        "the other one is asked first"
    );
    assert!(began.elapsed() < LIMITS[0]);
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_the_servers_are_those_of_resolv_conf() {
    let hosts = "127.0.0.7 app.test\n";
    let server = DnsServer::start();
    server.set_addresses("app.test", 30, &["127.0.0.2"]);
    let (resolver, _files) = resolver(hosts, "nameserver 127.255.255.254\n", &[]);
    assert_eq!(
        found(&resolver, &host("app.test")).await.unwrap(),
        ["127.0.0.7"]
    );
    assert_eq!(
        found(&resolver, &host("localhost")).await.unwrap(),
        ["127.0.0.1", "::1"]
    );
    // Nobody listens there.
    assert!(found(&resolver, &host("other.test")).await.is_err());
    assert_eq!(server.queries("app.test", A), 0);
}

#[tokio::test]
async fn search_domains_are_tried_in_order() {
    let server = DnsServer::start();
    server.set_addresses("app.b.test", 30, &["127.0.0.2"]);
    server.set_addresses("app", 30, &["127.0.0.9"]);
    let conf = "search a.test b.test\noptions ndots:2\n";
    let (resolver, _files) = resolver("", conf, &[server.address]);
    let outcome = resolver.lookup(&host("app"), None).await;
    assert_eq!(outcome.absolute.as_deref(), Some("app.b.test"));
    assert_eq!(server.queries("app.a.test", A), 1);
    // A broken search domain is passed over, but not the one that had the addresses.
    server.set("app.a.test", A, Answer::ServFail);
    server.set("app.a.test", AAAA, Answer::ServFail);
    let outcome = resolver.lookup(&host("app"), Some("app.b.test")).await;
    assert_eq!(outcome.absolute.as_deref(), Some("app.b.test"));
    server.set("app.b.test", A, Answer::ServFail);
    let outcome = resolver.lookup(&host("app"), Some("app.b.test")).await;
    assert!(matches!(outcome.result, Err(LookupFailure::Server(_))));
    let absolute = resolver.lookup(&host("app."), None).await;
    assert_eq!(absolute.absolute.as_deref(), Some("app"));
}

#[tokio::test]
async fn a_service_has_the_addresses_of_its_targets() {
    let server = DnsServer::start();
    let name = "_http._tcp.app.test";
    let records = vec![
        service(name, 30, [10, 60, 8001], "a.test"),
        service(name, 30, [20, 0, 8002], "b.test"),
        service(name, 30, [10, 5, 8003], "gone.test"),
    ];
    server.set(name, SRV, Answer::Records(records));
    server.set_addresses("a.test", 5, &["127.0.0.2", "127.0.0.3"]);
    server.set_addresses("b.test", 60, &["127.0.0.4"]);
    let (resolver, _files) = resolver("", "", &[server.address]);
    let lookup = LookupName::Service(name.to_owned());
    assert_eq!(
        found(&resolver, &lookup).await.unwrap(),
        [
            "10 127.0.0.2:8001 60",
            "10 127.0.0.3:8001 60",
            "20 127.0.0.4:8002 0"
        ]
    );
    let answer = resolver.lookup(&lookup, None).await.result.unwrap();
    assert_eq!(answer.ttl, Duration::from_secs(5));
    server.set("a.test", A, Answer::ServFail);
    let answer = resolver.lookup(&lookup, None).await.result.unwrap();
    let both = [Family::V4, Family::V6].map(|family| ("a.test".to_owned(), family));
    assert_eq!(answer.failed, both, "what is known about the target stays");
    let nowhere = service(name, 30, [0, 0, 0], ".");
    server.set(name, SRV, Answer::Records(vec![nowhere]));
    assert_eq!(
        found(&resolver, &lookup).await,
        Err(LookupFailure::NoRecord)
    );
}

#[tokio::test]
async fn other_hosts_are_looked_up_by_the_system() {
    let of = async |host: &str| {
        addresses_of_host(host, 80)
            .await
            .map(|found| found[0].to_string())
    };
    for (host, first) in [
        ("192.0.2.7", "192.0.2.7:80"),
        ("2001:db8::7", "[2001:db8::7]:80"),
        ("LocalHost", "127.0.0.1:80"),
    ] {
        assert_eq!(of(host).await.as_deref(), Ok(first));
    }
    // Whether or not there is a name server: no such name can exist (RFC 6761 §6.4).
    assert!(of("nowhere.invalid").await.is_err());
}
