//! Versions whose endpoints are told the clients' addresses by the PROXY protocol.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustls::{ServerConnection, Stream};
use socket2::{Domain, Socket, Type};

use super::proxy_protocol::haproxy;
use crate::support::client::Client;
use crate::support::h2_client::H2;
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Builder, Proxy, serve};
use crate::support::tls::Authority;
use crate::support::{Ended, block_on, free_port, until};

/// Reads the header of a connection, whole.
fn header(conn: &mut Conn) -> io::Result<Vec<u8>> {
    let mut header = conn.exact(12)?;
    if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            header.extend(conn.exact(1)?);
        }
        return Ok(header);
    }
    header.extend(conn.exact(4)?);
    let length = u16::from_be_bytes([header[14], header[15]]);
    header.extend(conn.exact(length.into())?);
    Ok(header)
}

/// Answers every request with the header of its connection, as text with escapes.
fn telling() -> Origin {
    Origin::script(|conn| {
        let header = header(conn)?.escape_ascii().to_string();
        while conn.request()?.is_some() {
            conn.reply(200, &header)?;
        }
        Ok(())
    })
}

fn file(endpoint: &str, version: &str) -> String {
    format!(
        "[service.app]\nstable = \"v1\"\n[service.app.versions.v1]\n\
         endpoints = [\"{endpoint}\"]\nproxy_protocol = \"{version}\"\n"
    )
}

/// A client on this address of loopback, and its address.
fn client_at(proxy: &Proxy, host: u8) -> (Client, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let (from, to): (SocketAddr, SocketAddr) = (
        ([127, 0, 0, host], 0).into(),
        ([127, 0, 0, 1], proxy.port).into(),
    );
    socket.bind(&from.into()).expect("an address");
    socket.connect(&to.into()).expect("a connection");
    let socket = TcpStream::from(socket);
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("timeout");
    let here = socket.local_addr().expect("an address");
    (Client::over(socket), here)
}

#[test]
fn each_connection_names_its_client_and_none_is_shared() {
    let origin = telling();
    let proxy = serve(&file(&origin.at(), "v1"));
    let mut clients = [
        client_at(&proxy, 1),
        client_at(&proxy, 9),
        client_at(&proxy, 7),
    ];
    for _ in 0..3 {
        for (client, address) in &mut clients {
            let line = format!(
                "PROXY TCP4 {} 127.0.0.1 {} {}\\r\\n",
                address.ip(),
                address.port(),
                proxy.port
            );
            assert_eq!(client.get("/").text(), line);
        }
    }
    assert_eq!(origin.connections(), 9);
    until("all are closed", || (origin.open() == 0).then_some(()));
}

#[test]
fn streams_of_one_client_have_connections_of_their_own() {
    let origin = telling();
    let proxy = serve(&file(&origin.at(), "v1"));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        for _ in 0..3 {
            let answer = client.get("http://test/").await.unwrap();
            assert!(answer.body.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "));
        }
    });
    assert_eq!(origin.connections(), 3);
}

#[test]
fn checks_of_the_proxy_are_local_and_requests_are_not() {
    let origin = telling();
    let checked = format!(
        "{}[service.app.health]\npath = \"/ready\"\ninterval = \"20ms\"\n",
        file(&origin.at(), "v2")
    );
    let local = Origin::script(|conn| {
        let header = header(conn)?;
        while let Some(request) = conn.request()? {
            let is_local = header[12] == 0x20 && header.len() == 16;
            let expected = request.target() == "/ready" || request.target() == "/copied";
            let status = if is_local == expected { 200 } else { 500 };
            conn.reply(status, "")?;
        }
        Ok(())
    });
    let proxy = serve(&checked.replace(&origin.at(), &local.at()));
    until("a check", || {
        let seen = local.requests();
        seen.iter()
            .any(|request| request.target() == "/ready")
            .then_some(())
    });
    assert_eq!(proxy.client().get("/").status(), 200);
    let endpoint = proxy.status()["services"][0]["versions"][0]["endpoints"][0].clone();
    assert_eq!(endpoint["health"], "up");
}

