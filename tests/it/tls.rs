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
fn secure(certs: &[(&str, &Identity)], endpoint: &str) -> Proxy {
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
