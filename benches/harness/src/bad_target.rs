//! Targets of a mirror that answer nothing as they should.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::sockopt;

use crate::{Result, cpu};

/// How a target is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Badness {
    /// It takes requests and says nothing.
    Hangs,
    /// It resets the connection at a request.
    Resets,
    /// It answers what isn't HTTP.
    Garbage,
    /// It breaks its answer off.
    BreaksOff,
}

impl Badness {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hangs, Self::Resets, Self::Garbage, Self::BreaksOff];

    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hangs => "hangs",
            Self::Resets => "resets",
            Self::Garbage => "answers garbage",
            Self::BreaksOff => "breaks off",
        }
    }
}

/// A running target, with a thread of its own.
pub struct BadTarget {
    /// Where it listens.
    pub at: SocketAddr,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl BadTarget {
    /// Starts one on this core.
    pub fn start(badness: Badness, core: usize) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let at = listener.local_addr()?;
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, count) = (stop.clone(), asked.clone());
        let thread = thread::spawn(move || {
            // A target on another core is bad in the same way.
            let _ = cpu::pin(core);
            serve(&listener, badness, &stopped, &count);
        });
        Ok(Self {
            at,
            stop,
            asked,
            thread: Some(thread),
        })
    }

    /// Connections that have been accepted so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for BadTarget {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, badness: Badness, stop: &AtomicBool, asked: &AtomicU64) {
    // Those of a target that hangs, until the proxy gives them up.
    let mut kept: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((socket, _)) => {
                asked.fetch_add(1, Ordering::Relaxed);
                kept.extend(treat(socket, badness));
            }
            Err(_) => {
                kept.retain(is_open);
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Does with a connection what a bad target does. Returns it if it stays open.
fn treat(mut socket: TcpStream, badness: Badness) -> Option<TcpStream> {
    if badness == Badness::Hangs {
        socket.set_nonblocking(true).ok()?;
        return Some(socket);
    }
    socket.set_nonblocking(false).ok()?;
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .ok()?;
    let _ = socket.read(&mut [0; 4096]);
    match badness {
        Badness::Resets => {
            let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        }
        Badness::Garbage => {
            let _ = socket.write_all(b"\x16\x03\x01 nothing of HTTP\r\n\r\n");
        }
        _ => {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\nx");
        }
    }
    None
}

/// Whether the proxy still holds its end. Takes what it has sent.
fn is_open(socket: &TcpStream) -> bool {
    match (&*socket).read(&mut [0; 4096]) {
        Ok(n) => n > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
