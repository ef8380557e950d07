//! Certificates that the proxy obtains itself, from a scripted authority.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::acme::{AcmeServer, Mood};
use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, single};
use crate::support::tls::Authority;
use crate::support::{free_port, until};

/// A TLS listener at `$PORT` and a clear-text one at `$PORT2`, in front of an origin.
fn file(server: &AcmeServer, names: &str, acme: &str, endpoint: &str) -> String {
    format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
         [acme]\ndirectory = \"{}\"\n{acme}\n\
         [listen.http]\nbind = \"127.0.0.1:$PORT2\"\nredirect = \"https\"\n\
         [listen.https]\nbind = \"127.0.0.1:$PORT\"\nacme = {names}\n{}",
        server.directory(),
        single(endpoint, "")
    )
}

/// Starts a proxy whose authority sends challenges to its ports.
fn start(make: impl Fn(&AcmeServer) -> String) -> (AcmeServer, Proxy) {
    // The authority needs the ports before the proxy chooses them: it is told of them by a relay.
    let (http, tls) = (free_port(), free_port());
    let server = AcmeServer::start(http, tls);
    let text = make(&server)
        .replace("$PORT2", &http.to_string())
        .replace("$PORT", &tls.to_string());
    (server, Builder::new(&text).start())
}

fn port_of(proxy: &Proxy, listener: &str) -> u16 {
    let status = proxy.status();
    let all = status["listeners"].as_array().expect("listeners").clone();
    let found = all
        .iter()
        .find(|l| l["name"] == listener)
        .expect("the listener");
    let address = found["address"].as_str().expect("an address");
    address.rsplit(':').next().unwrap().parse().unwrap()
}

