//! The driver with a scripted name server.

use super::*;
use crate::config;

use scripted_server::{A, AAAA, Answer, DnsServer};
use tokio::task::LocalSet;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the integration tests"
)]
#[path = "../../tests/support/dns.rs"]
mod scripted_server;

const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration with these endpoints, whose names the server knows.
fn spec(server: &DnsServer, endpoints: &str) -> Spec {
    let text = format!(
        "listen = \":80\"\n[dns]\nservers = [\"{}\"]\n[service.s]\nversions = {{ v = [{endpoints}] }}\n",
        server.address
    );
    config::parse(&text, "t.toml").expect("a valid file")
}

fn addresses(discovery: &Discovery, name: &str) -> Option<usize> {
    let name = LookupName::Host(name.to_owned());
    discovery.with_resolutions(|all| all.get(&name).map(|set| set.len()))
}

async fn until(discovery: &Discovery, name: &str, count: usize) {
    let wait = async {
        while addresses(discovery, name) != Some(count) {
            discovery.news().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the addresses change");
}

#[tokio::test]
async fn names_are_followed_while_the_configuration_has_them() {
    let local = LocalSet::new();
    let test = async {
        let server = DnsServer::start();
        server.set_addresses("a.test", 0, &["127.0.0.2"]);
        server.set_addresses("b.test", 300, &["127.0.0.3"]);
        let discovery = Discovery::start();
        discovery.adopt(&spec(
            &server,
            "\"a.test.:80\", \"b.test.:80\", \"c.test.:80\"",
        ));
        discovery.first_round(PATIENCE).await;
        let counts = ["a.test.", "b.test.", "c.test."].map(|name| addresses(&discovery, name));
        assert_eq!(counts, [Some(1), Some(1), Some(0)]);
        server.set_addresses("a.test", 0, &["127.0.0.2", "127.0.0.4"]);
        until(&discovery, "a.test.", 2).await;
        server.set("a.test", A, Answer::ServFail);
        server.set_addresses("c.test", 0, &["127.0.0.5"]);
        until(&discovery, "c.test.", 1).await;
        assert_eq!(
            addresses(&discovery, "a.test."),
            Some(2),
            "the last good set"
        );
        assert_eq!(
            server.queries("b.test", AAAA),
            1,
            "until its TTL has passed"
        );
        discovery.adopt(&spec(&server, "\"c.test.:80\""));
        assert_eq!(addresses(&discovery, "a.test."), None);
        assert_eq!(discovery.known().lock().unwrap().len(), 1);
    };
    local.run_until(test).await;
}

#[tokio::test]
async fn inherited_addresses_serve_while_the_server_is_silent() {
    let local = LocalSet::new();
    let test = async {
        let server = DnsServer::start();
        for kind in [A, AAAA] {
            server.set("a.test", kind, Answer::Silence);
        }
        let before = Discovery::start();
        server.set_addresses("a.test", 1, &["127.0.0.2"]);
        server.set("a.test", AAAA, Answer::Records(Vec::new()));
        before.adopt(&spec(&server, "\"a.test.:80\""));
        before.first_round(PATIENCE).await;
        for kind in [A, AAAA] {
            server.set("a.test", kind, Answer::Silence);
        }
        let successor = Discovery::start();
        successor.adopt(&spec(&server, "\"a.test.:80\""));
        successor.first_round(Duration::from_millis(20)).await;
        assert_eq!(addresses(&successor, "a.test."), Some(0));
        successor.inherit(before.sets());
        assert_eq!(addresses(&successor, "a.test."), Some(1));
    };
    local.run_until(test).await;
}
