//! Sockets for unit tests.

use tokio::net::{TcpListener, TcpStream};

use super::{Stream, StreamSocket};

/// Both ends of a TCP connection on loopback: ours and that of the peer.
pub(crate) async fn tcp_pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let (near, far) = tokio::join!(StreamSocket::connect(address), listener.accept());
    (
        Stream::Clear(near.expect("connect")),
        far.expect("accept").0,
    )
}
