//! TLS towards endpoints: own authorities, names, client certificates, and files that change.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, Stream};

use crate::support::dns::{Answer, DnsServer, SRV, service};
use crate::support::h2_origin::H2Origin;
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Builder, Proxy, command};
use crate::support::tls::{Authority, Identity};
use crate::support::{free_port, until};

/// A service whose only version has this endpoint and these settings of TLS, with health checks.
fn file(endpoint: &str, tls: &str) -> String {
    format!(
        "[service.app]\nstable = \"v1\"\n\
         [service.app.health]\npath = \"/\"\ninterval = \"20ms\"\ntimeout = \"5s\"\n\
         [service.app.outlier]\nconsecutive_5xx = 0\nconsecutive_gateway = 0\n\
         [service.app.versions.v1]\nendpoints = [\"{endpoint}\"]\n{tls}\n"
    )
}

/// A proxy with the authority in `ca.pem`, and a certificate for clients in `client.pem` and `client.key`.
fn start(authority: &Authority, client: Option<&Identity>, text: &str) -> Proxy {
    let builder = Builder::rest(text);
    authority.save(&builder.dir().join("ca.pem"));
    if let Some(client) = client {
        client.save(builder.dir(), "client");
    }
    builder.start()
}

/// Why the last check of the only endpoint failed.
fn reason(proxy: &Proxy) -> String {
    let endpoint = || proxy.status()["services"][0]["versions"][0]["endpoints"][0].clone();
    until("a failed check", || {
        endpoint()["reason"].as_str().map(str::to_owned)
    })
}

fn secure(origin: &Origin) -> String {
    format!("https://{}", origin.at())
}

