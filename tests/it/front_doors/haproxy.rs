//! What HAProxy does by `backend`, `acl`, `cookie` and `option httpchk`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{FrontDoor, ask, field};
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::until;

/// An origin that answers with its name while the switch is on, and 503 to checks at any other time.
fn switched(name: &str) -> (Origin, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(true));
    let (name, switch) = (name.to_owned(), up.clone());
    let origin = Origin::each(move |request, conn| {
        match request.target() == "/healthz" && !switch.load(Ordering::SeqCst) {
            true => conn.reply(503, "down"),
            false => conn.reply(200, &name),
        }
    });
    (origin, up)
}

/// Sends `count` requests, and returns how many of them each origin answered.
fn shares(proxy: &Proxy, count: usize) -> BTreeMap<String, usize> {
    let mut client = proxy.client();
    let mut found = BTreeMap::new();
    for _ in 0..count {
        *found.entry(client.get("/").text()).or_default() += 1;
    }
    found
}

fn expected(shares: &[(&str, usize)]) -> BTreeMap<String, usize> {
    shares
        .iter()
        .map(|(name, n)| ((*name).to_owned(), *n))
        .collect()
}

#[test]
fn load_is_balanced_by_weight_over_what_is_up() {
    let [(one, one_up), (two, two_up), (backup, _)] = ["one", "two", "backup"].map(switched);
    one_up.store(false, Ordering::SeqCst);
    let proxy = FrontDoor::new("haproxy-balance.toml")
        .before([
            ("10.0.1.10:8080", &one),
            ("10.0.1.11:8080", &two),
            ("10.0.9.10:8080", &backup),
        ])
        .open();
    until("the check of one fails", || {
        (shares(&proxy, 8) == expected(&[("two", 8)])).then_some(())
    });
    one_up.store(true, Ordering::SeqCst);
    until("both are up", || {
        (shares(&proxy, 40) == expected(&[("one", 30), ("two", 10)])).then_some(())
    });
    let balanced = expected(&[("one", 300), ("two", 100)]);
    assert_eq!(shares(&proxy, 400), balanced);
    let denied = ask(&proxy, "GET", "any.example.com/internal/metrics", "");
    assert_eq!(denied.status(), 403);
    // A spelling that the application might take for it isn't a way in.
    assert_eq!(
        ask(&proxy, "GET", "any.example.com/%69nternal/metrics", "").status(),
        400
    );
    for switch in [one_up, two_up] {
        switch.store(false, Ordering::SeqCst);
    }
    until("the backup takes over", || {
        (shares(&proxy, 8) == expected(&[("backup", 8)])).then_some(())
    });
}

#[test]
fn a_session_stays_on_its_server_until_that_is_gone() {
    // Longer than what the random text of a cookie may contain by chance.
    let names = ["server-one", "server-two", "server-three"];
    let mut origins = names.map(|name| Some(Origin::named(name)));
    let at = |n: usize| origins[n].as_ref().expect("an origin");
    let proxy = FrontDoor::new("haproxy-sticky.toml")
        .before([
            ("10.0.1.10:8080", at(0)),
            ("10.0.1.11:8080", at(1)),
            ("10.0.1.12:8080", at(2)),
        ])
        .open();
    let first = ask(&proxy, "GET", "any.example.com/", "");
    let cookie = field(&first, "set-cookie");
    for part in ["SERVERID=", "HttpOnly", "Path=/"] {
        assert!(cookie.contains(part), "no {part} in {cookie}");
    }
    let server = first.text();
    let pair = cookie.split(';').next().expect("a pair").to_owned();
    // The cookie tells nobody which server it is.
    assert!(!names.iter().any(|name| pair.contains(name)), "{pair}");
    for _ in 0..12 {
        let answer = ask(
            &proxy,
            "GET",
            "any.example.com/",
            &format!("cookie: {pair}\r\n"),
        );
        assert_eq!(answer.text(), server);
    }
    let of_new: Vec<String> = (0..12)
        .map(|_| ask(&proxy, "GET", "any.example.com/", "").text())
        .collect();
    assert!(of_new.iter().any(|name| *name != server), "{of_new:?}");
    let gone = names
        .iter()
        .position(|name| *name == server)
        .expect("its server");
    origins[gone] = None;
    let moved = ask(
        &proxy,
        "GET",
        "any.example.com/",
        &format!("cookie: {pair}\r\n"),
    );
    assert_eq!(moved.status(), 200);
    assert_ne!(moved.text(), server);
    assert!(field(&moved, "set-cookie").starts_with("SERVERID="));
}

fn canary(origins: [&Origin; 3], network: &str) -> Proxy {
    let [one, two, canary] = origins;
    let proxy = FrontDoor::new("haproxy-canary.toml")
        .before([
            ("10.0.1.10:8080", one),
            ("10.0.1.11:8080", two),
            ("10.0.2.10:8080", canary),
        ])
        .with("10.8.0.0/16", network)
        .open();
    until("the canary passes its check", || {
        let answer = ask(&proxy, "GET", "shop.example.com/", "x-canary: always\r\n");
        (answer.text() == "v2").then_some(())
    });
    proxy
}

#[test]
fn a_canary_is_for_those_who_ask_for_it() {
    let [one, two, v2] = ["v1", "v1", "v2"].map(Origin::named);
    let outside = canary([&one, &two, &v2], "10.8.0.0/16");
    let inside = canary([&one, &two, &v2], "127.0.0.0/8");
    for (proxy, lines, version) in [
        (&outside, "", "v1"),
        (&outside, "x-canary: sometimes\r\n", "v1"),
        (&outside, "cookie: a=1; beta=yes\r\n", "v2"),
        (&outside, "cookie: beta=no\r\n", "v1"),
        (&outside, "cookie: beta=yes\r\nx-canary: never\r\n", "v1"),
        (&inside, "", "v2"),
        (&inside, "x-canary: never\r\n", "v1"),
    ] {
        let answer = ask(proxy, "GET", "shop.example.com/", lines);
        assert_eq!(answer.text(), version, "{lines}");
    }
}
