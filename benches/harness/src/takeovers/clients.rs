//! Clients of plain requests: most keep their connections, some open one for each request.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// Clients, each with a connection of its own.
const CLIENTS: u32 = 100;
/// One in so many opens a connection for each request.
const FRESH: u32 = 5;
/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nhost: bench.local\r\n\r\n";
const BODY: usize = 1024;

/// What clients saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Right answers.
    pub done: u64,
    /// Requests without one, on a connection that was new.
    pub failed: u64,
    /// Requests that met the end of their kept-alive connection.
    pub cut: u64,
    /// Kept-alive connections that the client found closed, with nothing said before.
    pub closed: u64,
    /// The slowest right answer.
    pub longest: Duration,
}

/// All of them, each on a thread.
pub struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Clients {
    /// Starts them; together they send so many requests a second.
    pub fn start(target: SocketAddr, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mean = Duration::from_secs(1) * CLIENTS / rate;
        let start = |n: u32| {
            let stop = stop.clone();
            thread::spawn(move || live(target, mean, n.is_multiple_of(FRESH), n, &stop))
        };
        let threads = (0..CLIENTS).map(start).collect();
        Self { stop, threads }
    }

    /// Ends them: what all of them saw.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for thread in self.threads {
            let one = thread.join().unwrap_or_default();
            all.done += one.done;
            all.failed += one.failed;
            all.cut += one.cut;
            all.closed += one.closed;
            all.longest = all.longest.max(one.longest);
        }
        all
    }
}

/// A connection, and whether a request has been answered on it.
struct Connection {
    socket: TcpStream,
    used: bool,
}

/// One client: a request at random times, on average every `mean`.
fn live(target: SocketAddr, mean: Duration, fresh: bool, n: u32, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut random = Random::new(n);
    let mut connection = None;
    let mut due = Instant::now() + random.below(2 * mean);
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += random.below(2 * mean);
        let idle = connection.take_if(|c: &mut Connection| c.is_over());
        tally.closed += u64::from(idle.is_some());
        let began = Instant::now();
        let mut now = match connection
            .take()
            .map_or_else(|| Connection::open(target), Ok)
        {
            Ok(connection) => connection,
            Err(_) => {
                tally.failed += 1;
                continue;
            }
        };
        match now.ask() {
            Ok(goes_on) => {
                tally.done += 1;
                tally.longest = tally.longest.max(began.elapsed());
                now.used = true;
                connection = Some(now).filter(|_| goes_on && !fresh);
            }
            Err(error) if now.used && is_end(&error) => tally.cut += 1,
            Err(_) => tally.failed += 1,
        }
    }
    tally
}

fn is_end(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

impl Connection {
    fn open(target: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(target)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            used: false,
        })
    }

    /// Whether the other side has closed it meanwhile: what a client sees that looks before it sends.
    fn is_over(&self) -> bool {
        let mut byte = [0];
        let looked = self
            .socket
            .set_nonblocking(true)
            .and_then(|()| self.socket.peek(&mut byte));
        let blocking = self.socket.set_nonblocking(false);
        blocking.is_err() || !matches!(looked, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// One request; whether another may follow.
    fn ask(&mut self) -> io::Result<bool> {
        self.socket.write_all(REQUEST)?;
        let mut answer = Vec::with_capacity(2048);
        let mut chunk = [0; 4096];
        let head = loop {
            if let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n")
                && answer.len() >= end + 4 + BODY
            {
                break end;
            }
            match self.socket.read(&mut chunk)? {
                // Half an answer is a failure of its own kind, whatever connection it came on.
                0 if !answer.is_empty() => return Err(io::Error::other("half an answer")),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => answer.extend_from_slice(&chunk[..n]),
            }
        };
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        if !text.starts_with("http/1.1 200") || answer.len() != head + 4 + BODY {
            return Err(io::Error::other("another answer"));
        }
        Ok(!text.contains("\r\nconnection: close"))
    }
}

/// Enough chance for think times.
struct Random(u64);

impl Random {
    fn new(n: u32) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |d| d.as_nanos() as u64);
        Self((now ^ (u64::from(n) << 32)) | 1)
    }

    fn below(&mut self, most: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        most.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
