//! Listeners that expect a header of the PROXY protocol on every connection.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::client::{Client, End, dial};
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, single};
use crate::support::tls::Authority;
use crate::support::{Ended, free_port, until};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const REQUEST: &str = "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
/// Long enough for a refusal, which is immediate.
const SOON: Duration = Duration::from_secs(5);

/// A proxy whose listener has these keys beside `proxy_protocol`.
fn proxy(keys: &str, origin: &Origin) -> Proxy {
    builder(keys, origin).start()
}

fn builder(keys: &str, origin: &Origin) -> Builder {
    Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
         [limits]\nheader_timeout = \"1s\"\n\
         [listen.web]\nbind = \"127.0.0.1:$PORT\"\nproxy_protocol = true\n{keys}\n{}",
        single(&origin.at(), "")
    ))
}

/// A header of version 2 for a TCP connection from 192.0.2.7:12345, with these TLVs.
fn binary(command: u8, tlvs: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80];
    let length = u16::try_from(addresses.len() + tlvs.len()).expect("short");
    let length = length.to_be_bytes();
    [SIGNATURE, &[command, 0x11], &length, &addresses, tlvs].concat()
}

/// The client's address as the origin sees it, for a request behind this header.
fn client_seen(proxy: &Proxy, origin: &Origin, header: &[u8]) -> Option<String> {
    let mut client = proxy.client();
    client.send([header, REQUEST.as_bytes()].concat());
    assert_eq!(client.answer("GET").status(), 200, "{header:?}");
    origin.last().field("x-forwarded-for")
}

fn failures(proxy: &Proxy, reason: &str) -> f64 {
    let labels = [("listener", "web"), ("reason", reason)];
    proxy
        .metrics()
        .sum("cutover_client_failures_total", &labels)
}

#[test]
fn the_header_names_the_client() {
    let origin = Origin::named("v1");
    let proxy = proxy("", &origin);
    for (header, want) in [
        (
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n"[..],
            "192.0.2.7",
        ),
        (b"PROXY TCP6 2001:db8::7 ::1 12345 80\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (&binary(0x21, &[]), "192.0.2.7"),
        (&binary(0x21, &[4, 0, 1, 9]), "192.0.2.7"),
        // A check of the load balancer itself.
        (&binary(0x20, &[]), "127.0.0.1"),
    ] {
        assert_eq!(client_seen(&proxy, &origin, header).as_deref(), Some(want));
    }
}

#[test]
fn a_header_may_arrive_in_pieces() {
    let origin = Origin::named("v1");
    let proxy = proxy("", &origin);
    for header in [
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
        binary(0x21, &[]),
    ] {
        let mut socket = dial(proxy.port);
        socket.set_nodelay(true).expect("nodelay");
        let all = [&header[..], REQUEST.as_bytes()].concat();
        for byte in &all[..header.len() + 3] {
            socket.write_all(&[*byte]).expect("write");
        }
        let mut client = Client::over(socket);
        client.send(&all[header.len() + 3..]);
        assert_eq!(client.answer("GET").status(), 200);
        assert_eq!(
            origin.last().field("x-forwarded-for").as_deref(),
            Some("192.0.2.7")
        );
    }
}

#[test]
fn a_connection_without_a_valid_header_is_closed_without_an_answer() {
    let origin = Origin::named("v1");
    let proxy = proxy("", &origin);
    let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    let short_block = [SIGNATURE, &[0x21, 0x11, 0, 4, 1, 2, 3, 4]].concat();
    let longest = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let malformed: [&[u8]; 9] = [
        b"",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 80\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 0012 80\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 80\n",
        too_long.as_bytes(),
        &short_block,
        &longest,
        &binary(0x21, &[4, 0, 9, 1]),
        &binary(0x21, &[3, 0, 4, 1, 2, 3, 4]),
    ];
    for header in malformed {
        let mut client = proxy.client();
        client.send([header, REQUEST.as_bytes()].concat());
        assert_eq!(client.end_within(SOON), End::Closed, "{header:?}");
    }
    // A check of the port is no failure.
    drop(dial(proxy.port));
    until("the failures are counted", || {
        (failures(&proxy, "proxy-protocol") == malformed.len() as f64).then_some(())
    });
    assert_eq!(origin.hits(), 0);
    let log = proxy.log();
    assert!(
        log.contains("doesn't begin with a PROXY protocol header"),
        "{log}"
    );
    assert_eq!(log.matches("connections are refused").count(), 1, "{log}");
    // The next one is served.
    let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 1 80\r\n";
    assert_eq!(
        client_seen(&proxy, &origin, header).as_deref(),
        Some("192.0.2.7")
    );
}

#[test]
fn a_header_has_to_arrive_in_time() {
    let origin = Origin::named("v1");
    let proxy = proxy("", &origin);
    let mut client = proxy.client();
    client.send("PROXY TCP4 192.0.2.7");
    assert_eq!(client.end_within(SOON), End::Closed);
    until("the failure is counted", || {
        (failures(&proxy, "proxy-protocol-timeout") == 1.0).then_some(())
    });
}

#[test]
fn only_listed_peers_may_name_clients() {
    let origin = Origin::named("v1");
    let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 1 80\r\n";
    let strict = proxy("proxy_sources = [\"10.0.0.0/8\"]", &origin);
    let mut client = strict.client();
    client.send([&header[..], REQUEST.as_bytes()].concat());
    assert_eq!(client.end_within(SOON), End::Closed);
    until("the failure is counted", || {
        (failures(&strict, "proxy-protocol") == 1.0).then_some(())
    });
    let open = proxy("proxy_sources = [\"127.0.0.1\"]", &origin);
    assert_eq!(
        client_seen(&open, &origin, header).as_deref(),
        Some("192.0.2.7")
    );
    assert_eq!(origin.hits(), 1);
}

#[test]
fn clients_are_limited_and_trusted_by_the_address_in_the_header() {
    let origin = Origin::named("v1");
    let keys = "trusted_proxies = [\"198.51.100.1\"]\nclient_limits = { connections = 1 }";
    let proxy = proxy(keys, &origin);
    let open = |from: &str| {
        let mut client = proxy.client();
        client.send(format!("PROXY TCP4 {from} 10.0.0.1 1 80\r\n"));
        client
    };
    let mut first = open("192.0.2.7");
    assert_eq!(first.get("/").status(), 200);
    assert_eq!(open("192.0.2.7").end_within(SOON), End::Closed);
    assert_eq!(open("192.0.2.8").get("/").status(), 200);
    // A trusted proxy isn't limited, and is believed.
    let _trusted = open("198.51.100.1");
    let mut trusted = open("198.51.100.1");
    let answer =
        trusted.ask("GET / HTTP/1.1\r\nhost: test\r\nx-forwarded-for: 203.0.113.9\r\n\r\n");
    assert_eq!(answer.status(), 200);
    let forwarded = origin.last().field("x-forwarded-for");
    assert_eq!(forwarded.as_deref(), Some("203.0.113.9, 198.51.100.1"));
    // Once its connection is closed, the client may open another one.
    drop(first);
    until("the connection is no longer counted", || {
        let mut again = open("192.0.2.7");
        again.send(REQUEST);
        again.try_answer("GET").ok()
    });
}

#[test]
fn a_tls_handshake_follows_the_header() {
    let (origin, authority) = (Origin::named("v1"), Authority::new());
    let cert = "[[listen.web.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"";
    let builder = builder(cert, &origin);
    authority.issue(&["shop.test"]).save(builder.dir(), "shop");
    let proxy = builder.start();
    let mut socket: TcpStream = dial(proxy.port);
    socket.write_all(&binary(0x21, &[])).expect("write");
    let stream = authority.connect_over(socket, "shop.test", &["http/1.1"]);
    let mut client = Client::over(stream.expect("a handshake"));
    let answer = client.ask("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    assert_eq!(answer.status(), 200);
    let seen = origin.last();
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("192.0.2.7"));
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("https"));
    // TLS without a header before it is refused.
    assert!(authority.connect(proxy.port, "shop.test", &[]).is_err());
}

