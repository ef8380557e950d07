//! What names stand for.

use std::sync::Arc;

use super::*;
use crate::config;

/// The endpoints of a version whose `endpoints` are these: name, weight, tier.
fn expanded(endpoints: &str, resolutions: &Resolutions) -> Option<Vec<(String, u32, u16)>> {
    let text = format!("listen = \":80\"\n[service.s]\nversions = {{ v = [{endpoints}] }}\n");
    let spec = config::parse(&text, "t.toml").expect("a valid file");
    let all = expand(&spec.services[0].versions[0], resolutions)?;
    let one = |e: PoolEndpoint| (e.spec.to_string(), e.spec.weight, e.tier);
    Some(all.into_iter().map(one).collect())
}

fn hosts(name: &str, ips: &[&str]) -> (LookupName, Arc<[ResolvedAddress]>) {
    let one = |ip: &&str| ResolvedAddress {
        priority: 0,
        ip: ip.parse().unwrap(),
        port: None,
        weight: 0,
        host: name.to_owned(),
    };
    let all = ips.iter().map(one).collect();
    (LookupName::Host(name.to_owned()), all)
}

/// Records of `_http._tcp.app`: priority, weight, port.
fn records(all: &[(u16, u16, u16)]) -> Resolutions {
    let one = |(priority, weight, port): &(u16, u16, u16)| ResolvedAddress {
        priority: *priority,
        ip: [10, 0, 0, 1].into(),
        port: Some(*port),
        weight: *weight,
        host: "a.app".to_owned(),
    };
    let name = LookupName::Service("_http._tcp.app".to_owned());
    [(name, all.iter().map(one).collect())].into()
}

fn weights_of(all: &[(u16, u16, u16)], option: &str) -> Vec<u32> {
    let endpoints = format!("\"srv:_http._tcp.app{option}\"");
    let found = expanded(&endpoints, &records(all)).unwrap();
    found.into_iter().map(|(_, weight, _)| weight).collect()
}

#[test]
fn each_address_is_an_endpoint_with_the_weight_of_its_name() {
    let resolutions = [hosts("app", &["10.0.0.1", "fd00::1"]), hosts("none", &[])].into();
    let list = "\"10.0.0.9:80\", \"https://dns:app:8443 weight=3\", \"none:80\"";
    let all = expanded(list, &resolutions).unwrap();
    let expected = [
        ("10.0.0.9:80", 1),
        ("https://10.0.0.1:8443", 3),
        ("https://[fd00::1]:8443", 3),
    ];
    assert_eq!(
        all,
        expected.map(|(name, weight)| (name.to_owned(), weight, 0))
    );
    assert_eq!(expanded("\"10.0.0.9:80\"", &resolutions), None);
}

#[test]
fn an_address_that_occurs_twice_is_one_endpoint() {
    let resolutions = [
        hosts("a", &["10.0.0.1", "10.0.0.2"]),
        hosts("b", &["10.0.0.2"]),
    ]
    .into();
    let all = expanded(
        "\"10.0.0.1:80 weight=5\", \"a:80\", \"b:80\", \"b:81\"",
        &resolutions,
    );
    let names: Vec<_> = all.unwrap().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.2:81"]);
}

#[test]
fn both_addresses_of_this_machine_are_one_endpoint() {
    let resolutions = [hosts("localhost", &["127.0.0.1", "::1"])].into();
    let all = expanded("\"localhost:80\"", &resolutions).unwrap();
    assert_eq!(all, [("127.0.0.1:80".to_owned(), 1, 0)]);
    let resolutions = [hosts("localhost", &["127.0.0.1", "127.0.0.2"])].into();
    assert_eq!(expanded("\"localhost:80\"", &resolutions).unwrap().len(), 2);
}

#[test]
fn a_name_that_was_not_looked_up_is_one_endpoint() {
    let all = expanded("\"app:80\", \"srv:_x._tcp.app\"", &Resolutions::new()).unwrap();
    let names: Vec<_> = all.into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["app:80", "srv:_x._tcp.app"]);
}

#[test]
fn priorities_become_tiers_and_ports_are_those_of_the_records() {
    let all = [(20, 1, 8002), (10, 1, 8001), (20, 1, 8003), (20, 1, 0)];
    let found = expanded("\"h2c://srv:_http._tcp.app\"", &records(&all)).unwrap();
    let expected = [(8002, 1), (8001, 0), (8003, 1)];
    let expected = expected.map(|(port, tier)| (format!("h2c://10.0.0.1:{port}"), 1, tier));
    assert_eq!(found, expected);
}

#[test]
fn weights_keep_their_proportions() {
    assert_eq!(weights_of(&[(0, 0, 1), (0, 0, 2)], ""), [1, 1]);
    assert_eq!(weights_of(&[(0, 0, 1), (0, 0, 2)], " weight=7"), [7, 7]);
    assert_eq!(
        weights_of(&[(0, 60, 1), (0, 40, 2), (0, 0, 3)], ""),
        [60, 40, 1]
    );
    assert_eq!(
        weights_of(&[(0, 60, 1), (0, 40, 2)], " weight=2"),
        [120, 80]
    );
    assert_eq!(
        weights_of(&[(0, 65_535, 1), (0, 32_768, 2), (0, 1, 3)], ""),
        [1000, 500, 1]
    );
}

#[test]
fn the_domain_of_a_service_has_no_service_labels() {
    assert_eq!(domain_of("_http._tcp.shop.internal"), "shop.internal");
    assert_eq!(domain_of("shop.service.consul"), "shop.service.consul");
    assert_eq!(domain_of("_x"), "_x");
}
