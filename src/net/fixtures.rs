//! Sockets for unit tests.

use tokio::net::{TcpListener, TcpStream};

/// Both ends of a TCP connection on loopback.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("connect"), far.expect("accept").0)
}