/// Answers every request with the certificate that the client has shown, in hex.
fn shows_certificates(config: Arc<ServerConfig>) -> Origin {
    Origin::script(move |conn: &mut Conn| {
        let mut session = ServerConnection::new(config.clone()).expect("a session");
        loop {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                let mut stream = Stream::new(&mut session, &mut conn.io);
                if stream.read(&mut byte)? == 0 {
                    return Ok(());
                }
                head.push(byte[0]);
            }
            let chain = session.peer_certificates().unwrap_or_default();
            let body = chain.first().map_or(String::new(), |leaf| hex(leaf));
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            Stream::new(&mut session, &mut conn.io).write_all(answer.as_bytes())?;
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_authority_of_ones_own_is_believed_and_no_other() {
    let authority = Authority::new();
    let origin = Origin::tls("v1", &authority.issue(&["127.0.0.1"]), &[]);
    let own = start(
        &authority,
        None,
        &file(&secure(&origin), "tls = { ca = \"$DIR/ca.pem\" }"),
    );
    assert_eq!(own.client().get("/").text(), "v1");
    let system = start(&authority, None, &file(&secure(&origin), ""));
    assert_eq!(
        reason(&system),
        "no connection: TLS: the endpoint's certificate was not issued by a known authority (unknown issuer)"
    );
    let answer = system.client().get("/");
    assert_eq!(answer.status(), 502);
    assert_eq!(
        answer.field("x-cutover-reason").as_deref(),
        Some("upstream-tls")
    );
}

#[test]
fn the_name_to_verify_can_be_given_and_a_wrong_one_is_explained() {
    let authority = Authority::new();
    let identity = authority.issue(&["shop.internal", "shop.test"]);
    let origin = Origin::tls("v1", &identity, &[]);
    let wrong = start(
        &authority,
        None,
        &file(&secure(&origin), "tls = { ca = \"$DIR/ca.pem\" }"),
    );
    assert_eq!(
        reason(&wrong),
        "no connection: TLS: the endpoint's certificate is not valid for name 127.0.0.1, only for shop.internal, shop.test"
    );
    let named = "tls = { ca = \"$DIR/ca.pem\", server_name = \"shop.internal\" }";
    let right = start(&authority, None, &file(&secure(&origin), named));
    assert_eq!(right.client().get("/").text(), "v1");
}

#[test]
fn an_expired_certificate_is_explained_with_its_date() {
    let authority = Authority::new();
    let origin = Origin::tls("v1", &authority.issue_expired(&["127.0.0.1"]), &[]);
    let proxy = start(
        &authority,
        None,
        &file(&secure(&origin), "tls = { ca = \"$DIR/ca.pem\" }"),
    );
    assert_eq!(
        reason(&proxy),
        "no connection: TLS: the endpoint's certificate has expired at 2020-01-01T00:00:00Z"
    );
}

#[test]
fn http2_endpoints_use_the_same_settings_and_new_ones_at_once() {
    let authority = Authority::new();
    let config = authority.issue(&["shop.internal"]).server(&["h2"]);
    let origin = H2Origin::script_tls(config, |exchange| exchange.reply("v1"));
    let endpoint = origin.h2c().replace("h2c://", "https://");
    let text = format!(
        "[service.app.versions.v1]\nendpoints = [\"{endpoint}\"]\n\
         tls = {{ ca = \"$DIR/ca.pem\", server_name = \"shop.internal\" }}\n"
    );
    let proxy = start(&authority, None, &text);
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "v1");
    }
    assert_eq!(origin.connections(), 1);
    // The same authority in another file is another setting.
    let file = proxy.dir().join("ca.pem");
    let both = std::fs::read_to_string(&file).unwrap().repeat(2);
    std::fs::write(&file, both).unwrap();
    until("the log of the reload", || {
        proxy.log().contains("TLS files reloaded").then_some(())
    });
    assert_eq!(client.get("/").text(), "v1");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn an_endpoint_that_requires_a_certificate_gets_it() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let config = authority.issue(&["127.0.0.1"]).server_requiring(&clients);
    let origin = shows_certificates(config);
    let client = clients.issue(&["cutover"]);
    let without = start(
        &authority,
        None,
        &file(&secure(&origin), "tls = { ca = \"$DIR/ca.pem\" }"),
    );
    let why = reason(&without);
    assert!(
        why.contains(
            "TLS: the endpoint sent the alert CertificateRequired: it requires a client certificate"
        ),
        "{why}"
    );
    let answer = without.client().get("/");
    assert_eq!(answer.status(), 502);
    assert_eq!(
        answer.field("x-cutover-reason").as_deref(),
        Some("upstream-tls")
    );
    let tls =
        "tls = { ca = \"$DIR/ca.pem\", cert = \"$DIR/client.pem\", key = \"$DIR/client.key\" }";
    let with = start(&authority, Some(&client), &file(&secure(&origin), tls));
    assert_eq!(with.client().get("/").text(), hex(&client.leaf()));
    let states = with.status()["certificates"].clone();
    assert_eq!(states[0]["service"], "app");
    assert_eq!(states[0]["version"], "v1");
    let labels = [("service", "app"), ("version", "v1")];
    let metrics = with.metrics();
    assert!(
        metrics.sum(
            "cutover_upstream_certificate_expiry_timestamp_seconds",
            &labels
        ) > 1e9
    );
    let renewed = metrics.sum(
        "cutover_upstream_certificate_last_reload_successful",
        &labels,
    );
    assert_eq!(renewed, 1.0);
    assert!(
        states[0]["expires_in_s"]
            .as_i64()
            .is_some_and(|left| left > 0)
    );
}

#[test]
fn a_renewed_certificate_is_used_at_once_and_a_worse_one_never() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let config = authority.issue(&["127.0.0.1"]).server_requiring(&clients);
    let origin = shows_certificates(config);
    let (old, new) = (clients.issue(&["old"]), clients.issue(&["new"]));
    let tls =
        "tls = { ca = \"$DIR/ca.pem\", cert = \"$DIR/client.pem\", key = \"$DIR/client.key\" }";
    let proxy = start(&authority, Some(&old), &file(&secure(&origin), tls));
    // This connection of a client keeps the same upstream connection busy before and after.
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), hex(&old.leaf()));
    new.save(proxy.dir(), "client");
    until("the log of the reload", || {
        proxy.log().contains("TLS files reloaded").then_some(())
    });
    assert_eq!(client.get("/").text(), hex(&new.leaf()));
    clients
        .issue_expired(&["worse"])
        .save(proxy.dir(), "client");
    let error = || {
        proxy.status()["certificates"][0]["error"]
            .as_str()
            .map(str::to_owned)
    };
    let error = until("an error in the status", error);
    assert!(error.contains("has expired at 2020-01-01"), "{error}");
    until("the log", || {
        let refused = "TLS files refused, keeping the previous ones";
        proxy.log().contains(refused).then_some(())
    });
    assert_eq!(client.get("/").text(), hex(&new.leaf()));
    // A broken bundle of authorities changes nothing either.
    std::fs::write(proxy.dir().join("ca.pem"), "").unwrap();
    let empty = || error_with(&proxy, "is empty");
    until("the error about the authorities", empty);
    assert_eq!(proxy.client().get("/").status(), 200);
}

/// Whether the state of the first certificate has an error with this text.
fn error_with(proxy: &Proxy, text: &str) -> Option<()> {
    let states = proxy.status()["certificates"].clone();
    states[0]["error"].as_str()?.contains(text).then_some(())
}

#[test]
fn an_authority_that_is_replaced_leaves_no_connection_of_the_old_one_in_use() {
    let (old, new) = (Authority::new(), Authority::new());
    let origin = Origin::tls("v1", &old.issue(&["127.0.0.1"]), &[]);
    let proxy = start(
        &old,
        None,
        &file(&secure(&origin), "tls = { ca = \"$DIR/ca.pem\" }"),
    );
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    new.save(&proxy.dir().join("ca.pem"));
    until("the log of the reload", || {
        proxy.log().contains("TLS files reloaded").then_some(())
    });
    // The kept connection would still work.
    let answer = client.get("/");
    assert_eq!(answer.status(), 502);
    assert_eq!(
        answer.field("x-cutover-reason").as_deref(),
        Some("upstream-tls")
    );
}

