//! Good traffic beside clients that mean harm: those that dribble heads, dribble bodies, read slowly or not at all, or
//! send nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::cases::Stage;
use crate::load::{self, Load};
use crate::options::ByHandCrowd;
use crate::peers::{Contender, Running};
use crate::report::{Table, with_range};
use crate::{Result, cpu, h2_origin, stats};

/// Each client does its bit once in so long.
const BEAT: Duration = Duration::from_secs(2);
/// How often some of them do.
const TICK: Duration = Duration::from_millis(10);

/// Downloads that nobody reads, and connections of HTTP/2 that take no byte of an answer: more than the 1,024 requests
/// that cutover's default limits allow to a version.
pub const STALLED: usize = 1000;
/// See [`STALLED`].
pub const WINDOWLESS: usize = 8;
/// Streams of each of those.
pub const STREAMS: u32 = 128;

/// What a client does slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing at all.
    Silent,
    /// One byte of a header a beat.
    Head,
    /// One byte of a body a beat.
    Body,
    /// Takes a KiB of an answer a beat.
    Reader,
    /// Takes nothing of 8 MiB.
    Stalled,
    /// Asks for 1 KiB on each of 128 streams of HTTP/2 and opens no window for it.
    Windowless,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Head => "slow head",
            Self::Body => "slow body",
            Self::Reader => "slow reader",
            Self::Stalled => "stalled download",
            Self::Windowless => "connection without window",
        }
    }

    fn open(self, targets: Targets) -> Result<TcpStream> {
        let target = match self {
            Self::Windowless => targets.h2c,
            _ => targets.plain,
        };
        let opening: Vec<u8> = match self {
            Self::Silent => Vec::new(),
            Self::Head => b"GET /1k HTTP/1.1\r\nhost: bench.local\r\nx-slow: ".to_vec(),
            Self::Body => {
                b"POST /post HTTP/1.1\r\nhost: bench.local\r\ncontent-length: 100000\r\n\r\n"
                    .to_vec()
            }
            Self::Reader | Self::Stalled => load::get("/8m", ""),
            Self::Windowless => windowless(),
        };
        let mut socket = match self {
            Self::Reader | Self::Stalled => takes_little(target)?,
            _ => TcpStream::connect(target)?,
        };
        socket.write_all(&opening)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// False when the proxy has ended the connection, or answered a request that isn't whole.
    fn beat(self, socket: &mut TcpStream) -> bool {
        let mut scratch = [0; 1024];
        match self {
            // Who reads nothing learns of nothing but a reset.
            Self::Stalled => return !matches!(socket.take_error(), Ok(Some(_)) | Err(_)),
            // Frames about the connection itself are read, so that it looks alive.
            Self::Windowless => {
                return match socket.read(&mut scratch) {
                    Ok(n) => n > 0,
                    Err(e) => e.kind() == ErrorKind::WouldBlock,
                };
            }
            _ => {}
        }
        let writes = match self {
            Self::Head | Self::Body => socket.write(b"x").map(drop),
            _ => Ok(()),
        };
        let reads = match socket.read(&mut scratch) {
            Ok(n) => n > 0 && self == Self::Reader,
            Err(e) => e.kind() == ErrorKind::WouldBlock,
        };
        reads && writes.is_ok()
    }
}

/// Where a crowd goes.
#[derive(Clone, Copy)]
pub struct Targets {
    plain: SocketAddr,
    /// Clear text HTTP/2.
    h2c: SocketAddr,
}

impl Targets {
    /// Those of a proxy.
    pub fn of(proxy: &Running) -> Self {
        Self {
            plain: proxy.plain,
            h2c: proxy.h2c,
        }
    }
}

/// A connection with a receive buffer as small as can be, and segments as on Ethernet: with those of loopback the kernel
/// would take a MiB for it from the sender.
fn takes_little(target: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_recv_buffer_size(4096)?;
    socket.set_tcp_mss(1460)?;
    socket.connect(&target.into())?;
    Ok(socket.into())
}

/// A connection's preface with windows of nothing, and its requests.
pub fn windowless() -> Vec<u8> {
    /// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 §6.5.2) is 0.
    const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
    // `:method: GET`, `:scheme: http` by the static table (RFC 7541), path and authority as literals.
    const FIELDS: &[u8] = b"\x82\x86\x04\x03/1k\x01\x0bbench.local";
    let mut bytes = [h2_origin::PREFACE, SETTINGS].concat();
    for stream in (0..STREAMS).map(|n| 2 * n + 1) {
        // HEADERS with END_STREAM and END_HEADERS.
        bytes.extend([0, 0, FIELDS.len() as u8, 1, 5]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(FIELDS);
    }
    bytes
}

/// Clients on a thread of their own; gone when dropped.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    is_ready: mpsc::Receiver<Option<String>>,
}

impl Crowd {
    /// Returns when all of them are connected.
    fn gather(target: Targets, shape: &[(Kind, usize)]) -> Result<Self> {
        let crowd = Self::call(target, shape, Duration::ZERO);
        crowd.is_here()?;
        Ok(crowd)
    }

