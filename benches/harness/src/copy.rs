//! The byte copy: passes requests and responses from socket to socket without reading them, on one thread, with the system
//! calls that a proxy needs as well: a request is received, sent to an upstream, its response received and sent back.
//!
//! The growth of its cost with the number of sockets is the kernel's and the CPU caches' part of a proxy's growth. It touches
//! little memory besides the sockets, so that little of its growth is avoidable. It is no proxy: a request ends where
//! received bytes end in a blank line, and all responses are as long as the first one.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::town::Town;
use crate::{Result, origin};

/// The event of the listener; all others are of the connection with that index.
const LISTENER: u64 = u64::MAX;
/// Room for a response of the bench, head and body, so that one `recv` takes all of it.
const ROOM: usize = 2048;
/// Most requests that are passed on before events are taken again. Responses go first: in the order of arrival each of them would
/// wait behind all requests, and with 8,000 clients thousands of connections to upstreams would be in use instead of hundreds.
const REQUESTS: usize = 64;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// No response head is longer.
const LONGEST_HEAD: usize = 64 * 1024;

/// The `copy` command.
pub(crate) struct ByteCopyOptions {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Port of the origin on all its addresses.
    pub(crate) origin_port: u16,
    /// How many addresses the origin has.
    pub(crate) addresses: usize,
    /// How many endpoints there are. Each has a pool, whether or not another one has the same address.
    pub(crate) endpoints: usize,
}

/// Arguments of this program that make it the byte copy for a configuration like `town`. It knows no services: a round robin
/// over the endpoints of all of them uses the same sockets as requests to all services in turn.
pub(crate) fn arguments(town: &Town, listen: SocketAddr, origin: SocketAddr) -> Vec<PathBuf> {
    let options = [
        ("--listen", listen.to_string()),
        ("--origin-port", origin.port().to_string()),
        ("--addresses", town.addresses().to_string()),
        ("--endpoints", town.all_endpoints().to_string()),
    ];
    let options = { options.into_iter() }.flat_map(|(name, value)| [name.into(), value.into()]);
    std::iter::once("copy".into()).chain(options).collect()
}

/// Serves until the process is ended.
pub(crate) fn serve(options: &ByteCopyOptions) -> Result<()> {
    let listener = origin::listen(options.listen)?;
    let upstreams = (0..options.endpoints)
        .map(|n| (origin::address(n % options.addresses), options.origin_port).into());
    ByteCopy::new(listener, upstreams.collect())?.run()
}

struct ByteCopy {
    poll: OwnedFd,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    /// Indices of `connections` that are not in use.
    free: Vec<usize>,
    /// Those that events which were taken already may still name.
    closed: Vec<usize>,
    pools: Vec<Pool>,
    /// The pool of the next request.
    next: usize,
    /// An empty buffer. A message that comes whole is sent before the next one is received, so all of them use the same memory.
    spare: Vec<u8>,
    /// Length of every response, head and body, once the first one has come.
    response: Option<usize>,
}

/// Kept connections to an endpoint.
struct Pool {
    upstream: SocketAddr,
    /// Those without a request; the last one that was used is the next.
    idle: Vec<usize>,
}

struct Connection {
    socket: TcpStream,
    /// The pool of a connection to an upstream; `None` for a client's.
    pool: Option<usize>,
    /// While a request is under way: the connection at its other end.
    partner: Option<usize>,
    /// What has been received of a request or response that isn't whole yet.
    buffer: Vec<u8>,
}

