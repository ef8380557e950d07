//! TCP keepalive: the kernel ends connections whose peer is gone without a word.
//!
//! Probes find a peer that is gone while nothing is under way; `TCP_USER_TIMEOUT` finds one that doesn't acknowledge what was
//! sent. The kernel applies the latter to a peer whose window stays closed as well, so that it must not be shorter than a client
//! may pause reading.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// How long a connection is silent before the first probe.
const IDLE: Duration = Duration::from_secs(60);
/// Time between two probes.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long a peer may leave data unacknowledged at least, however short the configured pauses are: a network may fail for a while.
const PATIENCE_MIN: Duration = Duration::from_secs(120);

/// Turns keepalive on for a TCP socket. The peer may pause for `pause`, and for two minutes at least. On Linux a listening socket
/// hands these options on to the connections that it accepts.
///
/// # Errors
/// It is no TCP socket.
pub(crate) fn keep_alive(socket: &impl AsFd, pause: Duration) -> io::Result<()> {
    // The kernel takes a C `int` of milliseconds.
    let patience = pause.max(PATIENCE_MIN).as_millis().min(i32::MAX as u128) as u32;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, IDLE)?;
    sockopt::set_tcp_keepintvl(socket, INTERVAL)?;
    sockopt::set_tcp_user_timeout(socket, patience)?;
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
    fn no_pause_is_cut_before_two_minutes_and_none_overflows() {
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
