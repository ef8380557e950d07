//! A network between a process and its servers that can be cut.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{listen, pause};

/// How often a direction that is cut looks whether it still is.
const GLANCE: Duration = Duration::from_millis(10);

/// Relays TCP connections to ports of this machine. While it is cut, nothing passes and nothing is closed, as if packets were
/// lost; afterwards what was sent meanwhile arrives.
pub struct Relay {
    ports: Vec<u16>,
    flags: Arc<Flags>,
}

#[derive(Default)]
struct Flags {
    is_cut: AtomicBool,
    has_ended: AtomicBool,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.flags.has_ended.store(true, Ordering::SeqCst);
        // Wakes the threads that accept.
        for port in &self.ports {
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, *port));
        }
    }
}

impl Relay {
    /// A relay with one port for each of these.
    pub fn to(targets: &[u16]) -> Self {
        let flags = Arc::new(Flags::default());
        let ports = targets.iter().map(|target| accept(vec![*target], &flags));
        Self {
            ports: ports.collect(),
            flags: flags.clone(),
        }
    }

    /// A relay with one port, whose connections go to one of these after the other.
    pub fn in_turn(targets: &[u16]) -> Self {
        let flags = Arc::new(Flags::default());
        Self {
            ports: vec![accept(targets.to_vec(), &flags)],
            flags,
        }
    }

    /// The ports of the relay, in the order of the targets.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Lets nothing pass from now on, or everything again.
    pub fn cut(&self, is_cut: bool) {
        self.flags.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

impl Flags {
    /// Waits while the relay is cut. Returns whether it still exists.
    fn pass(&self) -> bool {
        while self.is_cut.load(Ordering::SeqCst) && !self.has_ended.load(Ordering::SeqCst) {
            pause(GLANCE);
        }
        !self.has_ended.load(Ordering::SeqCst)
    }
}

/// Accepts connections for these targets, in turn. Returns the port.
fn accept(targets: Vec<u16>, flags: &Arc<Flags>) -> u16 {
    let (listener, address) = listen();
    let flags = flags.clone();
    std::thread::spawn(move || {
        for (client, target) in listener.incoming().zip(targets.iter().cycle()) {
            if flags.has_ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            let (flags, target) = (flags.clone(), *target);
            std::thread::spawn(move || connect(client, target, &flags));
        }
    });
    address.port()
}

fn connect(client: TcpStream, target: u16, flags: &Arc<Flags>) {
    if !flags.pass() {
        return;
    }
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else {
        return;
    };
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let back = flags.clone();
    std::thread::spawn(move || copy(from, to, &back));
    copy(server, client, flags);
}

/// Copies one direction until it ends.
fn copy(mut from: TcpStream, mut to: TcpStream, flags: &Flags) {
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let mut piece = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        if !flags.pass() || to.write_all(&piece[..n]).is_err() {
            break;
        }
    }
    flags.pass();
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}
