//! Congestion control of connections that stay on the machine.
//!
//! Loopback doesn't get congested. Still the machine's algorithm measures every transfer, and BBR also sets a timer to pace it, which
//! took 2 to 5 % of a small request's CPU time. Reno does the least, and no kernel is without it.

use std::net::IpAddr;
use std::os::fd::AsFd;

use rustix::net::sockopt::set_tcp_congestion;

/// Lets a TCP connection to or from `peer` use Reno if that is a loopback address. On Linux, connections inherit this from the
/// listening socket.
pub(crate) fn spare_control(socket: &impl AsFd, peer: IpAddr) {
    if peer.to_canonical().is_loopback() {
        // The machine may not permit it (`net.ipv4.tcp_allowed_congestion_control`): its own algorithm does as well.
        let _ = set_tcp_congestion(socket, "reno");
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::net::sockopt::tcp_congestion;

    use super::*;

    #[test]
    fn connections_over_loopback_use_reno() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let machines = tcp_congestion(&listener).expect("the option");
        let address = listener.local_addr().expect("address");
        spare_control(&listener, address.ip());
        let client = TcpStream::connect(address).expect("connect");
        let (accepted, _) = listener.accept().expect("a connection");
        assert_eq!(tcp_congestion(&accepted).expect("the option"), "reno");
        for (other, expected) in [
            ("192.0.2.1", &*machines),
            ("::", &machines),
            ("::ffff:127.0.0.1", "reno"),
        ] {
            spare_control(&client, other.parse().expect("an address"));
            let used = tcp_congestion(&client).expect("the option");
            assert_eq!(used, expected, "{other}");
        }
    }
}