#[test]
fn copies_of_a_mirror_are_local() {
    let (origin, copies) = (Origin::named("v1"), telling());
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\n[service.app.versions]\nv1 = [\"{}\"]\n\
         v2 = {{ endpoints = [\"{}\"], proxy_protocol = \"v1\" }}\n[service.app.mirror]\nto = \"v2\"\ndiff = [\"status\"]\n",
        origin.at(),
        copies.at()
    ));
    assert_eq!(proxy.client().get("/").text(), "v1");
    until("the copy", || (copies.hits() == 1).then_some(()));
    // A header with an address would be an answer of another length; that the origin read a header is what counts.
    let labels = [("service", "app"), ("outcome", "same")];
    until("it is compared", || {
        let metrics = proxy.metrics();
        (metrics.sum("cutover_mirror_requests_total", &labels) == 1.0).then_some(())
    });
}

/// The value of the first TLV of this type.
fn tlv(mut tlvs: &[u8], kind: u8) -> Option<Vec<u8>> {
    while let [found, high, low, rest @ ..] = tlvs {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, behind) = rest.split_at(length);
        if *found == kind {
            return Some(value.to_vec());
        }
        tlvs = behind;
    }
    None
}

#[test]
fn version_2_tells_tls_certificate_and_request() {
    let (authority, partners) = (Authority::new(), Authority::new());
    let origin = Origin::script(|conn| {
        let header = header(conn)?;
        while conn.request()?.is_some() {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                header.len()
            );
            conn.write(&[head.as_bytes(), &header].concat())?;
        }
        Ok(())
    });
    let builder = Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
         [listen.tls]\nbind = \"127.0.0.1:$PORT\"\n\
         [[listen.tls.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"\n\
         client_ca = \"$DIR/partners.pem\"\nclient_auth = \"optional\"\n{}",
        file(&origin.at(), "v2")
    ));
    authority.issue(&["shop.test"]).save(builder.dir(), "shop");
    partners.save(&builder.dir().join("partners.pem"));
    let proxy = builder.start();
    for identity in [None, Some(partners.issue(&["partner"]))] {
        let stream =
            authority.connect_as(proxy.port, "shop.test", &["http/1.1"], identity.as_ref());
        let mut client = Client::over(stream.expect("a handshake"));
        let answer = client.ask("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n");
        assert_eq!(answer.status(), 200);
        let header = &answer.body;
        assert_eq!(header[12..14], [0x21, 0x11]);
        let tlvs = &header[16 + 12..];
        let id = tlv(tlvs, 0x05).expect("a unique id");
        assert_eq!(
            Some(String::from_utf8(id).unwrap()),
            origin.last().field("x-request-id")
        );
        assert!(tlv(tlvs, 0x03).is_some(), "a checksum");
        let tls = tlv(tlvs, 0x20).expect("about TLS");
        assert_eq!(tlv(&tls[5..], 0x21).as_deref(), Some(&b"TLSv1.3"[..]));
        let (flags, result, name) = match identity {
            None => (1, 1, None),
            Some(_) => (3, 0, Some(b"rcgen self signed cert".to_vec())),
        };
        assert_eq!(tls[..5], [flags, 0, 0, 0, result]);
        assert_eq!(tlv(&tls[5..], 0x22), name);
    }
}

#[test]
fn the_header_is_in_front_of_tls() {
    let authority = Authority::new();
    let config = authority.issue(&["127.0.0.1"]).server(&["h2", "http/1.1"]);
    let origin = Origin::script(move |conn| {
        let header = header(conn)?.escape_ascii().to_string();
        let mut session = ServerConnection::new(config.clone()).expect("a session");
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            if Stream::new(&mut session, conn).read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{header}",
            header.len()
        );
        Stream::new(&mut session, conn).write_all(answer.as_bytes())?;
        Stream::new(&mut session, conn).flush()
    });
    let text = file(&format!("https://{}", origin.at()), "v1");
    let builder = Builder::rest(&format!("{text}tls = {{ ca = \"$DIR/ca.pem\" }}\n"));
    authority.save(&builder.dir().join("ca.pem"));
    let proxy = builder.start();
    let answer = proxy.client().get("/");
    assert!(
        answer.text().starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "),
        "{}",
        answer.text()
    );
}

