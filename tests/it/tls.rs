//! TLS listeners: certificates by name, protocols by ALPN, renewals without a restart.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::upgrade::{HANDSHAKE, bytes_back};
use crate::support::client::{Client, End, dial};
use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, command, single};
use crate::support::tls::{Authority, Identity};
use crate::support::{block_on, noise, until};

const HEAD: &str = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
    [listen.plain]\nbind = \"127.0.0.1:$PORT2\"\nredirect = \"https\"\n\
    [listen.tls]\nbind = \"127.0.0.1:$PORT\"\n";

/// A TLS listener with these certificates (file name, names) in front of an endpoint.
pub fn secure(certs: &[(&str, &Identity)], endpoint: &str) -> Proxy {
    let mut text = HEAD.to_owned();
    for (name, _) in certs {
        text.push_str(&format!(
            "[[listen.tls.cert]]\ncert = \"$DIR/{name}.pem\"\nkey = \"$DIR/{name}.key\"\n"
        ));
    }
    text.push_str(&single(endpoint, ""));
    let builder = Builder::new(&text);
    for (name, identity) in certs {
        identity.save(builder.dir(), name);
    }
    builder.start()
}

/// The certificate that is shown to who asks for `name`.
fn shown(proxy: &Proxy, authority: &Authority, name: &str) -> CertificateDer<'static> {
    let stream = authority
        .connect(proxy.port, name, &[])
        .expect("a handshake");
    let chain = stream.conn.peer_certificates().expect("a certificate");
    chain[0].clone().into_owned()
}

fn get(proxy: &Proxy, authority: &Authority, name: &str, host: &str) -> u16 {
    let stream = authority.connect(proxy.port, name, &["http/1.1"]);
    let mut client = Client::over(stream.expect("a handshake"));
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
    client.ask(&request).status()
}

#[test]
fn certificates_are_chosen_by_name() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let exact = authority.issue(&["shop.test"]);
    let wild = authority.issue(&["*.shop.test"]);
    let proxy = secure(&[("exact", &exact), ("wild", &wild)], &origin.at());
    assert_eq!(shown(&proxy, &authority, "shop.test"), exact.leaf());
    assert_eq!(shown(&proxy, &authority, "api.shop.test"), wild.leaf());
    assert_eq!(get(&proxy, &authority, "shop.test", "shop.test"), 200);
    assert_eq!(
        origin.last().field("x-forwarded-proto").as_deref(),
        Some("https")
    );
}

#[test]
fn alpn_chooses_the_protocol() {
    let (authority, origin) = (Authority::new(), H2Origin::named("blue"));
    let identity = authority.issue(&["shop.test"]);
    let proxy = secure(&[("shop", &identity)], &origin.h2c());
    let protocol = |offer: &[&str]| {
        let stream = authority
            .connect(proxy.port, "shop.test", offer)
            .expect("a handshake");
        stream.conn.alpn_protocol().map(<[u8]>::to_vec)
    };
    assert_eq!(protocol(&["h2", "http/1.1"]).as_deref(), Some(&b"h2"[..]));
    assert_eq!(protocol(&["http/1.1"]).as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(protocol(&[]), None);
    assert_eq!(get(&proxy, &authority, "shop.test", "shop.test"), 200);
    block_on(async {
        let client = H2::connect_tls(proxy.port, "shop.test", authority.client(&["h2"])).await;
        let answer = client.get("https://shop.test/x").await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"blue"[..]));
    });
}

#[test]
fn a_renewed_certificate_is_taken_up_without_an_edit() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let (old, new) = (
        authority.issue(&["shop.test"]),
        authority.issue(&["shop.test"]),
    );
    let proxy = secure(&[("shop", &old)], &origin.at());
    let mut kept = Client::over(authority.connect(proxy.port, "shop.test", &[]).unwrap());
    assert_eq!(kept.get("/").status(), 421);
    assert_eq!(shown(&proxy, &authority, "shop.test"), old.leaf());
    new.save(proxy.dir(), "shop");
    until("the new certificate", || {
        (shown(&proxy, &authority, "shop.test") == new.leaf()).then_some(())
    });
    let request = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
    assert_eq!(kept.ask(request).status(), 200);
}

