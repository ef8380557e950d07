use std::net::{Ipv4Addr, TcpListener};

use rustix::net::sockopt;
use socket2::{Domain, Socket, Type};

use super::*;
use crate::config::spec;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

/// An endpoint by a name that has these addresses.
fn named(addresses: Vec<SocketAddr>) -> Arc<Endpoint> {
    let metrics = Telemetry::new(1).version("s", "v");
    let spec = spec::EndpointSpec {
        scheme: Scheme::Http,
        address: EndpointAddress::Name("shop.internal".into(), 80),
        weight: 1,
    };
    let endpoint = Registry::new().endpoint("s", "v", &spec, &metrics);
    endpoint.set_addresses(addresses);
    endpoint
}

/// A socket on each of these loopback addresses that accepts every connection.
fn listeners(hosts: &[u8]) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let all = hosts.iter().map(|host| {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, *host), 0)).expect("a socket");
        listener.set_nonblocking(true).expect("an option");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    });
    all.unzip()
}

/// A socket whose queue is full: connections to it wait, as those to a host that is gone do.
struct Hole {
    address: SocketAddr,
    _kept: (Socket, Vec<Socket>),
}

fn hole(host: u8) -> Hole {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any_port = SocketAddr::from(([127, 0, 0, host], 0));
    listener.bind(&any_port.into()).expect("an address");
    listener.listen(0).expect("a queue");
    let address = listener.local_addr().expect("an address");
    let waiting = (0..4).map(|_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        let _under_way = socket.connect(&address);
        socket
    });
    let waiting = waiting.collect();
    Hole {
        address: address.as_socket().expect("an IP address"),
        _kept: (listener, waiting),
    }
}

#[tokio::test]
async fn connections_are_spread_over_all_addresses_of_a_name() {
    let (listeners, addresses) = listeners(&[1, 2, 3]);
    let endpoint = named(addresses);
    let mut opened = Vec::new();
    for _ in 0..9 {
        opened.push(
            open(&endpoint, Duration::from_secs(5))
                .await
                .expect("a connection"),
        );
    }
    for listener in &listeners {
        let came = std::iter::from_fn(|| listener.accept().ok()).count();
        assert_eq!(came, 3, "{listener:?}");
    }
}

#[tokio::test]
async fn an_address_that_does_not_answer_costs_its_part_of_the_time_and_only_once() {
    let (_listeners, well) = listeners(&[1]);
    let hole = hole(2);
    let endpoint = named(vec![hole.address, well[0]]);
    let limit = Duration::from_millis(800);
    let start = Instant::now();
    open(&endpoint, limit).await.expect("the other one answers");
    let took = start.elapsed();
    assert!(took >= limit / 2 && took < limit, "{took:?}");
    for _ in 0..4 {
        let start = Instant::now();
        open(&endpoint, limit).await.expect("a connection");
        assert!(start.elapsed() < limit / 2, "it is tried last now");
    }
}

#[tokio::test]
async fn what_all_addresses_take_together_is_within_the_limit() {
    let holes = [hole(1), hole(2), hole(3)];
    let endpoint = named(holes.iter().map(|hole| hole.address).collect());
    let (start, limit) = (Instant::now(), Duration::from_millis(300));
    let failed = open(&endpoint, limit).await.expect_err("nobody answers");
    assert!(matches!(failed, ConnectError::Timeout), "{failed:?}");
    let took = start.elapsed();
    assert!(took >= limit && took < limit * 2, "{took:?}");
}

#[tokio::test]
async fn options_of_an_opened_connection() {
    let (_listeners, addresses) = listeners(&[1]);
    let endpoint = named(addresses);
    endpoint.set_pause(Duration::from_secs(240));
    let opened = open(&endpoint, Duration::from_secs(5))
        .await
        .expect("a connection");
    let socket = opened.stream.descriptor();
    assert_eq!(sockopt::socket_keepalive(socket), Ok(true));
    let pause = sockopt::tcp_user_timeout(socket);
    assert_eq!(pause, Ok(240_000), "as long as the service says");
    let algorithm = sockopt::tcp_congestion(socket).expect("option");
    assert_eq!(algorithm, "reno", "over loopback");
}

#[test]
fn what_this_process_lacks_is_told_apart_from_what_the_peer_does() {
    let of = |code: Errno| ConnectError::Io(io::Error::from_raw_os_error(code.raw_os_error()));
    for code in [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL] {
        let error = of(code);
        assert!(
            error.is_local() && error.duplicate().is_local(),
            "{error:?}"
        );
        assert_eq!(error.duplicate().reason().as_str(), "no-descriptors");
    }
    for error in [
        of(Errno::CONNREFUSED),
        ConnectError::Timeout,
        ConnectError::Unresolved,
    ] {
        assert!(!error.is_local(), "{error:?}");
        assert_eq!(error.duplicate().reason(), error.reason());
    }
    let tls = ConnectError::Tls("bad certificate".into());
    assert_eq!(tls.duplicate().reason().as_str(), "upstream-tls");
    assert_eq!(tls.duplicate().to_string(), "bad certificate");
}
