//! Shares: exact without a cohort, monotone with one.

use std::collections::HashMap;

use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};

/// Two versions, and more keys of the service.
fn two(v1: &Origin, v2: &Origin, more: &str) -> String {
    format!(
        "[service.app]\nstable = \"v1\"\n{more}\n[service.app.versions]\nv1 = [\"{}\"]\nv2 = [\"{}\"]\n",
        v1.at(),
        v2.at()
    )
}

/// Sends `count` requests on each of `clients` kept-alive connections; answers how often each body came.
fn tally(proxy: &Proxy, clients: usize, count: usize) -> HashMap<String, usize> {
    let one = || {
        let mut client = proxy.client();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for _ in 0..count {
            let answer = client.get("/");
            assert_eq!(answer.status(), 200);
            *seen.entry(answer.text()).or_default() += 1;
        }
        seen
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        let mut all: HashMap<String, usize> = HashMap::new();
        for thread in threads {
            for (body, n) in thread.join().expect("a client") {
                *all.entry(body).or_default() += n;
            }
        }
        all
    })
}

#[test]
fn five_percent_of_ten_thousand_requests_are_five_hundred() {
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let proxy = serve(&two(&v1, &v2, "split = { v2 = \"5%\" }"));
    let seen = tally(&proxy, 8, 1250);
    let canary = seen["v2"];
    assert!((496..=504).contains(&canary), "{canary} of 10000");
    assert_eq!(seen["v1"] + canary, 10_000);
}

#[test]
fn a_share_of_nothing_and_of_everything_are_exact() {
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let proxy = serve(&two(&v1, &v2, "split = { v2 = \"0%\" }"));
    assert_eq!(tally(&proxy, 2, 100), HashMap::from([("v1".into(), 200)]));
    proxy.edit(&two(&v1, &v2, "split = { v2 = \"100%\" }"));
    assert_eq!(tally(&proxy, 2, 100), HashMap::from([("v2".into(), 200)]));
}

#[test]
fn one_line_moves_all_traffic_on_connections_that_are_open() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let file = |stable| {
        let (blue, green) = (blue.at(), green.at());
        format!(
            "[service.app]\nstable = \"{stable}\"\n[service.app.versions]\nblue = [\"{blue}\"]\ngreen = [\"{green}\"]\n"
        )
    };
    let proxy = serve(&file("blue"));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "blue");
    proxy.edit(&file("green"));
    assert_eq!(client.get("/").text(), "green");
    proxy.edit(&file("blue"));
    assert_eq!(client.get("/").text(), "blue");
}

const USERS: usize = 2000;
const COHORT: &str = "[service.app.cohort]\nby = [\"header:x-user\"]\nsalt = \"test\"\n";

/// Who is on the canary.
fn canaries(proxy: &Proxy) -> Vec<bool> {
    let mut client = proxy.client();
    let mut one = |user: usize| {
        let answer = client.ask(&format!(
            "GET / HTTP/1.1\r\nhost: test\r\nx-user: user-{user}\r\n\r\n"
        ));
        answer.text() == "v2"
    };
    (0..USERS).map(&mut one).collect()
}

#[test]
fn users_move_only_the_way_that_the_share_moves() {
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let at = |share| {
        two(
            &v1,
            &v2,
            &format!("split = {{ v2 = \"{share}%\" }}\n{COHORT}"),
        )
    };
    let proxy = serve(&at(5));
    let mut before = canaries(&proxy);
    let mut share_before = 5;
    for share in [25, 60, 25, 5] {
        proxy.edit(&at(share));
        let now = canaries(&proxy);
        let wrong = |(was, is): (&bool, &bool)| match share > share_before {
            true => *was && !*is,
            false => !*was && *is,
        };
        assert_eq!(
            before.iter().zip(&now).filter(|&pair| wrong(pair)).count(),
            0
        );
        let count = now.iter().filter(|&&c| c).count();
        let expected = USERS * share / 100;
        assert!(
            count.abs_diff(expected) < USERS / 25,
            "{count} at {share} %"
        );
        (before, share_before) = (now, share);
    }
}

#[test]
fn users_stand_at_the_same_place_on_every_proxy() {
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let file = two(&v1, &v2, &format!("split = {{ v2 = \"40%\" }}\n{COHORT}"));
    assert_eq!(canaries(&serve(&file)), canaries(&serve(&file)));
}

#[test]
fn who_has_no_cohort_key_is_split_exactly() {
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let proxy = serve(&two(
        &v1,
        &v2,
        &format!("split = {{ v2 = \"10%\" }}\n{COHORT}"),
    ));
    assert_eq!(tally(&proxy, 1, 100)["v2"], 10);
}

#[test]
fn a_match_is_asked_before_the_split_and_a_preview_host_before_both() {
    let (v1, v2) = (Origin::named("v1"), Origin::named("v2"));
    let (a, b) = (v1.at(), v2.at());
    let proxy = serve(&format!(
        r#"
[service.app]
stable = "v1"
[[service.app.match]]
when = {{ header.x-canary = "always" }}
to = "v2"
[service.app.versions.v1]
endpoints = ["{a}"]
preview = "old.test"
[service.app.versions.v2]
endpoints = ["{b}"]
"#
    ));
    let mut client = proxy.client();
    let mut by =
        |host: &str, canary: &str| ask(&mut client, &format!("host: {host}\r\nx-canary: {canary}"));
    assert_eq!(by("test", "no"), "v1");
    assert_eq!(by("test", "always"), "v2");
    assert_eq!(by("old.test", "always"), "v1");
}

fn ask(client: &mut Client, fields: &str) -> String {
    client
        .ask(&format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n"))
        .text()
}
