//! Who may use the admin API, and that nobody can keep others from it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, before, command};

/// Asks for more than the sockets hold, and reads nothing.
fn never_reads(admin: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // The kernel sizes both buffers by the segment: a few answers fill them.
    socket.set_tcp_mss(536).expect("short segments");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, admin));
    socket.connect(&address.into()).expect("connect");
    let mut socket = TcpStream::from(socket);
    let request = format!("GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:{admin}\r\n\r\n");
    socket
        .set_write_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    socket
        .write_all(request.repeat(40).as_bytes())
        .expect("the sockets hold the requests");
    socket
}

/// The exit code of `cutover status` by the control socket.
fn status_by_control_socket(proxy: &Proxy) -> i32 {
    let file = proxy.file();
    let file = file.to_str().expect("UTF-8");
    command(&["status", "-c", file], proxy.dir()).code
}

#[test]
fn clients_that_never_read_keep_nobody_from_the_admin_api() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let _stalled: Vec<_> = (0..300).map(|_| never_reads(proxy.admin)).collect();
    for _ in 0..3 {
        assert_eq!(status_by_control_socket(&proxy), 0);
    }
    assert_eq!(proxy.ask_admin("/healthz").status(), 200);
    assert_eq!(proxy.ask_admin("/api/v1/status").status(), 200);
}
