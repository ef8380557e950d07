//! WebSockets that talk all the time, and who answers them. Just enough of RFC 6455: short text frames.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Result;

/// The key of the RFC's own example, and its answer: nobody here needs another.
const HANDSHAKE: &[u8] =
    b"GET /chat HTTP/1.1\r\nhost: bench.local\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// Between two messages of one WebSocket.
const BEAT: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(5);
/// A whole text frame in its first byte.
const TEXT: u8 = 0x81;
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x5a, 0xc3, 0x0f, 0x96];

/// Says every message back; lives as long as the process.
pub struct Chat {
    /// Where.
    pub at: SocketAddr,
}

impl Chat {
    pub fn open() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        rustix::net::listen(&listener, 1024)?;
        let at = listener.local_addr()?;
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let small = thread::Builder::new().stack_size(64 * 1024);
                // Its end is the end of the WebSocket: the other side counts it.
                let _ = small.spawn(move || echo(socket));
            }
        });
        Ok(Self { at })
    }
}

fn echo(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    head(&mut socket)?;
    socket.write_all(AGREED)?;
    loop {
        let [first, length] = exact(&mut socket)?;
        let mask: [u8; 4] = exact(&mut socket)?;
        let mut text = vec![0; usize::from(length & !MASKED)];
        socket.read_exact(&mut text)?;
        text.iter_mut()
            .zip(mask.iter().cycle())
            .for_each(|(byte, m)| *byte ^= m);
        let frame = [&[first, length & !MASKED], &text[..]].concat();
        socket.write_all(&frame)?;
    }
}

/// Reads a head to its end and not further.
fn head(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let [byte] = exact(socket)?;
        head.push(byte);
    }
    Ok(head)
}

fn exact<const N: usize>(socket: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Many WebSockets on one thread.
pub struct Choir {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Choir {
    /// Opens all of them.
    pub fn gather(target: SocketAddr, count: usize) -> Result<Self> {
        let sockets: io::Result<Vec<_>> = (0..count).map(|_| open(target)).collect();
        let mut sockets = sockets.map_err(|e| format!("no WebSocket: {e}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut said = 0_u32;
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(BEAT);
                said += 1;
                sockets.retain_mut(|socket| say(socket, &format!("message {said}")).is_ok());
            }
            count - sockets.len()
        });
        Ok(Self { stop, thread })
    }

    /// Closes them; how many were lost before.
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(usize::MAX)
    }
}

fn open(target: SocketAddr) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(target)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(HANDSHAKE)?;
    let head = head(&mut socket)?;
    if !head.starts_with(b"HTTP/1.1 101") {
        return Err(io::Error::other(String::from_utf8_lossy(&head)));
    }
    Ok(socket)
}

/// Says something and hears it back.
fn say(socket: &mut TcpStream, text: &str) -> io::Result<()> {
    let masked = text
        .bytes()
        .zip(MASK.iter().cycle())
        .map(|(byte, m)| byte ^ m);
    let mut frame = vec![TEXT, MASKED | text.len() as u8];
    frame.extend_from_slice(&MASK);
    frame.extend(masked);
    socket.write_all(&frame)?;
    let [first, length] = exact(socket)?;
    let mut back = vec![0; usize::from(length)];
    socket.read_exact(&mut back)?;
    let same = first == TEXT && back == text.as_bytes();
    same.then_some(())
        .ok_or_else(|| ErrorKind::InvalidData.into())
}
