//! WebSocket messages: an upgrade, and then small messages that come back, one after the other on each connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;

use crate::Result;
use crate::cases::Stage;
use crate::report::Table;
use crate::rounds::{self, Clocks};

/// What is asked; the key is the example of RFC 6455.
const UPGRADE: &[u8] =
    b"GET /ws HTTP/1.1\r\nhost: bench.local\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// Bytes of a message's content.
const CONTENT: usize = 125;

/// A binary frame as clients send it, masked.
fn message() -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | CONTENT as u8, 1, 2, 3, 4];
    frame.resize(frame.len() + CONTENT, 0x5a);
    frame
}

struct Tunnel {
    socket: TcpStream,
    /// Bytes of the echo that are still to come.
    left: usize,
}

impl Tunnel {
    fn open(target: SocketAddr) -> Result<Self> {
        let mut socket = TcpStream::connect(target)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(UPGRADE)?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(format!("no tunnel: {}", String::from_utf8_lossy(&head)).into());
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket, left: 0 })
    }

    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.left = message.len();
        // A message that the buffer of an idle connection does not take: something is badly wrong.
        Ok(self.socket.write_all(message)?)
    }
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut table = rounds::compare(stage, |proxy| {
        let message = message();
        let mut tunnels = Vec::new();
        for _ in 0..stage.bench.connections {
            tunnels.push(Tunnel::open(proxy.plain)?);
        }
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (at, tunnel) in tunnels.iter_mut().enumerate() {
            let data = EventData::new_u64(at as u64);
            epoll::add(&poll, &tunnel.socket, data, EventFlags::IN)?;
            tunnel.send(&message)?;
        }
        echoes(&poll, &mut tunnels, &message, Duration::from_millis(300))?;
        let before = Clocks::read(stage, proxy);
        let messages = echoes(&poll, &mut tunnels, &message, stage.bench.length)?;
        Ok(Clocks::read(stage, proxy).since(&before, messages, true))
    });
    table.notes.push(format!(
        "a request is a message of {CONTENT} bytes there and back"
    ));
    Ok(table)
}

/// Messages that came back within `length`; each is followed by the next.
fn echoes(
    poll: &impl std::os::fd::AsFd,
    tunnels: &mut [Tunnel],
    message: &[u8],
    length: Duration,
) -> Result<u64> {
    let end = Instant::now() + length;
    let (mut events, mut scratch, mut messages) = (Vec::with_capacity(256), [0; 4096], 0);
    let wait = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    while Instant::now() < end {
        match epoll::wait(poll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in events.drain(..) {
            let tunnel = &mut tunnels[usize::try_from(event.data.u64())?];
            match tunnel.socket.read(&mut scratch) {
                Ok(0) => return Err("a tunnel was closed".into()),
                Ok(n) => tunnel.left = tunnel.left.checked_sub(n).ok_or("more than was sent")?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e.into()),
            }
            if tunnel.left == 0 {
                messages += 1;
                tunnel.send(message)?;
            }
        }
    }
    Ok(messages)
}