#[test]
fn a_certificate_that_does_not_fit_its_key_changes_nothing() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let (old, new) = (
        authority.issue(&["shop.test"]),
        authority.issue(&["shop.test"]),
    );
    let proxy = secure(&[("shop", &old)], &origin.at());
    let beside = tempfile::tempdir().unwrap();
    let (cert, key) = new.save(beside.path(), "new");
    std::fs::copy(cert, proxy.dir().join("shop.pem")).unwrap();
    until("it is loud", || proxy.log().contains("shop.").then_some(()));
    assert_eq!(shown(&proxy, &authority, "shop.test"), old.leaf());
    std::fs::copy(key, proxy.dir().join("shop.key")).unwrap();
    until("both halves are there", || {
        (shown(&proxy, &authority, "shop.test") == new.leaf()).then_some(())
    });
}

#[test]
fn a_host_that_the_certificate_does_not_cover_is_421() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let both = authority.issue(&["shop.test", "other.test"]);
    let proxy = secure(&[("both", &both)], &origin.at());
    assert_eq!(get(&proxy, &authority, "shop.test", "other.test"), 200);
    assert_eq!(get(&proxy, &authority, "shop.test", "evil.test"), 421);
    assert_eq!(origin.hits(), 1);
}

#[test]
fn clear_text_is_sent_to_https() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let identity = authority.issue(&["shop.test"]);
    let proxy = secure(&[("shop", &identity)], &origin.at());
    let mut client = Client::new(proxy.port2);
    let answer = client.ask("GET /a%2Fb?x=1 HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    assert!(matches!(answer.status(), 301 | 307 | 308));
    let location = answer.field("location").unwrap();
    assert_eq!(location, "https://shop.test/a%2Fb?x=1");
    assert_eq!(origin.hits(), 0);
}

#[test]
fn what_is_not_tls_harms_nobody() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let identity = authority.issue(&["shop.test"]);
    let proxy = secure(&[("shop", &identity)], &origin.at());
    let mut silent = Vec::new();
    for n in 0..20 {
        let mut client = Client::new(proxy.port);
        match n % 2 {
            0 => client.send("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n"),
            _ => silent.push(dial(proxy.port)),
        }
        if n % 2 == 0 {
            client.patience(Duration::from_secs(8));
            client.rest();
        }
    }
    assert_eq!(get(&proxy, &authority, "shop.test", "shop.test"), 200);
}

#[test]
fn clients_must_show_a_certificate_where_it_is_demanded() {
    let (authority, partners) = (Authority::new(), Authority::new());
    let origin = Origin::named("blue");
    let builder = Builder::new(&format!(
        "{HEAD}[[listen.tls.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"\n\
         client_ca = \"$DIR/partners.pem\"\n{}",
        single(&origin.at(), "")
    ));
    authority.issue(&["shop.test"]).save(builder.dir(), "shop");
    partners.save(&builder.dir().join("partners.pem"));
    let proxy = builder.start();
    let ask = |identity: Option<&Identity>| {
        let stream = authority.connect_as(proxy.port, "shop.test", &["http/1.1"], identity);
        let mut client = Client::over(stream.ok()?);
        let request = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
        client.try_send(request).ok()?;
        client.try_answer("GET").ok().map(|a| a.status())
    };
    assert_eq!(ask(None), None);
    assert_eq!(ask(Some(&authority.issue(&["stranger"]))), None);
    assert_eq!(ask(Some(&partners.issue(&["partner"]))), Some(200));
    assert_eq!(origin.hits(), 1);
}

#[test]
fn a_listener_may_refuse_old_versions_and_sessions_are_resumed_over_takeovers() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let builder = Builder::new(&format!(
        "{HEAD}tls = {{ min = \"1.3\" }}\n[[listen.tls.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"\n{}",
        single(&origin.at(), "")
    ));
    authority.issue(&["shop.test"]).save(builder.dir(), "shop");
    let first = builder.start();
    let config = authority.client(&["http/1.1"]);
    let visit = |proxy: &Proxy| {
        let stream = Authority::connect_with(config.clone(), proxy.port, "shop.test");
        let mut client = Client::over(stream.expect("a handshake"));
        // Tickets arrive behind the handshake.
        let request = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
        assert_eq!(client.ask(request).status(), 200);
    };
    let resumes = |proxy: &Proxy| {
        let stream = Authority::connect_with(config.clone(), proxy.port, "shop.test");
        let stream = stream.expect("a handshake");
        stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    };
    visit(&first);
    assert!(resumes(&first), "between workers");
    visit(&first);
    let second = first.successor().expect("it takes over");
    assert!(resumes(&second));
    let old = Authority::connect_with(authority.client_of_tls12(), second.port, "shop.test");
    let error = old.expect_err("TLS 1.2").to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
}