impl ByteCopy {
    fn new(listener: TcpListener, upstreams: Vec<SocketAddr>) -> Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &poll,
            &listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        let pool = |upstream| Pool {
            upstream,
            idle: Vec::new(),
        };
        Ok(Self {
            poll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            closed: Vec::new(),
            pools: upstreams.into_iter().map(pool).collect(),
            next: 0,
            spare: Vec::new(),
            response: None,
        })
    }

    fn run(mut self) -> Result<()> {
        let mut events = Vec::with_capacity(256);
        let mut requests = VecDeque::new();
        loop {
            let patience = (!requests.is_empty()).then_some(&AT_ONCE);
            match epoll::wait(&self.poll, spare_capacity(&mut events), patience) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in events.drain(..) {
                let at = event.data.u64();
                if at == LISTENER {
                    self.accept()?;
                    continue;
                }
                let at = usize::try_from(at)?;
                if self.is_client(at) {
                    requests.push_back((at, event.flags));
                } else {
                    self.turn(at, event.flags)?;
                }
            }
            let now = requests.len().min(REQUESTS);
            for (at, flags) in requests.drain(..now) {
                self.turn(at, flags)?;
            }
            if requests.is_empty() {
                self.free.append(&mut self.closed);
            }
        }
    }

    fn is_client(&self, at: usize) -> bool {
        matches!(&self.connections[at], Some(connection) if connection.pool.is_none())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => self.add(socket, None)?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e.into()),
            };
        }
    }

    /// Takes a connection over; its index.
    fn add(&mut self, socket: TcpStream, pool: Option<usize>) -> Result<usize> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let at = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.poll, &socket, EventData::new_u64(at as u64), flags)?;
        self.connections[at] = Some(Connection {
            socket,
            pool,
            partner: None,
            buffer: Vec::new(),
        });
        Ok(at)
    }

    /// Passes on what has come on one connection.
    fn turn(&mut self, at: usize, flags: EventFlags) -> Result<()> {
        // It may have been closed since its event was taken.
        let Some(connection) = &mut self.connections[at] else {
            return Ok(());
        };
        if connection.buffer.is_empty() {
            connection.buffer = mem::take(&mut self.spare);
        }
        // Nobody closes only one direction here, so there is nothing left to do for a peer that has closed.
        let over = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let right = !over
            && connection.receive()
            && match connection.pool {
                None => self.pass_request(at)?,
                Some(pool) => self.pass_response(at, pool),
            };
        if !right {
            self.close(at);
        }
        Ok(())
    }

    /// Sends a client's request to the next endpoint if all of it has come; false if that can't be done.
    fn pass_request(&mut self, at: usize) -> Result<bool> {
        let Some(client) = &self.connections[at] else {
            return Ok(false);
        };
        if !client.buffer.ends_with(b"\r\n\r\n") {
            return Ok(true);
        }
        if client.partner.is_some() {
            return Ok(false);
        }
        let pool = self.next;
        self.next = (pool + 1) % self.pools.len();
        let upstream = match self.pools[pool].idle.pop() {
            Some(kept) => kept,
            // It may block: the origin's backlog holds all connections of the bench, which come before measuring begins.
            None => self.add(TcpStream::connect(self.pools[pool].upstream)?, Some(pool))?,
        };
        Ok(self.pair(at, upstream) && self.send(at, upstream))
    }

    /// Sends a response to its client if all of it has come; false if that can't be done.
    fn pass_response(&mut self, at: usize, pool: usize) -> bool {
        let Some(upstream) = &mut self.connections[at] else {
            return false;
        };
        if self.response.is_none() {
            self.response = response_length(&upstream.buffer);
        }
        let Some(length) = self.response else {
            return upstream.buffer.len() <= LONGEST_HEAD;
        };
        if upstream.buffer.len() < length {
            return true;
        }
        let Some(client) = upstream.partner else {
            return upstream.buffer.is_empty();
        };
        if upstream.buffer.len() > length || !self.send(at, client) {
            return false;
        }
        for end in [at, client] {
            if let Some(connection) = &mut self.connections[end] {
                connection.partner = None;
            }
        }
        self.pools[pool].idle.push(at);
        true
    }

    /// Marks two connections as the ends of a request.
    fn pair(&mut self, client: usize, upstream: usize) -> bool {
        for (at, partner) in [(client, upstream), (upstream, client)] {
            let Some(connection) = &mut self.connections[at] else {
                return false;
            };
            connection.partner = Some(partner);
        }
        true
    }

    /// Sends what one connection has received on another one. The bench's messages always find room in the socket's buffer.
    fn send(&mut self, from: usize, to: usize) -> bool {
        let Ok([Some(from), Some(to)]) = self.connections.get_disjoint_mut([from, to]) else {
            return false;
        };
        let sent = to.socket.write(&from.buffer);
        let whole = matches!(sent, Ok(n) if n == from.buffer.len());
        self.spare = mem::take(&mut from.buffer);
        self.spare.clear();
        whole
    }

    /// Closes a connection, and the one at the other end of a request under way.
    fn close(&mut self, at: usize) {
        let partner = self.connections[at].as_ref().and_then(|c| c.partner);
        for at in [Some(at), partner].into_iter().flatten() {
            let Some(closed) = self.connections[at].take() else {
                continue;
            };
            self.closed.push(at);
            if let Some(pool) = closed.pool {
                self.pools[pool].idle.retain(|idle| *idle != at);
            }
        }
    }
}

