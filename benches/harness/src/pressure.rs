//! Good traffic beside clients that mean harm: those that dribble heads, dribble bodies, read slowly, or send nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::cases::Stage;
use crate::load::{self, Load};
use crate::options::ByHandCrowd;
use crate::peers::Running;
use crate::report::{Table, with_range};
use crate::{Result, cpu, stats};

/// Each client does its bit once in so long.
const BEAT: Duration = Duration::from_secs(2);
/// How often some of them do.
const TICK: Duration = Duration::from_millis(10);

/// What a client does slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing at all.
    Silent,
    /// One byte of a header a beat.
    Head,
    /// One byte of a body a beat.
    Body,
    /// Takes a KiB of an answer a beat.
    Reader,
}

impl Kind {
    fn open(self, target: SocketAddr) -> Result<TcpStream> {
        let mut socket = TcpStream::connect(target)?;
        let opening: &[u8] = match self {
            Self::Silent => b"",
            Self::Head => b"GET /1k HTTP/1.1\r\nhost: bench.local\r\nx-slow: ",
            Self::Body => {
                b"POST /post HTTP/1.1\r\nhost: bench.local\r\ncontent-length: 100000\r\n\r\n"
            }
            Self::Reader => b"GET /1m HTTP/1.1\r\nhost: bench.local\r\n\r\n",
        };
        if self == Self::Reader {
            set_socket_recv_buffer_size(&socket, 4096)?;
        }
        socket.write_all(opening)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// False when the proxy has ended the connection, or answered a request that isn't whole.
    fn beat(self, socket: &mut TcpStream) -> bool {
        let mut scratch = [0; 1024];
        let writes = match self {
            Self::Head | Self::Body => socket.write(b"x").map(drop),
            Self::Silent | Self::Reader => Ok(()),
        };
        let reads = match socket.read(&mut scratch) {
            Ok(n) => n > 0 && self == Self::Reader,
            Err(e) => e.kind() == ErrorKind::WouldBlock,
        };
        reads && writes.is_ok()
    }
}

/// Clients on a thread of their own; gone when dropped.
struct Crowd {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    is_ready: mpsc::Receiver<Option<String>>,
}

impl Crowd {
    /// Returns when all of them are connected.
    fn gather(target: SocketAddr, shape: &[(Kind, usize)]) -> Result<Self> {
        let crowd = Self::call(target, shape);
        crowd.is_here()?;
        Ok(crowd)
    }

