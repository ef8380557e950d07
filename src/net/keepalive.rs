//! for which a client may pause reading. It also takes the place of `TCP_KEEPCNT`: with it set, the kernel gives up unanswered
//! probes after that time and not after a number of them (`tcp(7)`).
//! for which a client may pause reading.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Idle time before the first probe.
const IDLE: Duration = Duration::from_secs(60);
/// Time between two probes.
const INTERVAL: Duration = Duration::from_secs(15);
/// Minimum of `TCP_USER_TIMEOUT`, so that connections survive a short network failure.
const USER_TIMEOUT_MIN: Duration = Duration::from_secs(120);

/// Turns keepalive on for a TCP socket. The peer may leave data unacknowledged for `pause`, and for two minutes at least. On
/// Linux, connections inherit these options from the listening socket.
///
/// # Errors
/// The socket is not a TCP socket.
pub fn keep_alive(socket: &impl AsFd, pause: Duration) -> io::Result<()> {
    // The kernel takes a C `int` of milliseconds.
    let user_timeout = pause
        .max(USER_TIMEOUT_MIN)
        .as_millis()
        .min(i32::MAX as u128) as u32;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, IDLE)?;
    sockopt::set_tcp_keepintvl(socket, INTERVAL)?;
    sockopt::set_tcp_user_timeout(socket, user_timeout)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn accepted(pause: Duration) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        keep_alive(&listener, pause).expect("options");
        let _client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        listener.accept().expect("a connection").0
    }

    #[test]
    fn accepted_connections_have_the_options_of_their_listener() {
        let socket = accepted(Duration::from_secs(300));
        assert!(sockopt::socket_keepalive(&socket).expect("option"));
        assert_eq!(sockopt::tcp_keepidle(&socket).expect("option"), IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&socket).expect("option"), INTERVAL);
        assert_eq!(sockopt::tcp_user_timeout(&socket), Ok(300_000));
    }

    #[test]
    fn the_timeout_is_two_minutes_at_least_and_does_not_overflow() {
        let timeout = |pause| sockopt::tcp_user_timeout(accepted(pause));
        assert_eq!(timeout(Duration::from_secs(1)), Ok(120_000));
        assert_eq!(timeout(Duration::MAX), Ok(i32::MAX as u32));
    }

    #[test]
    fn other_sockets_are_refused() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        assert!(keep_alive(&one, Duration::ZERO).is_err());
    }
}