#[test]
fn an_edit_takes_effect_on_the_next_request_of_a_kept_connection() {
    let origin = Origin::script(|conn| {
        let first = conn.exact(3)?;
        let rest = conn.through(b"\r\n\r\n")?.unwrap_or_default();
        let head = [&first[..], &rest].concat();
        let is_announced = head.starts_with(b"PROXY ");
        conn.reply(200, if is_announced { "announced" } else { "plain" })?;
        while conn.request()?.is_some() {
            conn.reply(200, "kept")?;
        }
        Ok(())
    });
    let with = file(&origin.at(), "v1");
    let without = with.replace("proxy_protocol = \"v1\"\n", "");
    let proxy = serve(&without);
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "plain");
    assert_eq!(client.get("/").text(), "kept");
    let edit = |rest: &str| {
        let before = proxy.generation();
        proxy.edit(rest);
        until("the edit", || (proxy.generation() > before).then_some(()));
    };
    edit(&with);
    assert_eq!(client.get("/").text(), "announced");
    assert_eq!(client.get("/").text(), "announced");
    edit(&without);
    assert_eq!(client.get("/").text(), "plain");
    assert_eq!(client.get("/").text(), "kept");
}

#[test]
fn a_real_haproxy_learns_the_clients() {
    if Command::new("haproxy").arg("-v").output().is_err() {
        eprintln!("skipped: haproxy isn't installed");
        return;
    }
    let origin = Origin::named("app");
    let (v1, v2) = (free_port(), free_port());
    let dir = tempfile::tempdir().expect("a directory");
    let front = |name: &str, port: u16| {
        format!(
            "listen {name}\n  bind 127.0.0.1:{port} accept-proxy\n  http-request set-header x-source %[src]:%[src_port]\n  \
             http-request set-header x-unique %[fc_pp_unique_id]\n  server s {}\n",
            origin.at()
        )
    };
    let text = format!(
        "global\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n{}{}",
        front("one", v1),
        front("two", v2)
    );
    let _haproxy = haproxy(dir.path(), &text);
    for port in [v1, v2] {
        until("haproxy accepts", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
    }
    for (port, version) in [(v1, "v1"), (v2, "v2")] {
        let proxy = serve(&self::file(&format!("127.0.0.1:{port}"), version));
        for host in [1, 9] {
            let (mut client, address) = client_at(&proxy, host);
            assert_eq!(client.get("/").text(), "app");
            let seen = origin.last();
            assert_eq!(seen.field("x-source"), Some(address.to_string()));
            if version == "v2" {
                assert_eq!(seen.field("x-unique"), seen.field("x-request-id"));
            }
        }
    }
}

#[test]
fn a_real_nginx_learns_the_clients() {
    if Command::new("nginx").arg("-v").output().is_err() {
        eprintln!("skipped: nginx isn't installed");
        return;
    }
    let (dir, port) = (tempfile::tempdir().expect("a directory"), free_port());
    let at = dir.path().display();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\n\
         http {{\n  access_log off;\n  client_body_temp_path {at}/body;\n  proxy_temp_path {at}/proxy;\n  \
         fastcgi_temp_path {at}/fastcgi;\n  uwsgi_temp_path {at}/uwsgi;\n  scgi_temp_path {at}/scgi;\n  \
         server {{\n    listen 127.0.0.1:{port} proxy_protocol;\n    \
         return 200 $proxy_protocol_addr:$proxy_protocol_port;\n  }}\n}}\n"
    );
    let file = dir.path().join("nginx.conf");
    std::fs::write(&file, text).expect("write");
    let mut nginx = Command::new("nginx");
    nginx
        .arg("-c")
        .arg(&file)
        .arg("-e")
        .arg(dir.path().join("log"));
    nginx.stdout(Stdio::null()).stderr(Stdio::null());
    let _nginx = Ended(nginx.spawn().expect("start nginx"));
    until("nginx accepts", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    for version in ["v1", "v2"] {
        let proxy = serve(&self::file(&format!("127.0.0.1:{port}"), version));
        for host in [1, 9] {
            let (mut client, address) = client_at(&proxy, host);
            assert_eq!(client.get("/").text(), address.to_string(), "{version}");
        }
    }
}
