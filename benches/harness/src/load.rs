//! The load generator: one thread on epoll, one request at a time on each connection.
//!
//! Closed loop: the next request goes out when the answer is in; the proxy is kept saturated.
//! Open loop: requests are due at a fixed rate whatever the answers do, and latency counts from
//! the moment a request was due, so that a stall shows in every request it held up.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::RecvFlags;
use rustix::time::Timespec;
use rustls::ClientConnection;

use crate::options::ByHand;
use crate::response::{Progress, Response};
use crate::tls::{self, Sessions};
use crate::{Result, stats};

/// A head, and a small body with it.
const HEAD: usize = 4 * 1024;

/// What is asked, and how.
#[derive(Clone)]
pub struct Load {
    /// Where to.
    pub target: SocketAddr,
    /// Connections in use at once.
    pub connections: usize,
    /// The whole request, head and body.
    pub request: Vec<u8>,
    /// Least size of a right answer's body in bytes.
    pub body: u64,
    /// Over TLS, and whether sessions are resumed.
    pub tls: Option<Sessions>,
    /// A new connection for each request.
    pub fresh: bool,
    /// Requests per second; `None` = closed loop.
    pub rate: Option<u32>,
    /// Unmeasured time before.
    pub warm_up: Duration,
    /// Measured time.
    pub length: Duration,
}

/// What came of it in the measured time.
#[derive(Debug, Default)]
pub struct Measured {
    /// Right answers.
    pub requests: u64,
    /// Wrong answers and broken connections.
    pub errors: u64,
    /// Measured time.
    pub wall: Duration,
    /// Nanoseconds from due to whole, only in open loop.
    pub latencies: Vec<u64>,
    /// Handshakes that took up an earlier session.
    pub resumed: u64,
}

/// The two ends of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Warmed up: measuring begins.
    Start,
    /// Measuring is over.
    End,
}

struct Connection {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    response: Response,
    /// Bytes of the response's head so far.
    buffer: Vec<u8>,
    /// Bytes of a body that need not be looked at.
    unseen: u64,
    /// Which request.
    which: usize,
    /// Bytes of the request that are written; only without TLS.
    sent: usize,
    /// When the request was due.
    due: Instant,
    busy: bool,
    asked_out: bool,
}

struct Generator<'a> {
    load: &'a Load,
    requests: &'a [Vec<u8>],
    /// The request that is next, and how far it is from there to the one after.
    next: usize,
    step: usize,
    poll: OwnedFd,
    places: Vec<Connection>,
    clients: Vec<tls::Client>,
    scratch: Vec<u8>,
    /// Places without a request, in open loop.
    free: Vec<usize>,
    /// When waiting requests were due.
    waiting: VecDeque<Instant>,
    measured: Measured,
}

/// Runs the load; `mark` is called at both ends of the measured time.
pub fn run(load: &Load, mark: impl FnMut(Mark)) -> Result<Measured> {
    run_spread(load, std::slice::from_ref(&load.request), mark)
}

/// As [`run`], with these requests in place of `load.request`: one after the other, far steps apart, each equally often.
pub fn run_spread(
    load: &Load,
    requests: &[Vec<u8>],
    mut mark: impl FnMut(Mark),
) -> Result<Measured> {
    let mut generator = Generator::new(load, requests)?;
    let begun = Instant::now();
    generator.until(begun + load.warm_up)?;
    generator.measured = Measured::default();
    mark(Mark::Start);
    let start = Instant::now();
    generator.until(start + load.length)?;
    generator.measured.wall = start.elapsed();
    mark(Mark::End);
    if generator.measured.requests == 0 {
        return Err(format!(
            "no right answer from {} in {:?} ({} wrong ones)",
            load.target, load.length, generator.measured.errors
        )
        .into());
    }
    Ok(generator.measured)
}

impl<'a> Generator<'a> {
    fn new(load: &'a Load, requests: &'a [Vec<u8>]) -> Result<Self> {
        let mut generator = Self {
            load,
            requests,
            next: 0,
            step: far_step(requests.len()),
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            places: Vec::with_capacity(load.connections),
            clients: Vec::new(),
            scratch: vec![0; 256 * 1024],
            free: Vec::new(),
            waiting: VecDeque::new(),
            measured: Measured::default(),
        };
        for at in 0..load.connections {
            if let Some(sessions) = load.tls {
                generator.clients.push(tls::Client::new(sessions)?);
            }
            let connection = generator.connect(at)?;
            generator.places.push(connection);
            if load.rate.is_none() {
                generator.send(at, Instant::now())?;
            } else {
                generator.free.push(at);
            }
        }
        Ok(generator)
    }