impl Connection {
    /// Receives what has come; false when the connection is over.
    fn receive(&mut self) -> bool {
        loop {
            if self.buffer.len() == self.buffer.capacity() {
                self.buffer.reserve(ROOM);
            }
            let room = self.buffer.capacity() - self.buffer.len();
            match recv(
                &self.socket,
                spare_capacity(&mut self.buffer),
                RecvFlags::empty(),
            ) {
                Ok((0, _)) => return false,
                // The socket had no more; what comes later is an event of its own.
                Ok((n, _)) if n < room => return true,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// Length of a response with a `content-length`, head and body; `None` before its head is whole.
fn response_length(received: &[u8]) -> Option<usize> {
    let head = received.windows(4).position(|w| w == b"\r\n\r\n")?;
    let body = received[..head].split(|b| *b == b'\n').find_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        let value = std::str::from_utf8(line[colon + 1..].trim_ascii()).ok()?;
        let is_length = line[..colon].eq_ignore_ascii_case(b"content-length");
        is_length.then(|| value.parse().ok())?
    });
    let body: usize = body?;
    Some(head + 4 + body)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::Ipv4Addr;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nhost: a\r\n\r\n";
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    /// Reads exactly these bytes.
    fn expect(mut from: &TcpStream, bytes: &[u8]) -> Result<()> {
        let mut read = vec![0; bytes.len()];
        from.set_read_timeout(Some(Duration::from_secs(10)))?;
        from.read_exact(&mut read)?;
        assert_eq!(read, bytes);
        Ok(())
    }

    fn expect_end(mut of: &TcpStream) -> Result<()> {
        assert_eq!(of.read(&mut [0])?, 0);
        Ok(())
    }

    #[test]
    fn a_response_s_length_is_that_of_head_and_body() {
        assert_eq!(response_length(RESPONSE), Some(RESPONSE.len()));
        assert_eq!(response_length(&RESPONSE[..37]), None);
        let upper = b"HTTP/1.1 200 OK\r\nServer: a:b\r\nContent-Length:12\r\n\r\n";
        assert_eq!(response_length(upper), Some(upper.len() + 12));
        assert_eq!(response_length(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }

    #[test]
    fn requests_go_to_each_endpoint_in_turn_on_kept_connections() -> Result<()> {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (one, two, listener) = (bind()?, bind()?, bind()?);
        let at = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let copy = ByteCopy::new(listener, vec![one.local_addr()?, two.local_addr()?])?;
        // It ends with the test's process.
        thread::spawn(move || copy.run().map_err(|e| e.to_string()));
        let mut client = TcpStream::connect(at)?;
        client.set_nodelay(true)?;

        client.write_all(&REQUEST[..9])?;
        client.write_all(&REQUEST[9..])?;
        let (mut first, _) = one.accept()?;
        first.set_nodelay(true)?;
        expect(&first, REQUEST)?;
        first.write_all(&RESPONSE[..30])?;
        thread::sleep(Duration::from_millis(20));
        first.write_all(&RESPONSE[30..])?;
        expect(&client, RESPONSE)?;

        client.write_all(REQUEST)?;
        let (mut second, _) = two.accept()?;
        expect(&second, REQUEST)?;
        second.write_all(RESPONSE)?;
        expect(&client, RESPONSE)?;

        client.write_all(REQUEST)?;
        expect(&first, REQUEST)?;

        // A second client: the other endpoint's connection is free, the first one's is not.
        let mut other = TcpStream::connect(at)?;
        other.write_all(REQUEST)?;
        expect(&second, REQUEST)?;
        second.write_all(RESPONSE)?;
        expect(&other, RESPONSE)?;
        other.write_all(REQUEST)?;
        let (third, _) = one.accept()?;
        expect(&third, REQUEST)?;

        // A client that leaves takes the connection of its request with it.
        drop(client);
        expect_end(&first)
    }
}
