//! Limits what the kernel queues for a peer that doesn't read.
//!
//! By default the kernel takes up to 4 MiB for a connection (`tcp_wmem`), and as many from the other side of an exchange, because
//! the proxy reads that fast. With `TCP_NOTSENT_LOWAT` it takes only little more than fits into the peer's receive window and the
//! network: bytes that are on their way don't count, so that a fast peer over a long distance gets as much as before.

use std::io;
use std::os::fd::AsFd;

use socket2::SockRef;

/// Bytes that may wait in the kernel although the peer's window or the network has no room for them. A body moves through a pipe
/// of 1 MiB or buffers of 256 KiB, and a socket becomes writable again when half of this is left.
const UNSENT: u32 = 128 * 1024;

/// Limits the bytes that wait in a TCP socket and haven't been sent. On Linux, connections inherit this from the listening
/// socket.
///
/// # Errors
/// The socket is not a TCP socket.
pub(crate) fn limit_unsent(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_notsent_lowat(UNSENT)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_that_does_not_read_is_sent_little() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        limit_unsent(&listener).expect("the option");
        let _client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let mut accepted = listener.accept().expect("a connection").0;
        accepted.set_nonblocking(true).expect("non-blocking");
        let piece = vec![0; 64 * 1024];
        let mut taken = 0;
        let error = loop {
            match accepted.write(&piece) {
                Ok(n) => taken += n,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(taken < 1 << 20, "{taken} bytes are queued");
    }

    #[test]
    fn other_sockets_are_refused() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        assert!(limit_unsent(&one).is_err());
    }
}
