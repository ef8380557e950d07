//! How responses leave by HTTP/2 that an upstream has finished.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::client::Client;
use crate::support::frames::{self, frame, get_fields, kind};
use crate::support::origin::Origin;
use crate::support::proxy::before;
use crate::support::{PATIENCE, pause, until};

/// The bytes of DATA until so many streams have ended, and how many frames carried them.
#[track_caller]
fn data(client: &mut Client, mut streams: usize) -> (usize, usize) {
    let (mut bytes, mut frames) = (0, 0);
    while streams > 0 {
        let head = client.exact(9);
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        client.exact(len);
        if head[3] == kind::DATA {
            (bytes, frames) = (bytes + len, frames + 1);
            if head[4] & 1 != 0 {
                streams -= 1;
            }
        }
    }
    (bytes, frames)
}

#[cfg(not(feature = "h2-crate"))]
#[test]
fn tiny_chunks_share_frames() {
    let origin = Origin::each(|_, conn| {
        let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        bytes.extend(b"1\r\nx\r\n".repeat(5_000));
        bytes.extend(b"0\r\n\r\n");
        conn.write(&bytes)
    });
    let proxy = before(&origin.at());
    let mut client = proxy.client();
    client.send([frames::preface(), frames::request(1, &get_fields("/"))].concat());
    let (bytes, frames) = data(&mut client, 1);
    assert_eq!(bytes, 5_000);
    assert!(frames < 100, "{frames} frames");
}

#[test]
fn a_shutdown_waits_for_a_client_that_takes_finished_responses_late() {
    const STREAMS: usize = 8;
    const LENGTH: usize = 40 * 1024;
    let origin = Origin::each(|_, conn| conn.reply(200, &"x".repeat(LENGTH)));
    let mut proxy = before(&origin.at());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(1460).unwrap();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.port));
    socket.connect(&at.into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = Client::over(socket);
    // Windows that let the whole responses into the connection, which the socket doesn't take.
    let window = (1_u32 << 24).to_be_bytes();
    let settings = frame(kind::SETTINGS, 0, 0, &[&[0, 4][..], &window].concat());
    client.send(
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            settings,
            frame(kind::WINDOW_UPDATE, 0, 0, &window),
        ]
        .concat(),
    );
    for stream in (0..STREAMS as u32).map(|n| 2 * n + 1) {
        client.send(frames::request(stream, &get_fields("/")));
    }
    until("the responses are in the proxy", || {
        let labels = [("service", "app"), ("version", "v1")];
        let metrics = proxy.metrics();
        let done = metrics.sum("http_requests_total", &labels);
        (done == STREAMS as f64).then_some(())
    });
    proxy.signal(Signal::TERM);
    // Longer than a connection without anything to send is given to read the last word.
    pause(Duration::from_millis(2_500));
    assert_eq!(data(&mut client, STREAMS).0, STREAMS * LENGTH);
    drop(client);
    assert_eq!(proxy.ended().code(), Some(0));
}