    fn connect(&self, at: usize) -> Result<Connection> {
        let socket = TcpStream::connect(self.load.target)
            .map_err(|e| format!("can't connect to {}: {e}", self.load.target))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        epoll::add(
            &self.poll,
            &socket,
            EventData::new_u64(at as u64),
            EventFlags::IN,
        )?;
        let tls = match self.clients.get(at) {
            Some(client) => Some(Box::new(client.connect()?)),
            None => None,
        };
        Ok(Connection {
            socket,
            tls,
            response: Response::default(),
            buffer: Vec::new(),
            unseen: 0,
            which: 0,
            sent: 0,
            due: Instant::now(),
            busy: false,
            asked_out: false,
        })
    }

    /// Works until `end`.
    fn until(&mut self, end: Instant) -> Result<()> {
        let mut events = Vec::with_capacity(256);
        let period = self.load.rate.map(|rate| Duration::from_secs(1) / rate);
        let mut due = Instant::now();
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            let mut sleep = end - now;
            if let Some(period) = period {
                while due <= now {
                    self.waiting.push_back(due);
                    due += period;
                }
                self.send_waiting()?;
                sleep = sleep.min(due.saturating_duration_since(Instant::now()));
            }
            let sleep = Timespec {
                tv_sec: i64::try_from(sleep.as_secs())?,
                tv_nsec: sleep.subsec_nanos().into(),
            };
            match epoll::wait(&self.poll, spare_capacity(&mut events), Some(&sleep)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in events.drain(..) {
                self.turn(usize::try_from(event.data.u64())?)?;
            }
        }
    }

