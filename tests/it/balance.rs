//! Balancing through the real binary, with two workers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};

fn four() -> Vec<Origin> {
    ["a", "b", "c", "d"].map(Origin::named).into()
}

fn file(balance: &str, endpoints: &[String]) -> String {
    let all: Vec<_> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    format!(
        "[service.app]\nstable = \"v1\"\nbalance = \"{balance}\"\n{}\n\
         [service.app.versions]\nv1 = [{}]\n",
        match balance {
            "hash" => "hash_by = [\"header:x-user\"]",
            _ => "",
        },
        all.join(", ")
    )
}

/// Who answers each of 200 users, over connections of their own.
fn places(proxy: &Proxy) -> Vec<String> {
    let ask = |user: usize| {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\nx-user: {user}\r\n\r\n");
        proxy.client().ask(&request).text()
    };
    (0..200).map(ask).collect()
}

#[test]
fn a_hash_keeps_users_where_they_are_and_moves_few() {
    let origins = four();
    let all: Vec<String> = origins.iter().map(Origin::at).collect();
    let proxy = serve(&file("hash", &all));
    let first = places(&proxy);
    let mut counts = BTreeMap::<_, usize>::new();
    for place in &first {
        *counts.entry(place.clone()).or_default() += 1;
    }
    assert_eq!(counts.len(), 4);
    assert!(counts.values().all(|n| (25..=85).contains(n)), "{counts:?}");
    assert_eq!(places(&proxy), first, "the same on every worker");
    proxy.edit(&file("hash", &all[..3]));
    for (before, after) in first.iter().zip(places(&proxy)) {
        match before.as_str() {
            "d" => assert_ne!(after, "d"),
            _ => assert_eq!(*before, after, "moved without need"),
        }
    }
    proxy.edit(&file("hash", &all));
    assert_eq!(places(&proxy), first, "it has its users back");
}

#[test]
fn peak_ewma_goes_where_answers_are_fast() {
    let fast = Origin::named("fast");
    let slow = Origin::each(|_, conn| {
        conn.wait(Duration::from_millis(60))?;
        conn.reply(200, "slow")
    });
    let proxy = serve(&file("peak_ewma", &[slow.at(), fast.at()]));
    let mut clients = [proxy.client(), proxy.client()];
    for n in 0..200 {
        assert_eq!(clients[n % 2].get("/").status(), 200);
    }
    assert!(slow.hits() <= 10, "{} of 200 were slow", slow.hits());
}

#[test]
fn turns_are_taken_by_weight() {
    let origins = four();
    let weights = [1, 2, 3, 4];
    let all = origins.iter().zip(weights);
    let all: Vec<String> = all.map(|(o, w)| format!("{} weight={w}", o.at())).collect();
    let proxy = serve(&file("round_robin", &all));
    let mut client = proxy.client();
    for round in 1..=10 {
        for _ in 0..10 {
            assert_eq!(client.get("/").status(), 200);
        }
        let hits: Vec<usize> = origins.iter().map(Origin::hits).collect();
        assert_eq!(hits, weights.map(|w| w * round), "round {round}");
    }
}