/// HAProxy in front, which sends version 1 to one port and version 2 with TLVs and a checksum to another.
#[test]
fn a_real_haproxy_names_its_clients() {
    if Command::new("haproxy").arg("-v").output().is_err() {
        eprintln!("skipped: haproxy isn't installed");
        return;
    }
    let origin = Origin::named("v1");
    let proxy = proxy("", &origin);
    let (v1, v2) = (free_port(), free_port());
    let text = format!(
        "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
         listen v1\n  bind 127.0.0.1:{v1}\n  server s 127.0.0.1:{port} send-proxy\n\
         listen v2\n  bind 127.0.0.1:{v2}\n  server s 127.0.0.1:{port} send-proxy-v2 proxy-v2-options crc32c,unique-id check\n",
        port = proxy.port
    );
    let _haproxy = haproxy(proxy.dir(), &text);
    for port in [v1, v2] {
        let mut socket = until("haproxy accepts", || from_another_address(port));
        socket.write_all(REQUEST.as_bytes()).expect("write");
        let here = socket.local_addr().expect("an address");
        let mut client = Client::over(socket);
        assert_eq!(client.answer("GET").status(), 200);
        let seen = origin.last().field("x-forwarded-for");
        assert_eq!(seen, Some(here.ip().to_string()));
    }
    assert_eq!(failures(&proxy, "proxy-protocol"), 0.0);
}

/// An HAProxy with this configuration, whose file is in `dir`.
pub(crate) fn haproxy(dir: &Path, configuration: &str) -> Ended {
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, configuration).expect("write");
    let mut haproxy = Command::new("haproxy");
    haproxy
        .arg("-f")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ended(haproxy.spawn().expect("start haproxy"))
}

/// A connection to this port of loopback from an address that isn't HAProxy's own.
fn from_another_address(port: u16) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    let (from, to): (SocketAddr, SocketAddr) =
        (([127, 0, 0, 9], 0).into(), ([127, 0, 0, 1], port).into());
    socket.bind(&from.into()).ok()?;
    socket.connect(&to.into()).ok()?;
    Some(socket.into())
}