    /// Returns at once; they come one behind the other, evenly over this time, or as fast as they are let in.
    pub fn call(target: Targets, shape: &[(Kind, usize)], over: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let kinds: Vec<Kind> = shape
            .iter()
            .flat_map(|(kind, n)| std::iter::repeat_n(*kind, *n))
            .collect();
        let (ready, is_ready) = mpsc::channel();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let begun = Instant::now();
            let open = |(at, kind): (usize, &Kind)| {
                let due = begun + over.mul_f64(at as f64 / kinds.len() as f64);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                kind.open(target)
            };
            let opened: Result<Vec<_>> = kinds.iter().enumerate().map(open).collect();
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
    pub fn is_here(&self) -> Result<()> {
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
        (Kind::Stalled, options.stalled),
        (Kind::Windowless, options.windowless),
    ];
    let start = Instant::now();
    let targets = Targets {
        plain: options.target,
        h2c: options.target,
    };
    let crowd = Crowd::gather(targets, &shape)?;
    println!("all connected after {} ms", start.elapsed().as_millis());
    thread::sleep(options.length);
    drop(crowd);
    Ok(())
}

/// Spreads the clients' beats evenly; whoever was cut comes again.
fn dribble(target: Targets, kinds: &[Kind], clients: &mut [TcpStream], stop: &AtomicBool) {
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
fn weigh(proxy: &Running, kind: Kind, count: usize) -> Result<String> {
    let (before, _) = cpu::memory(&proxy.pids);
    let crowd = Crowd::gather(Targets::of(proxy), &[(kind, count)])?;
    thread::sleep(Duration::from_secs(1));
    let (used, start) = (cpu::time_used(&proxy.pids), Instant::now());
    thread::sleep(Duration::from_secs(4));
    let used = cpu::time_used(&proxy.pids) - used;
    let share = used as f64 / start.elapsed().as_nanos() as f64 * 100.0;
    let (after, _) = cpu::memory(&proxy.pids);
    drop(crowd);
    thread::sleep(Duration::from_millis(500));
    let kib = (after as f64 - before as f64) / count as f64;
    Ok(format!("{} {kib:.1} ({share:.1})", kind.name()))
}

/// Which crowd arrives, and which one is measured beside it.
struct Case {
    name: &'static str,
    crowd: Vec<(Kind, usize)>,
    alone: Vec<(Kind, usize)>,
    /// Under cutover's default limits per version.
    default_limits: bool,
}

fn cases(many: usize) -> [Case; 3] {
    let crowd = vec![
        (Kind::Head, many * 10 / 13),
        (Kind::Body, many * 2 / 13),
        (Kind::Reader, many / 13),
    ];
    [
        Case {
            name: "dribblers",
            alone: vec![(Kind::Silent, crowd[0].1)],
            crowd,
            default_limits: false,
        },
        Case {
            name: "stalled downloads",
            crowd: vec![(Kind::Stalled, STALLED)],
            alone: Vec::new(),
            default_limits: true,
        },
        Case {
            name: "streams without window",
            crowd: vec![(Kind::Windowless, WINDOWLESS)],
            alone: Vec::new(),
            default_limits: true,
        },
    ]
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut table = Table {
        head: [
            "proxy",
            "crowd",
            "p99 alone, µs",
            "while they come, µs",
            "beside them, µs",
            "ratio",
            "p50 ratio",
            "failed",
            "KiB of a client (CPU % of all)",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Table::default()
    };
    let cases = cases(stage.bench.idle);
    let [dribblers, ..] = &cases;
    table.notes.push(format!(
        "{} clients dribble heads, {} bodies, {} read slowly (a byte or a KiB each 2 s); good traffic: 1,000 requests/s, open loop",
        dribblers.crowd[0].1, dribblers.crowd[1].1, dribblers.crowd[2].1
    ));
    table.notes.push(format!(
        "{STALLED} clients ask for 8 MiB and read nothing; {WINDOWLESS} connections of HTTP/2 ask for 1 KiB on each of {STREAMS} streams without a window. \
         Beside both, cutover has its default limits per version"
    ));
    for contender in stage.contenders {
        for case in &cases {
            let contender = Contender {
                default_limits: case.default_limits,
                ..contender.clone()
            };
            let row = stage
                .start(&contender, 1)
                .and_then(|proxy| press(stage, &proxy, case));
            let names = [contender.name.clone(), case.name.to_owned()];
            match row {
                Ok(row) => table.rows.push(names.into_iter().chain(row).collect()),
                Err(error) => table
                    .notes
                    .push(format!("{}, {} is left out: {error}", names[0], names[1])),
            }
        }
    }
    Ok(table)
}

fn press(stage: &Stage, proxy: &Running, case: &Case) -> Result<Vec<String>> {
    let kinds = case.alone.iter().chain(&case.crowd);
    let weights: Result<Vec<String>> = kinds
        .map(|(kind, count)| weigh(proxy, *kind, *count))
        .collect();
    let weights = weights?;
    let (mut alone, mut coming, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..stage.bench.rounds {
        alone.push(good(stage, proxy.plain)?);
        let crowd = Crowd::call(Targets::of(proxy), &case.crowd, Duration::ZERO);
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
    Ok(vec![
        with_range(stats::spread(alone.iter().map(|s| s.p99))),
        with_range(stats::spread(coming.iter().map(|s| s.p99))),
        with_range(stats::spread(beside.iter().map(|s| s.p99))),
        ratio(|s| s.p99),
        ratio(|s| s.p50),
        failed.to_string(),
        weights.join(", "),
    ])
}