pub fn get(server: &AcmeServer, port: u16, name: &str) -> Option<(u16, String)> {
    let stream = server.connect(port, name).ok()?;
    let mut client = Client::over(stream);
    let answer = client.ask(&format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n"));
    Some((answer.status(), answer.text()))
}

fn orders(proxy: &Proxy, outcome: &str) -> f64 {
    let labels = [("outcome", outcome)];
    proxy
        .metrics()
        .sum("cutover_certificate_orders_total", &labels)
}

#[test]
fn both_challenges_lead_to_certificates_that_are_kept() {
    for challenge in ["http-01", "tls-alpn-01"] {
        let origin = Origin::named("blue");
        let acme = format!("email = \"ops@example.com\"\nchallenge = \"{challenge}\"");
        let names = "[\"shop.test\", \"api.shop.test\"]";
        let (server, proxy) = start(|server| file(server, names, &acme, &origin.at()));
        let port = port_of(&proxy, "https");
        for name in ["shop.test", "api.shop.test"] {
            let answer = until("a certificate", || get(&server, port, name));
            assert_eq!(answer, (200, "blue".to_owned()), "{challenge} {name}");
        }
        assert_eq!(
            server.orders(),
            ["shop.test", "api.shop.test"],
            "one at a time, once each"
        );
        let (contact, external, accounts) = server.account();
        assert_eq!(contact, serde_json::json!(["mailto:ops@example.com"]));
        assert_eq!((external, accounts), (false, 1));
        assert_eq!(
            (orders(&proxy, "issued"), orders(&proxy, "failed")),
            (2.0, 0.0)
        );
        // The challenge's own certificate isn't shown any more, and files are private.
        let store = fs::read_dir(proxy.dir().join("state/acme"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let mut files = 0;
        for entry in fs::read_dir(store).unwrap() {
            let entry = entry.unwrap();
            files += 1;
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        assert_eq!(files, 4, "account, lock and two certificates");
        // Another process uses what is stored.
        let next = proxy.successor().expect("a takeover");
        let answer = get(&server, port, "shop.test");
        assert_eq!(answer, Some((200, "blue".to_owned())));
        assert_eq!((server.orders().len(), server.account().2), (2, 1));
        drop(next);
    }
}

#[test]
fn challenges_are_answered_before_the_redirect_and_only_for_our_names() {
    let origin = Origin::named("blue");
    let (server, proxy) = start(|server| file(server, "[\"shop.test\"]", "", &origin.at()));
    let tls = port_of(&proxy, "https");
    until("a certificate", || get(&server, tls, "shop.test"));
    let http = port_of(&proxy, "http");
    let ask = |host: &str, path: &str| {
        let mut client = Client::new(http);
        client.ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
    };
    let answer = ask("shop.test", "/.well-known/acme-challenge/abc");
    assert_eq!(answer.status(), 200);
    assert!(answer.text().starts_with("abc."), "{}", answer.text());
    assert_eq!(
        answer.field("x-cutover-reason").as_deref(),
        Some("acme-challenge")
    );
    assert_eq!(
        ask("shop.test", "/.well-known/acme-challenge/a.b").status(),
        308
    );
    assert_eq!(
        ask("other.test", "/.well-known/acme-challenge/abc").status(),
        308
    );
    assert_eq!(ask("shop.test", "/").status(), 308);
}

#[test]
fn without_a_certificate_the_proxy_runs_and_says_why() {
    let origin = Origin::named("blue");
    let (server, proxy) = start(|server| {
        server.set_mood(Mood::FailsChallenges);
        file(server, "[\"shop.test\"]", "", &origin.at())
    });
    let tls = port_of(&proxy, "https");
    until("the order fails", || {
        (orders(&proxy, "failed") == 1.0).then_some(())
    });
    let refused = server
        .connect(tls, "shop.test")
        .expect_err("no certificate");
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    let lines = |proxy: &Proxy| proxy.log().matches("has not been obtained yet").count();
    until("the log says so", || (lines(&proxy) > 0).then_some(()));
    let again = server.connect(tls, "shop.test");
    assert!(again.is_err());
    // Both are counted, by whichever worker, and neither is blamed on a client.
    let counted = |family: &str| proxy.metrics().sum(family, &[("listener", "https")]);
    until("both are counted", || {
        (counted("cutover_uncertified_handshakes_total") == 2.0).then_some(())
    });
    assert_eq!(counted("cutover_client_failures_total"), 0.0);
    assert_eq!(lines(&proxy), 1, "{}", proxy.log());
    let status = proxy.status();
    let certificate = &status["certificates"][0];
    assert_eq!(certificate["names"], serde_json::json!(["shop.test"]));
    let error = certificate["error"].as_str().unwrap_or_default();
    assert!(error.contains("the authority is in a bad mood"), "{error}");
    let text = proxy.command(&["status"]).stdout;
    assert!(text.contains("not obtained yet"), "{text}");
    assert_eq!(server.orders().len(), 1, "the next attempt comes later");
}

#[test]
fn a_name_without_a_certificate_does_not_get_that_of_another() {
    let (origin, authority) = (Origin::named("blue"), Authority::new());
    let (http, tls) = (free_port(), free_port());
    let server = AcmeServer::start(http, tls);
    server.set_mood(Mood::FailsChallenges);
    let cert = "[[listen.https.cert]]\ncert = \"$DIR/other.pem\"\nkey = \"$DIR/other.key\"\n";
    let text = format!(
        "{}{cert}",
        file(&server, "[\"shop.test\"]", "", &origin.at())
    )
    .replace("$PORT2", &http.to_string())
    .replace("$PORT", &tls.to_string());
    let builder = Builder::new(&text);
    authority
        .issue(&["other.test"])
        .save(builder.dir(), "other");
    let _proxy = builder.start();
    assert!(authority.connect(tls, "other.test", &[]).is_ok());
    let refused = authority.connect(tls, "shop.test", &[]);
    let refused = refused.expect_err("no certificate").to_string();
    assert!(refused.contains("AccessDenied"), "{refused}");
}

#[test]
fn a_limit_of_the_account_pauses_every_name() {
    let origin = Origin::named("blue");
    let (server, proxy) = start(|server| {
        server.set_mood(Mood::Limits(7200));
        file(server, "[\"a.test\", \"b.test\"]", "", &origin.at())
    });
    until("the order fails", || {
        (orders(&proxy, "failed") == 1.0).then_some(())
    });
    let log = until("a line about it", || {
        let log = proxy.log();
        log.contains("no certificate obtained").then_some(log)
    });
    assert!(log.contains("too many"), "{log}");
    assert_eq!(server.orders(), ["a.test"], "the second isn't ordered");
}

#[test]
fn an_expired_certificate_is_renewed_by_the_next_process() {
    let origin = Origin::named("blue");
    let (server, mut proxy) = start(|server| {
        server.set_days(0);
        file(server, "[\"shop.test\"]", "", &origin.at())
    });
    until("the first one is issued", || {
        (orders(&proxy, "issued") >= 1.0).then_some(())
    });
    let tls = port_of(&proxy, "https");
    assert!(get(&server, tls, "shop.test").is_none(), "it has expired");
    server.set_days(90);
    let next = proxy.successor().expect("a takeover");
    assert!(proxy.ended().success());
    let answer = until("one that is valid", || get(&server, tls, "shop.test"));
    assert_eq!(answer, (200, "blue".to_owned()));
    assert_eq!(
        server.orders().len(),
        2,
        "neither process has ordered it twice"
    );
    let text = next.command(&["status"]).stdout;
    assert!(text.contains("in 89 days"), "{text}");
}

#[test]
fn an_external_account_is_bound() {
    let origin = Origin::named("blue");
    let (http, tls) = (free_port(), free_port());
    let server = AcmeServer::start(http, tls);
    let acme = "eab_kid = \"kid-1\"\neab_hmac_file = \"$DIR/hmac\"";
    let text = file(&server, "[\"shop.test\"]", acme, &origin.at())
        .replace("$PORT2", &http.to_string())
        .replace("$PORT", &tls.to_string());
    let builder = Builder::new(&text);
    let key = builder.dir().join("hmac");
    fs::write(
        &key,
        "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n",
    )
    .unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let proxy = builder.start();
    until("a certificate", || {
        get(&server, port_of(&proxy, "https"), "shop.test")
    });
    assert!(server.account().1);
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A file whose names are ordered from a real authority, which sends its challenges to these ports.
fn file_for_pebble(directory: &str, acme: &str, endpoint: &str) -> String {
    let port = |name: &str| variable(name).expect("a port");
    let ca = variable("CUTOVER_PEBBLE_CA").expect("a path");
    format!(
        "admin = \"127.0.0.1:$ADMIN\"\nstate_dir = \"$DIR/state\"\n\
         [acme]\ndirectory = \"{directory}\"\nca = \"{ca}\"\n{acme}\n\
         [listen.http]\nbind = \"127.0.0.1:{}\"\nredirect = \"https\"\n\
         [listen.https]\nbind = \"127.0.0.1:{}\"\nacme = [\"shop.test\", \"api.shop.test\"]\n{}",
        port("PEBBLE_HTTP_PORT"),
        port("PEBBLE_TLS_PORT"),
        single(endpoint, "")
    )
}

/// Waits until both names have a valid certificate, and ends the proxy.
fn until_both_are_issued(mut proxy: Proxy) {
    until("both are issued", || {
        (orders(&proxy, "issued") == 2.0).then_some(())
    });
    let certificates = proxy.status()["certificates"].clone();
    for certificate in certificates.as_array().expect("a list") {
        assert!(
            certificate["expires_in_s"].as_i64() > Some(0),
            "{certificate}"
        );
        assert!(certificate["error"].is_null(), "{certificate}");
    }
    proxy.signal(rustix::process::Signal::TERM);
    assert!(proxy.ended().success());
}

/// With `CUTOVER_PEBBLE`, a real authority: see `tests/peers/pebble.sh`.
#[test]
fn pebble_issues_certificates() {
    let Some(directory) = variable("CUTOVER_PEBBLE") else {
        eprintln!("skipped: no authority, see tests/peers/pebble.sh");
        return;
    };
    let origin = Origin::named("blue");
    for challenge in ["http-01", "tls-alpn-01"] {
        let acme = format!("challenge = \"{challenge}\"");
        let text = file_for_pebble(&directory, &acme, &origin.at());
        until_both_are_issued(Builder::new(&text).start());
    }
}

/// As above, with an authority that refuses other accounts.
#[test]
fn pebble_binds_an_external_account() {
    let Some(directory) = variable("CUTOVER_PEBBLE_EAB") else {
        eprintln!("skipped: no authority, see tests/peers/pebble.sh");
        return;
    };
    let origin = Origin::named("blue");
    let unbound = Builder::new(&file_for_pebble(&directory, "", &origin.at())).start();
    until("an order without an external account fails", || {
        (orders(&unbound, "failed") > 0.0).then_some(())
    });
    drop(unbound);
    let kid = variable("CUTOVER_PEBBLE_KID").expect("a key's identifier");
    let acme = format!("eab_kid = \"{kid}\"\neab_hmac_file = \"$DIR/hmac\"");
    let builder = Builder::new(&file_for_pebble(&directory, &acme, &origin.at()));
    let key = builder.dir().join("hmac");
    fs::write(&key, variable("CUTOVER_PEBBLE_HMAC").expect("a key")).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    until_both_are_issued(builder.start());
}
