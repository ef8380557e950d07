//! Asks one name server one question: over UDP, and over TCP where the answer doesn't fit into a datagram.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Question, Reply};

/// Longest answer over UDP without EDNS is 512 bytes (RFC 1035 section 2.3.4). Servers that send more are understood too.
const DATAGRAM: usize = 4096;

/// Asks `server` within `limit`. The id should be unpredictable, as is the source port, which the kernel chooses.
///
/// # Errors
/// No connection, no answer in time (`TimedOut`), or an answer over TCP that is not one to this question.
pub(super) async fn ask(
    server: SocketAddr,
    question: &Question,
    id: u16,
    limit: Duration,
) -> io::Result<Reply> {
    let asked = async {
        match over_udp(server, question, id).await? {
            Reply::Truncated => over_tcp(server, question, id).await,
            reply => Ok(reply),
        }
    };
    timeout(limit, asked).await?
}

async fn over_udp(server: SocketAddr, question: &Question, id: u16) -> io::Result<Reply> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // A connected socket receives from this server only, and learns when its port is closed.
    socket.connect(server).await?;
    socket.send(&question.encode(id)).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match question.read(id, &buffer[..length]) {
            // A forged answer must not end the wait for the real one.
            Reply::Unrelated => {}
            reply => return Ok(reply),
        }
    }
}

/// Asks over TCP, where each message is preceded by its length in two bytes (RFC 1035 section 4.2.2).
async fn over_tcp(server: SocketAddr, question: &Question, id: u16) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let query = question.encode(id);
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], &query].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    match question.read(id, &answer) {
        Reply::Truncated | Reply::Unrelated => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "malformed answer over TCP",
        )),
        reply => Ok(reply),
    }
}

/// Whether the kernel has a route to the address. Sends nothing.
pub(super) fn has_route(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0));
    // Any port will do.
    socket.and_then(|socket| socket.connect((ip, 9))).is_ok()
}