    /// Returns at once; they come one behind the other, as fast as they are let in.
    fn call(target: SocketAddr, shape: &[(Kind, usize)]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let kinds: Vec<Kind> = shape
            .iter()
            .flat_map(|(kind, n)| std::iter::repeat_n(*kind, *n))
            .collect();
        let (ready, is_ready) = mpsc::channel();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let opened: Result<Vec<_>> = kinds.iter().map(|kind| kind.open(target)).collect();
            match opened {
                Ok(mut clients) => {
                    let _ = ready.send(None);
                    dribble(target, &kinds, &mut clients, &stopped);
                }
                Err(error) => drop(ready.send(Some(error.to_string()))),
            }
        });
        Self {
            stop,
            thread: Some(thread),
            is_ready,
        }
    }

    /// Waits until all of them are connected.
    fn is_here(&self) -> Result<()> {
        match self.is_ready.recv_timeout(Duration::from_secs(60))? {
            None => Ok(()),
            Some(error) => Err(format!("the slow clients can't connect: {error}").into()),
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The `crowd` command: gathers it, says so, and stays for its time.
pub fn by_hand(options: &ByHandCrowd) -> Result<()> {
    let shape = [
        (Kind::Silent, options.silent),
        (Kind::Head, options.heads),
        (Kind::Body, options.bodies),
        (Kind::Reader, options.readers),
    ];
    let start = Instant::now();
    let crowd = Crowd::gather(options.target, &shape)?;
    println!("all connected after {} ms", start.elapsed().as_millis());
    thread::sleep(options.length);
    drop(crowd);
    Ok(())
}

/// Spreads the clients' beats evenly; whoever was cut comes again.
fn dribble(target: SocketAddr, kinds: &[Kind], clients: &mut [TcpStream], stop: &AtomicBool) {
    let share = clients.len() as f64 * TICK.as_secs_f64() / BEAT.as_secs_f64();
    let (mut at, mut due) = (0, 0.0);
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(TICK);
        due += share;
        while due >= 1.0 {
            due -= 1.0;
            if !kinds[at].beat(&mut clients[at])
                && let Ok(socket) = kinds[at].open(target)
            {
                clients[at] = socket;
            }
            at = (at + 1) % clients.len();
        }
    }
}

/// What good traffic sees in one run.
struct Seen {
    p50: f64,
    p99: f64,
    failed: u64,
}

fn good(stage: &Stage, target: SocketAddr) -> Result<Seen> {
    let load = Load {
        target,
        connections: stage.bench.connections,
        request: load::get("/1k", ""),
        body: 1024,
        tls: None,
        fresh: false,
        rate: Some(1000),
        warm_up: Duration::from_millis(300),
        length: stage.bench.length,
    };
    let mut measured = load::run(&load, |_| {})?;
    measured.latencies.sort_unstable();
    let share = |share| stats::percentile(&measured.latencies, share) / 1e3;
    Ok(Seen {
        p50: share(0.50),
        p99: share(0.99),
        failed: measured.errors,
    })
}

/// Memory of one client of a kind in KiB, and the share of a core that all of them cost.
fn weigh(proxy: &Running, kind: Kind, count: usize) -> Result<(f64, f64)> {
    let (before, _) = cpu::memory(&proxy.pids);
    let crowd = Crowd::gather(proxy.plain, &[(kind, count)])?;
    thread::sleep(Duration::from_secs(1));
    let (used, start) = (cpu::time_used(&proxy.pids), Instant::now());
    thread::sleep(Duration::from_secs(4));
    let used = cpu::time_used(&proxy.pids) - used;
    let share = used as f64 / start.elapsed().as_nanos() as f64;
    let (after, _) = cpu::memory(&proxy.pids);
    drop(crowd);
    thread::sleep(Duration::from_millis(500));
    Ok(((after as f64 - before as f64) / count as f64, share * 100.0))
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut table = Table {
        head: [
            "proxy",
            "p99 alone, µs",
            "while they come, µs",
            "beside them, µs",
            "ratio",
            "p50 ratio",
            "failed",
            "KiB (CPU %) silent",
            "slow head",
            "slow body",
            "slow reader",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Table::default()
    };
    let many = stage.bench.idle;
    let shape = [
        (Kind::Head, many * 10 / 13),
        (Kind::Body, many * 2 / 13),
        (Kind::Reader, many / 13),
    ];
    table.notes.push(format!(
        "{} clients dribble heads, {} bodies, {} read slowly (a byte or a KiB each 2 s); good traffic: 1,000 requests/s, open loop",
        shape[0].1, shape[1].1, shape[2].1
    ));
    for contender in stage.contenders {
        let row = stage
            .start(contender, 1)
            .and_then(|proxy| press(stage, &proxy, &shape));
        match row {
            Ok(row) => table
                .rows
                .push(std::iter::once(contender.name.clone()).chain(row).collect()),
            Err(error) => table
                .notes
                .push(format!("{} is left out: {error}", contender.name)),
        }
    }
    Ok(table)
}

fn press(stage: &Stage, proxy: &Running, shape: &[(Kind, usize)]) -> Result<Vec<String>> {
    let mut weights = Vec::new();
    let silent = (Kind::Silent, shape[0].1);
    for (kind, count) in std::iter::once(&silent).chain(shape) {
        let (kib, share) = weigh(proxy, *kind, *count)?;
        weights.push(format!("{kib:.1} ({share:.1})"));
    }
    let (mut alone, mut coming, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..stage.bench.rounds {
        alone.push(good(stage, proxy.plain)?);
        let crowd = Crowd::call(proxy.plain, shape);
        coming.push(good(stage, proxy.plain)?);
        crowd.is_here()?;
        thread::sleep(Duration::from_secs(1));
        beside.push(good(stage, proxy.plain)?);
        drop(crowd);
        thread::sleep(Duration::from_secs(1));
    }
    let ratio = |of: fn(&Seen) -> f64| {
        let pairs = beside.iter().zip(&alone);
        with_range(stats::spread(pairs.map(|(b, a)| of(b) / of(a))))
    };
    let failed: u64 = [&alone, &coming, &beside]
        .into_iter()
        .flatten()
        .map(|s| s.failed)
        .sum();
    let mut row = vec![
        with_range(stats::spread(alone.iter().map(|s| s.p99))),
        with_range(stats::spread(coming.iter().map(|s| s.p99))),
        with_range(stats::spread(beside.iter().map(|s| s.p99))),
        ratio(|s| s.p99),
        ratio(|s| s.p50),
        failed.to_string(),
    ];
    row.extend(weights);
    Ok(row)
}