    fn send_waiting(&mut self) -> Result<()> {
        while !self.waiting.is_empty() {
            let Some(at) = self.free.pop() else { break };
            if let Some(due) = self.waiting.pop_front() {
                if self.load.fresh {
                    self.places[at] = self.connect(at)?;
                }
                self.send(at, due)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, at: usize, due: Instant) -> Result<()> {
        let which = self.next;
        self.next = (which + self.step) % self.requests.len();
        let request = &self.requests[which];
        let place = &mut self.places[at];
        place.which = which;
        place.busy = true;
        place.due = due;
        place.sent = 0;
        place.unseen = 0;
        place.response = Response::default();
        place.buffer.clear();
        if let Some(tls) = &mut place.tls {
            tls.writer().write_all(request)?;
        }
        if place.flush(request, &self.poll, at) {
            Ok(())
        } else {
            self.fail(at)
        }
    }

    /// One connection has something for us, or room for more.
    fn turn(&mut self, at: usize) -> Result<()> {
        let place = &mut self.places[at];
        let request = &self.requests[place.which];
        if !place.flush(request, &self.poll, at) {
            return self.fail(at);
        }
        let progress = place.receive(&mut self.scratch);
        // A handshake's next message, and the request behind it.
        if place.tls.is_some() && !place.flush(request, &self.poll, at) {
            return self.fail(at);
        }
        match progress {
            Progress::More(unseen) => {
                self.places[at].unseen = unseen;
                Ok(())
            }
            Progress::Whole(body) if body >= self.load.body && self.places[at].busy => {
                self.finish(at)
            }
            _ => self.fail(at),
        }
    }

    fn finish(&mut self, at: usize) -> Result<()> {
        self.measured.requests += 1;
        self.places[at].busy = false;
        if self.load.rate.is_some() {
            let took = self.places[at].due.elapsed();
            self.measured
                .latencies
                .push(u64::try_from(took.as_nanos())?);
            self.free.push(at);
            return self.send_waiting();
        }
        if self.load.fresh {
            let place = &mut self.places[at];
            if let Some(tls) = &mut place.tls {
                self.measured.resumed += u64::from(tls::resumed(tls));
                tls.send_close_notify();
                place.flush(&[], &self.poll, at);
            }
            self.places[at] = self.connect(at)?;
        }
        self.send(at, Instant::now())
    }

    fn fail(&mut self, at: usize) -> Result<()> {
        self.measured.errors += 1;
        if self.measured.errors > 1000 + self.measured.requests {
            return Err(format!(
                "{}: {} wrong answers or broken connections, {} right ones",
                self.load.target, self.measured.errors, self.measured.requests
            )
            .into());
        }
        self.places[at] = self.connect(at)?;
        if self.load.rate.is_some() {
            self.free.push(at);
            return Ok(());
        }
        self.send(at, Instant::now())
    }
}

impl Connection {
    /// Writes what there is to write; false when the connection is broken.
    fn flush(&mut self, request: &[u8], poll: &OwnedFd, at: usize) -> bool {
        let left = match &mut self.tls {
            Some(tls) => {
                while tls.wants_write() {
                    match tls.write_tls(&mut self.socket) {
                        Ok(_) => {}
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(_) => return false,
                    }
                }
                tls.wants_write()
            }
            None => {
                while self.busy && self.sent < request.len() {
                    match self.socket.write(&request[self.sent..]) {
                        Ok(n) => self.sent += n,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(_) => return false,
                    }
                }
                self.busy && self.sent < request.len()
            }
        };
        if left == self.asked_out {
            return true;
        }
        self.asked_out = left;
        let flags = if left {
            EventFlags::IN | EventFlags::OUT
        } else {
            EventFlags::IN
        };
        epoll::modify(poll, &self.socket, EventData::new_u64(at as u64), flags).is_ok()
    }

    fn receive(&mut self, scratch: &mut [u8]) -> Progress {
        if self.tls.is_some() {
            return self.receive_tls(scratch);
        }
        // Large bodies are discarded by the kernel: copying them out would be the generator's
        // largest cost, and none of the proxy's. So no more than a head is read before one is known.
        loop {
            if self.unseen > 16 * 1024 {
                return match rustix::net::recv(&self.socket, &mut *scratch, RecvFlags::TRUNC) {
                    Ok((_, 0)) => Progress::Bad,
                    Ok((_, n)) => self.response.skip(n as u64),
                    Err(rustix::io::Errno::AGAIN) => Progress::More(self.unseen),
                    Err(_) => Progress::Bad,
                };
            }
            let most = if self.response.is_in_head() {
                HEAD
            } else {
                scratch.len()
            };
            match self.socket.read(&mut scratch[..most]) {
                Ok(0) => return Progress::Bad,
                Ok(n) => {
                    self.buffer.extend_from_slice(&scratch[..n]);
                    match self.response.take(&mut self.buffer) {
                        Progress::More(unseen) if n == most => self.unseen = unseen,
                        progress => return progress,
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return Progress::More(self.unseen);
                }
                Err(_) => return Progress::Bad,
            }
        }
    }

    fn receive_tls(&mut self, scratch: &mut [u8]) -> Progress {
        let Some(tls) = &mut self.tls else {
            return Progress::Bad;
        };
        match tls.read_tls(&mut self.socket) {
            Ok(0) => return Progress::Bad,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Progress::More(0),
            Err(_) => return Progress::Bad,
        }
        if tls.process_new_packets().is_err() {
            return Progress::Bad;
        }
        loop {
            match tls.reader().read(scratch) {
                Ok(0) => return Progress::Bad,
                Ok(n) => {
                    self.buffer.extend_from_slice(&scratch[..n]);
                    match self.response.take(&mut self.buffer) {
                        Progress::More(_) => {}
                        end => return end,
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Progress::More(0),
                Err(_) => return Progress::Bad,
            }
        }
    }
}

/// A step with which all of `n` places are visited, neighbours in time far from each other in place.
fn far_step(n: usize) -> usize {
    let common = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let near_golden = (n as f64 * 0.618) as usize;
    (near_golden.max(1)..)
        .find(|step| common(*step, n) == 1)
        .unwrap_or(1)
}

/// A GET without more headers than it needs.
pub fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench.local\r\n{more}\r\n").into_bytes()
}

/// The `load` command.
pub fn by_hand(options: &ByHand) -> Result<()> {
    let load = Load {
        target: options.target,
        connections: options.connections,
        request: get(&options.path, ""),
        body: 0,
        tls: options.tls.then_some(Sessions::Full),
        fresh: options.fresh,
        rate: options.rate,
        warm_up: Duration::from_millis(200),
        length: options.length,
    };
    let mut measured = run(&load, |_| {})?;
    println!(
        "{:.0} requests/s, {} errors",
        measured.requests as f64 / measured.wall.as_secs_f64(),
        measured.errors
    );
    if options.rate.is_some() {
        measured.latencies.sort_unstable();
        println!(
            "p50 {:.0} µs, p99 {:.0} µs, longest {:.0} µs",
            stats::percentile(&measured.latencies, 0.50) / 1e3,
            stats::percentile(&measured.latencies, 0.99) / 1e3,
            stats::percentile(&measured.latencies, 1.0) / 1e3
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_its_turn() {
        for n in [1, 2, 3, 10, 64, 1000, 10_000] {
            let mut seen = vec![false; n];
            let mut at = 0;
            for _ in 0..n {
                seen[at] = true;
                at = (at + far_step(n)) % n;
            }
            assert!(seen.iter().all(|s| *s), "{n}");
        }
    }
}