#[test]
fn an_ocsp_response_is_noticed_when_it_appears() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let identity = authority.issue(&["shop.test"]);
    let proxy = secure(&[("shop", &identity)], &origin.at());
    assert!(!proxy.log().contains("OCSP"), "{}", proxy.log());
    std::fs::write(proxy.dir().join("shop.pem.ocsp"), "half a response").unwrap();
    until("a warning", || {
        let log = proxy.log();
        let warning = "shop.pem.ocsp is malformed: expected DER";
        log.contains(warning).then_some(())
    });
    assert_eq!(get(&proxy, &authority, "shop.test", "shop.test"), 200);
}

/// A listener that asks for certificates of partners and takes clients without one, and rules by what a certificate says.
fn by_certificate(authority: &Authority, partners: &Authority, origin: &Origin) -> Proxy {
    let builder = Builder::new(&format!(
        "{HEAD}[[listen.tls.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"\n\
         client_ca = \"$DIR/partners.pem\"\nclient_auth = \"optional\"\n\
         [[listen.tls.cert]]\ncert = \"$DIR/open.pem\"\nkey = \"$DIR/open.key\"\n\
         [service.app]\nversions = {{ v1 = [\"{}\"] }}\n\
         headers.request.set = {{ x-san = \"{{tls.client.san}}\" }}\n\
         [[service.app.match]]\nwhen = {{ path = \"/partners/*\", not.tls.client.subject = \"*\" }}\nrespond = {{ status = 403 }}\n\
         [[service.app.match]]\nwhen = {{ path = \"/names\", tls.client.san = [\"DNS:a.partner.test\", \"URI:spiffe://test/*\"] }}\nrespond = {{ status = 410 }}\n",
        origin.at()
    ));
    authority.issue(&["shop.test"]).save(builder.dir(), "shop");
    authority.issue(&["open.test"]).save(builder.dir(), "open");
    partners.save(&builder.dir().join("partners.pem"));
    builder.start()
}

/// The status of the response to a client with this certificate; `None` if the handshake failed.
fn status_as(
    (proxy, authority): (&Proxy, &Authority),
    identity: Option<&Identity>,
    host: &str,
    target: &str,
) -> Option<u16> {
    let stream = authority.connect_as(proxy.port, "shop.test", &["http/1.1"], identity);
    let mut client = Client::over(stream.ok()?);
    let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    client.try_send(&request).ok()?;
    client.try_answer("GET").ok().map(|answer| answer.status())
}