#[test]
fn check_names_the_key_of_a_file_that_is_unusable() {
    let dir = tempfile::tempdir().unwrap();
    let text = "listen = \":8080\"\n[service.app.versions.v1]\nendpoints = [\"https://app.test\"]\n\
        tls = { ca = \"none.pem\", cert = \"empty.pem\", key = \"empty.pem\" }\n";
    std::fs::write(dir.path().join("cutover.toml"), text).unwrap();
    std::fs::write(dir.path().join("empty.pem"), "").unwrap();
    let output = command(&["check", "cutover.toml"], dir.path());
    assert_eq!(output.code, 1);
    assert!(
        output.stderr.contains("cutover.toml:4:14"),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("ca none.pem"), "{}", output.stderr);
}

/// What a new client is answered.
fn first(proxy: &Proxy) -> (u16, String) {
    let answer = proxy.client().get("/");
    (answer.status(), answer.text())
}

#[test]
fn a_name_is_verified_at_each_of_its_addresses() {
    let (authority, dns, port) = (Authority::new(), DnsServer::start(), free_port());
    let at = |last: u8| ([127, 0, 0, last], port).into();
    let of_name = authority.issue(&["app.test"]);
    let _first = Origin::tls_at(at(2), "first", &of_name, &[]);
    let _second = Origin::tls_at(at(3), "second", &of_name, &[]);
    let _other = Origin::tls_at(at(4), "other", &authority.issue(&["other.test"]), &[]);
    let tls = "tls = { ca = \"$DIR/ca.pem\" }";
    let text = file(&format!("https://app.test.:{port}"), tls);
    let text = format!("[dns]\nservers = [\"{}\"]\n{text}", dns.address);
    // The name has no address before the proxy runs.
    let proxy = start(&authority, None, &text);
    assert_eq!(first(&proxy).0, 503);
    dns.set_addresses("app.test", 0, &["127.0.0.2", "127.0.0.3"]);
    for name in ["first", "second"] {
        until(&format!("{name} answers"), || {
            (first(&proxy) == (200, name.to_owned())).then_some(())
        });
    }
    dns.set_addresses("app.test", 0, &["127.0.0.4"]);
    let why = until("the other certificate is refused", || {
        let endpoint = proxy.status()["services"][0]["versions"][0]["endpoints"][0].clone();
        let is_new = endpoint["address"] == format!("https://127.0.0.4:{port}");
        let reason = endpoint["reason"].as_str().filter(|_| is_new)?;
        Some(reason.to_owned())
    });
    assert_eq!(
        why,
        "no connection: TLS: the endpoint's certificate is not valid for name app.test, only for other.test"
    );
    // It has never passed a check; panic mode tries it all the same.
    let answer = proxy.client().get("/");
    let reason = answer.field("x-cutover-reason");
    assert_eq!(
        (answer.status(), reason.as_deref()),
        (502, Some("upstream-tls"))
    );
}

#[test]
fn a_resolved_endpoint_is_verified_by_the_name_that_is_given() {
    let (authority, dns) = (Authority::new(), DnsServer::start());
    let given = Origin::tls("given", &authority.issue(&["shop.internal"]), &[]);
    let of_domain = Origin::tls("domain", &authority.issue(&["app.test"]), &[]);
    let port =
        |origin: &Origin| -> u16 { origin.at().rsplit(':').next().unwrap().parse().unwrap() };
    dns.set_addresses("app.test", 60, &["127.0.0.1"]);
    dns.set_addresses("host.test", 60, &["127.0.0.1"]);
    let srv = "_https._tcp.app.test";
    let record = service(srv, 60, [1, 1, port(&of_domain)], "host.test");
    dns.set(srv, SRV, Answer::Records(vec![record]));
    let both = format!(
        "[dns]\nservers = [\"{}\"]\n\
         [service.app]\nstable = \"v1\"\n\
         [service.app.versions.v1]\nendpoints = [\"https://dns:app.test.:{}\"]\n\
         tls = {{ ca = \"$DIR/ca.pem\", server_name = \"shop.internal\" }}\n\
         [service.srv]\nhosts = [\"srv.test\"]\n\
         [service.srv.versions.v1]\nendpoints = [\"https://srv:{srv}.\"]\n\
         tls = {{ ca = \"$DIR/ca.pem\" }}\n",
        dns.address,
        port(&given)
    );
    let proxy = start(&authority, None, &both);
    assert_eq!(first(&proxy), (200, "given".to_owned()));
    // The target of the record could be anybody's: the domain is what is verified.
    let request = "GET / HTTP/1.1\r\nhost: srv.test\r\n\r\n";
    assert_eq!(proxy.client().ask(request).text(), "domain");
}
