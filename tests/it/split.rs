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

/// The version of each user.
fn versions_of_users(proxy: &Proxy) -> Vec<String> {
    let mut client = proxy.client();
    let mut one = |user: usize| ask(&mut client, &format!("host: test\r\nx-user: user-{user}"));
    (0..USERS).map(&mut one).collect()
}

/// How many users are not where they are expected.
fn astray(is: &[String], expected: &[String]) -> usize {
    is.iter().zip(expected).filter(|(a, b)| a != b).count()
}

#[test]
fn users_move_only_when_the_share_of_their_version_changes() {
    let names = ["v1", "v2", "v3", "v4"];
    let origins = names.map(|name| (name, Origin::named(name)));
    let file = |split: &str, versions: &[&str]| {
        let at = |name: &str| {
            origins
                .iter()
                .find(|(n, _)| *n == name)
                .expect("an origin")
                .1
                .at()
        };
        let versions: Vec<_> = versions
            .iter()
            .map(|v| format!("{v} = [\"{}\"]", at(v)))
            .collect();
        let versions = versions.join("\n");
        format!(
            "[service.app]\nstable = \"v1\"\nsplit = {{ {split} }}\n{COHORT}[service.app.versions]\n{versions}\n"
        )
    };
    let proxy = serve(&file("v3 = \"20%\"", &names));
    let alone = versions_of_users(&proxy);
    proxy.edit(&file("v3 = \"20%\"", &["v1", "v3", "v4"]));
    assert_eq!(
        astray(&versions_of_users(&proxy), &alone),
        0,
        "an unused version is deleted"
    );
    proxy.edit(&file("v2 = \"20%\", v3 = \"20%\"", &names));
    let both = versions_of_users(&proxy);
    for name in ["v2", "v3"] {
        let users = both.iter().filter(|v| *v == name).count();
        assert!(users.abs_diff(USERS / 5) < USERS / 25, "{users} on {name}");
    }
    proxy.edit(&file(
        "v3 = \"20%\", v2 = \"20%\"",
        &["v4", "v3", "v2", "v1"],
    ));
    assert_eq!(
        astray(&versions_of_users(&proxy), &both),
        0,
        "the file is reordered"
    );
    for (split, gone) in [
        ("v2 = \"0%\", v3 = \"20%\"", "v2"),
        ("v2 = \"20%\", v3 = \"0%\"", "v3"),
    ] {
        proxy.edit(&file(split, &names));
        let expected: Vec<String> = both
            .iter()
            .map(|v| if v == gone { "v1" } else { v }.to_owned())
            .collect();
        assert_eq!(astray(&versions_of_users(&proxy), &expected), 0, "{split}");
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