#[test]
fn where_a_certificate_is_optional_rules_decide_by_what_it_says() {
    let (authority, partners) = (Authority::new(), Authority::new());
    let origin = Origin::named("blue");
    let proxy = by_certificate(&authority, &partners, &origin);
    let (a, b) = (
        partners.issue(&["a.partner.test"]),
        partners.issue(&["b.partner.test"]),
    );
    let at = (&proxy, &authority);
    assert_eq!(status_as(at, None, "shop.test", "/partners/x"), Some(403));
    assert_eq!(status_as(at, None, "shop.test", "/names"), Some(200));
    assert_eq!(origin.last().field("x-san"), None);
    assert_eq!(
        status_as(at, Some(&b), "shop.test", "/partners/x"),
        Some(200)
    );
    assert_eq!(
        origin.last().field("x-san").as_deref(),
        Some("DNS:b.partner.test")
    );
    assert_eq!(status_as(at, Some(&a), "shop.test", "/names"), Some(410));
    assert_eq!(status_as(at, Some(&b), "shop.test", "/names"), Some(200));
    // One of a stranger is no certificate at all, and refused.
    let stranger = authority.issue(&["a.partner.test"]);
    assert_eq!(status_as(at, Some(&stranger), "shop.test", "/names"), None);
    let expired = partners.issue_expired(&["a.partner.test"]);
    assert_eq!(status_as(at, Some(&expired), "shop.test", "/names"), None);
    // The other host has another policy.
    assert_eq!(status_as(at, Some(&a), "open.test", "/"), Some(421));
    let explain = |more: &[&str]| {
        let arguments = [&["explain", "https://shop.test/names"], more].concat();
        proxy.command(&arguments).stdout
    };
    let rule = "rule 2 (path = \"/names\" and tls.client.san = \"DNS:a.partner.test\" or \"URI:spiffe://test/*\")";
    for name in ["DNS:a.partner.test", "URI:spiffe://test/x"] {
        let said = explain(&["--client-san", name]);
        assert!(said.contains(rule), "{said}");
    }
    let said = explain(&["--client-subject", "CN=a"]);
    assert!(!said.contains(rule), "{said}");
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let (_, key) = authority.issue(&["shop.test"]).save(dir.path(), "shop");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = "[listen.tls]\nbind = \"127.0.0.1:1\"\n[[listen.tls.cert]]\ncert = \"shop.pem\"\nkey = \"shop.key\"\n";
    let text = format!("{text}{}", single("127.0.0.1:1", ""));
    std::fs::write(dir.path().join("cutover.toml"), text).unwrap();
    let said = command(&["check", "cutover.toml"], dir.path());
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("shop.key"), "{said:?}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let said = command(&["check", "cutover.toml"], dir.path());
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn a_handshake_that_does_not_end_is_cut() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let builder = Builder::new(&format!(
        "{HEAD}[[listen.tls.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"\n\
         [limits]\nhandshake_timeout = \"200ms\"\n{}",
        single(&origin.at(), "")
    ));
    authority.issue(&["shop.test"]).save(builder.dir(), "shop");
    let proxy = builder.start();
    let mut client = Client::new(proxy.port);
    // The first bytes of a ClientHello.
    client.send([0x16, 3, 1, 2, 0, 1, 0]);
    assert_eq!(client.end_within(Duration::from_secs(10)), End::Closed);
    assert_eq!(get(&proxy, &authority, "shop.test", "shop.test"), 200);
}

#[test]
fn a_tunnel_over_tls_passes_messages_large_and_small() {
    let authority = Authority::new();
    let identity = authority.issue(&["a.test"]);
    let origin = bytes_back();
    let proxy = secure(&[("a", &identity)], &origin.at());
    let stream = authority.connect(proxy.port, "a.test", &["http/1.1"]);
    let mut client = Client::over(stream.expect("a handshake"));
    client.send(HANDSHAKE.replace("test", "a.test"));
    assert_eq!(client.head().unwrap().status(), 101);
    assert_eq!(client.exact(5), b"first");
    for len in [1, 125, 70_000, 125, 200_000, 1] {
        for seed in 0..20 {
            let message = noise(seed, len);
            client.send(&message);
            assert!(client.exact(len) == message, "{len} bytes");
        }
    }
}

