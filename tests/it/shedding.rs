//! Connections that hold a place and do nothing with it: each stage has one time limit, and gives way to newcomers before that.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::client::{Client, End};
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, single};
use crate::support::tls::Authority;
use crate::support::{PATIENCE, until_within};

/// One worker, so that every connection is among those that it may shed; a listener in clear text and one with TLS.
fn serve(limits: &str, origin: &Origin, authority: &Authority) -> Proxy {
    let builder = Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         [listen.plain]\nbind = \"127.0.0.1:$PORT\"\n\
         [listen.tls]\nbind = \"127.0.0.1:$PORT2\"\n\
         [[listen.tls.cert]]\ncert = \"$DIR/a.pem\"\nkey = \"$DIR/a.key\"\n\
         [limits]\n{limits}\n{}",
        single(&origin.at(), "")
    ));
    authority.issue(&["shop.test"]).save(builder.dir(), "a");
    builder.start()
}

/// Answers at once, except `/hold`.
fn origin() -> Origin {
    Origin::each(|request, conn| match request.target().as_str() {
        "/hold" => conn.peer_closes(4 * PATIENCE).map(drop),
        _ => conn.reply(200, "yes"),
    })
}

fn plain(proxy: &Proxy, bytes: &str) -> Client {
    let mut client = proxy.client();
    client.send(bytes);
    client
}

/// A TCP connection to the TLS listener with these bytes on it.
fn in_handshake(proxy: &Proxy, bytes: &[u8]) -> Client {
    let mut client = Client::new(proxy.port2);
    client.send(bytes);
    client
}

/// TLS is agreed on, and nothing more.
fn after_handshake(proxy: &Proxy, authority: &Authority, alpn: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = authority
        .connect(proxy.port2, "shop.test", &[alpn])
        .expect("a handshake");
    stream.write_all(bytes).expect("it takes the bytes");
    stream.sock
}

/// The beginning of a `ClientHello`.
const HELLO: &[u8] = &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The head of a HEADERS frame without END_HEADERS (RFC 9113 §6.2), of 5 bytes that don't come.
const HALF_HEADERS: &str = "\0\0\x05\x01\0\0\0\0\x01";
const SETTINGS: &str = "\0\0\0\x04\0\0\0\0\0";

#[test]
fn every_stage_of_a_connection_gives_way_to_newcomers() {
    let (origin, authority) = (origin(), Authority::new());
    let proxy = serve("connections = 11", &origin, &authority);
    let mut kept = proxy.client();
    assert_eq!(kept.get("/").text(), "yes");
    let mut stages = vec![
        ("kept alive", kept),
        ("silent", proxy.client()),
        ("one byte", plain(&proxy, "P")),
        ("half a preface", plain(&proxy, &PREFACE[..20])),
        ("a preface", plain(&proxy, PREFACE)),
        (
            "half a head in HTTP/2",
            plain(&proxy, &format!("{PREFACE}{SETTINGS}{HALF_HEADERS}")),
        ),
        ("half a head", plain(&proxy, "GET / HTTP/1.1\r\nhost: te")),
        ("before its hello", in_handshake(&proxy, b"")),
        ("half a hello", in_handshake(&proxy, HELLO)),
    ];
    for (name, alpn) in [("silent in TLS", "http/1.1"), ("silent in HTTP/2", "h2")] {
        let socket = after_handshake(&proxy, &authority, alpn, b"");
        stages.push((name, Client::over(socket)));
    }
    assert_eq!(stages.len(), 11);
    let start = Instant::now();
    let newcomers: Vec<Client> = (0..stages.len())
        .map(|_| plain(&proxy, "GET /hold HTTP/1.1\r\nhost: test\r\n\r\n"))
        .collect();
    until_within(
        Duration::from_secs(4),
        "all newcomers are served, each in another one's place",
        || (origin.hits() == 1 + newcomers.len()).then_some(()),
    );
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(500),
        "{took:?}: a new connection has a second"
    );
    let still: Vec<_> = stages
        .iter_mut()
        .filter_map(|(name, client)| (client.rest_within(PATIENCE) == End::Open).then_some(*name))
        .collect();
    assert!(still.is_empty(), "still there: {still:?}");
}

#[test]
fn a_crowd_of_dribblers_keeps_a_newcomer_waiting_for_a_second_at_most() {
    let (origin, authority) = (origin(), Authority::new());
    let proxy = serve("connections = 40", &origin, &authority);
    for start in ["P", "GET /"] {
        let crowd: Vec<Client> = (0..40).map(|_| plain(&proxy, start)).collect();
        let began = Instant::now();
        assert_eq!(proxy.get("/").text(), "yes");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?} behind {start:?}");
        drop(crowd);
    }
    let crowd: Vec<Client> = (0..40).map(|_| in_handshake(&proxy, HELLO)).collect();
    let began = Instant::now();
    assert_eq!(proxy.get("/").text(), "yes");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?} behind handshakes");
    drop(crowd);
}

/// Between these bounds, whatever else the machine does.
#[track_caller]
fn ends_between(mut client: Client, least_ms: u64, most_ms: u64, began: Instant) {
    assert_eq!(client.rest_within(PATIENCE), End::Closed);
    let took = began.elapsed();
    let bounds = Duration::from_millis(least_ms)..Duration::from_millis(most_ms);
    assert!(bounds.contains(&took), "{took:?}, not in {bounds:?}");
}

#[test]
fn a_silent_connection_lives_as_long_as_keep_alive_allows_and_no_longer() {
    let (origin, authority) = (origin(), Authority::new());
    let limits = "keepalive_timeout = \"800ms\"";
    let proxy = serve(limits, &origin, &authority);
    let began = Instant::now();
    let silent = proxy.client();
    ends_between(silent, 790, 1500, began);
}

#[test]
fn a_handshake_has_the_time_of_a_handshake() {
    let (origin, authority) = (origin(), Authority::new());
    let limits = "handshake_timeout = \"500ms\"";
    let proxy = serve(limits, &origin, &authority);
    for hello in [&b""[..], HELLO] {
        let began = Instant::now();
        ends_between(in_handshake(&proxy, hello), 490, 1200, began);
    }
}

#[test]
fn a_head_has_one_limit_whichever_protocol_it_may_become() {
    let (origin, authority) = (origin(), Authority::new());
    let limits = "header_timeout = \"800ms\"";
    let proxy = serve(limits, &origin, &authority);
    // Half a preface that never becomes whole, and one that turns out to be HTTP/1 when half of its time is over.
    for rest in ["", "x"] {
        let began = Instant::now();
        let mut client = plain(&proxy, "PRI * HTTP/2.0\r\n\r\nS");
        if !rest.is_empty() {
            crate::support::pause(Duration::from_millis(400));
            client.send(rest);
        }
        let answer = client.answer("GET");
        let took = began.elapsed();
        assert!(
            matches!(answer.status(), 400 | 408 | 505),
            "{}",
            answer.status()
        );
        assert!(
            took < Duration::from_millis(1500),
            "{took:?} after {rest:?}"
        );
    }
    let began = Instant::now();
    let mut client = plain(&proxy, "P");
    crate::support::pause(Duration::from_millis(400));
    client.send("OST / HTTP/1.1\r\nhost: te");
    assert_eq!(client.answer("POST").status(), 408);
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(790) && took < Duration::from_millis(1190),
        "{took:?}: not anew from where the protocol was clear"
    );
}
