//! Sockets and buffers for unit tests.

use tokio::net::{TcpListener, TcpStream};

use super::buffer::Piece;
use super::{Buffer, Buffers, Stream, StreamSocket};

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

/// Content of a pool's buffer, with its memory.
pub(crate) fn piece(buffers: &Buffers, bytes: &[u8]) -> Piece {
    let mut buffer = Buffer::default();
    buffers.equip(&mut buffer, bytes.len());
    buffer.room()[..bytes.len()].copy_from_slice(bytes);
    buffer.filled(bytes.len());
    buffers.split_off(&mut buffer, bytes.len())
}