#[test]
fn an_expired_certificate_replaces_no_valid_one_and_is_seen() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let (old, expired) = (
        authority.issue(&["shop.test"]),
        authority.issue_expired(&["shop.test"]),
    );
    let proxy = secure(&[("shop", &old)], &origin.at());
    let renewed = |proxy: &Proxy| {
        let metrics = proxy.metrics();
        let labels = [("listener", "tls")];
        metrics.sum("cutover_certificate_last_reload_successful", &labels)
    };
    let expiry = |proxy: &Proxy| {
        let labels = [("listener", "tls"), ("name", "shop.test")];
        let metrics = proxy.metrics();
        metrics.sum("cutover_certificate_expiry_timestamp_seconds", &labels)
    };
    let before = expiry(&proxy);
    assert_eq!(renewed(&proxy), 1.0);
    expired.save(proxy.dir(), "shop");
    until("the renewal is refused", || {
        (renewed(&proxy) == 0.0).then_some(())
    });
    assert_eq!(shown(&proxy, &authority, "shop.test"), old.leaf());
    assert_eq!(expiry(&proxy), before, "of the certificate in use");
    let status = proxy.status();
    let certificate = &status["certificates"][0];
    assert_eq!(certificate["listener"], "tls");
    assert_eq!(certificate["names"], serde_json::json!(["shop.test"]));
    assert!(
        certificate["expires_in_s"].as_i64().unwrap() > 0,
        "{status:#}"
    );
    let error = certificate["error"].as_str().expect("an error");
    assert!(error.contains("has expired at 2020-01-01"), "{error}");
    assert!(certificate["error_since"].is_string(), "{status:#}");
    let said = proxy.command(&["status"]).stdout;
    for part in [
        "CERTIFICATE",
        "shop.test",
        "was not renewed",
        "has expired at 2020-01-01",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    // An edit elsewhere is adopted, with the certificate that works.
    let edited = std::fs::read_to_string(proxy.file()).unwrap() + "\n# edited\n";
    let generation = proxy.generation();
    std::fs::write(proxy.file(), edited).unwrap();
    until("the edit is adopted", || {
        (proxy.generation() > generation).then_some(())
    });
    assert_eq!(shown(&proxy, &authority, "shop.test"), old.leaf());
    let good = authority.issue(&["shop.test"]);
    good.save(proxy.dir(), "shop");
    until("the good one", || {
        (shown(&proxy, &authority, "shop.test") == good.leaf()).then_some(())
    });
    until("the error is gone", || {
        let error = &proxy.status()["certificates"][0]["error"];
        (error.is_null() && renewed(&proxy) == 1.0).then_some(())
    });
}

#[test]
fn one_bad_renewal_does_not_stop_the_others() {
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let (one, two) = (
        authority.issue(&["one.test"]),
        authority.issue(&["two.test"]),
    );
    let proxy = secure(&[("one", &one), ("two", &two)], &origin.at());
    std::fs::write(proxy.dir().join("one.pem"), "half a certificate").unwrap();
    let new = authority.issue(&["two.test"]);
    new.save(proxy.dir(), "two");
    until("the other one is renewed", || {
        (shown(&proxy, &authority, "two.test") == new.leaf()).then_some(())
    });
    assert_eq!(shown(&proxy, &authority, "one.test"), one.leaf());
    until("the bad one is told", || {
        proxy.log().contains("one.pem").then_some(())
    });
}

#[test]
fn check_and_run_say_everything_that_is_wrong_with_named_files_at_once() {
    use std::os::unix::fs::PermissionsExt;
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, "x".repeat(40)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    };
    open("token");
    open("sticky");
    let (_, key) = authority.issue(&["a.test"]).save(dir.path(), "a");
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o644)).unwrap();
    authority.issue(&["b.test"]).save(dir.path(), "b");
    let text = "state_dir = \"token/state\"\n\
                [admin]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"token\"\n\
                [listen.tls]\nbind = \"127.0.0.1:2\"\n\
                [[listen.tls.cert]]\ncert = \"a.pem\"\nkey = \"a.key\"\n\
                [[listen.tls.cert]]\ncert = \"none.pem\"\nkey = \"b.key\"\n\
                [[listen.tls.cert]]\ncert = \"b.key\"\nkey = \"b.pem\"\n\
                [service.app]\nversions = { v1 = [\"127.0.0.1:3\"] }\nsticky.key_file = \"sticky\"\n";
    std::fs::write(dir.path().join("cutover.toml"), text).unwrap();
    for arguments in [
        &["check", "cutover.toml"][..],
        &["run", "-c", "cutover.toml"],
    ] {
        let said = command(arguments, dir.path());
        assert_eq!(said.code, 1, "{said:?}");
        for part in [
            "cutover.toml:1:13",
            "not a directory",
            "cutover.toml:4:14",
            "admin token",
            "cutover.toml:9:7",
            "(mode 0644)",
            "cutover.toml:11:8",
            "none.pem",
            "cutover.toml:14:8",
            "`cert` and `key` are swapped",
            "cutover.toml:18:19",
            "sticky key",
        ] {
            assert!(
                said.stderr.contains(part),
                "no {part:?} in\n{}",
                said.stderr
            );
        }
        assert_eq!(said.stderr.matches("-->").count(), 6, "{}", said.stderr);
    }
    let said = command(&["check", "--json", "cutover.toml"], dir.path());
    let report: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(report[0]["errors"].as_array().map(Vec::len), Some(6));
    assert_eq!(report[0]["errors"][2]["line"], 9, "{report:#}");
}
