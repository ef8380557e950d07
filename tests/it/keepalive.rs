//! TCP keepalive on both sides: a peer that is gone without a word is noticed.

use std::net::SocketAddr;

use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, single};
use crate::support::tls::Authority;
use crate::support::until;

/// The established connections of this machine whose local port and remote port are these, and whether each has a keepalive timer,
/// as `/proc/net/tcp` tells it.
fn timers(local: Option<u16>, remote: Option<u16>) -> Vec<bool> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let port = |address: &str| {
        let (_, port) = address.split_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (from, to) = (port(columns[1]), port(columns[2]));
        let is_it = local.is_none_or(|port| from == Some(port))
            && remote.is_none_or(|port| to == Some(port));
        if is_it && columns[3] == "01" {
            found.push(columns[5].starts_with("02:"));
        }
    }
    found
}

/// While an answer isn't acknowledged yet, the table shows the timer for that instead.
#[track_caller]
fn all_are_kept(who: &str, local: Option<u16>, remote: Option<u16>) {
    until(who, || {
        let timers = timers(local, remote);
        (!timers.is_empty() && timers.iter().all(|kept| *kept)).then_some(())
    });
}

#[test]
fn both_sides_of_a_request_are_kept_alive() {
    let origin = Origin::named("blue");
    let authority = Authority::new();
    let builder = Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
         [listen.plain]\nbind = \"127.0.0.1:$PORT\"\n\
         [listen.tls]\nbind = \"127.0.0.1:$PORT2\"\n\
         [[listen.tls.cert]]\ncert = \"$DIR/a.pem\"\nkey = \"$DIR/a.key\"\n{}",
        single(&origin.at(), "")
    ));
    authority.issue(&["shop.test"]).save(builder.dir(), "a");
    let proxy = builder.start();
    let mut plain = proxy.client();
    assert_eq!(plain.get("/").text(), "blue");
    let stream = authority.connect(proxy.port2, "shop.test", &["http/1.1"]);
    let mut secure = Client::over(stream.expect("a handshake"));
    let answer = secure.ask("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    assert_eq!(answer.text(), "blue");
    all_are_kept("the plain client", Some(proxy.port), None);
    all_are_kept("the client over TLS", Some(proxy.port2), None);
    all_are_kept("the upstream connection", None, Some(port_of(&origin)));
}

#[test]
fn listeners_that_are_taken_over_and_those_of_a_reload_are_kept_alive_too() {
    let origin = Origin::named("blue");
    let proxy = crate::support::proxy::before(&origin.at());
    let next = proxy.successor().expect("it takes over");
    let is_kept = |proxy: &Proxy| {
        let mut client = proxy.client();
        assert_eq!(client.get("/").text(), "blue");
        all_are_kept("the client", Some(proxy.port), None);
    };
    is_kept(&next);
    next.edit(&single(&origin.at(), "timeouts.idle = \"5m\""));
    is_kept(&next);
}

fn port_of(origin: &Origin) -> u16 {
    let address: SocketAddr = origin.at().parse().expect("an address");
    address.port()
}
