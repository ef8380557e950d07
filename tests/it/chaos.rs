//! Chaos, bounded and repeatable: whatever endpoints and operators do, idempotent traffic doesn't notice, and nothing is left behind.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use crate::support::client::Client;
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Builder, Proxy, serve};
use crate::support::{PATIENCE, free_port, noise, pause, until};

/// How long it goes on.
const LONG: Duration = Duration::from_secs(15);
const CLIENTS: u64 = 8;
/// Endpoints whose script changes; one more is always well, and two are processes.
const MOODY: usize = 4;

/// What a moody endpoint does with each request; 0 = answers.
const MOODS: [&str; 6] = ["well", "resets", "closes", "503", "slow", "silent"];

fn moody(mood: &Arc<AtomicU8>) -> Origin {
    let mood = mood.clone();
    Origin::each(move |request, conn| {
        match MOODS[usize::from(mood.load(Ordering::SeqCst))] {
            "resets" => {
                conn.reset()?;
                return Err(io::Error::other("reset"));
            }
            "closes" => return Err(io::Error::other("closed")),
            "503" => return conn.reply(503, "no"),
            "slow" => conn.wait(Duration::from_millis(100))?,
            "silent" => return conn.peer_closes(PATIENCE).map(drop),
            _ => {}
        }
        echo(&request.target(), &request.body, conn)
    })
}

/// The target, and what came, so that a stranger's answer or a torn body would show.
fn echo(target: &str, body: &[u8], conn: &mut Conn) -> io::Result<()> {
    let len = target.len() + body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n{target}");
    conn.write(&[head.as_bytes(), body].concat())
}

/// An endpoint that is a process of its own: this program before an origin that is well.
struct Process {
    port: u16,
    origin: Origin,
    process: Option<Proxy>,
}

impl Process {
    fn new() -> Self {
        let mut this = Self {
            port: free_port(),
            origin: moody(&Arc::default()),
            process: None,
        };
        this.start();
        this
    }

    fn start(&mut self) {
        let text = format!(
            "listen = \"127.0.0.1:{}\"\nadmin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
             [service.app]\nversions = {{ v1 = [\"{}\"] }}\n",
            self.port,
            self.origin.at()
        );
        self.process = Some(Builder::new(&text).start());
    }

    fn is_up(&self) -> bool {
        self.process.is_some()
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.take().expect("it ran").ended();
    }
}

/// Everything that may break.
struct Fleet {
    well: Origin,
    moods: [Arc<AtomicU8>; MOODY],
    moody: [Origin; MOODY],
    killed: Process,
    frozen: Process,
}

impl Fleet {
    fn new() -> Self {
        let moods: [Arc<AtomicU8>; MOODY] = Default::default();
        Self {
            well: moody(&Arc::default()),
            moody: moods.each_ref().map(moody),
            moods,
            killed: Process::new(),
            frozen: Process::new(),
        }
    }

    /// All endpoints but the first moody ones; the canary's share is this many percent.
    fn file(&self, without: usize, share: u8) -> String {
        let moody = self.moody.iter().skip(without).map(Origin::at);
        let processes = [&self.killed, &self.frozen].map(|p| format!("127.0.0.1:{}", p.port));
        let all = moody.chain(processes).chain([self.well.at()]);
        let all: Vec<_> = all.map(|at| format!("\"{at}\"")).collect();
        format!(
            "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"{share}%\" }}\n\
             timeouts = {{ connect = \"500ms\", first_byte = \"500ms\", idle = \"2s\" }}\n\
             retry = {{ tries = 10, budget = \"100%\" }}\nlimits.retries = 0\n\
             [service.app.outlier]\neject = \"500ms\"\neject_max = \"1s\"\nmax_ejected = \"90%\"\n\
             [service.app.versions]\nv1 = [{}]\nv2 = [{}]\n",
            all.join(", "),
            [&all[0], &all[all.len() - 1]]
                .map(String::as_str)
                .join(", ")
        )
    }

    /// One thing happens.
    fn act(&mut self, rng: &mut Rng, proxy: &Proxy) {
        match rng.u8(0..10) {
            0 | 1 if self.killed.is_up() => self.killed.kill(),
            0 | 1 => self.killed.start(),
            2 => self.frozen.signal(Signal::STOP),
            3 => self.frozen.signal(Signal::CONT),
            4 | 5 => edit(proxy, &self.file(rng.usize(0..MOODY), rng.u8(0..60))),
            _ => {
                let moody = &self.moods[rng.usize(..MOODY)];
                moody.store(rng.u8(0..MOODS.len() as u8), Ordering::SeqCst);
            }
        }
    }

    /// Everything is well again, and in the file.
    fn calm(&mut self, proxy: &Proxy) {
        for mood in &self.moods {
            mood.store(0, Ordering::SeqCst);
        }
        self.frozen.signal(Signal::CONT);
        if !self.killed.is_up() {
            self.killed.start();
        }
        edit(proxy, &self.file(0, 61));
    }
}

/// Edits the file, unless it says so already.
fn edit(proxy: &Proxy, rest: &str) {
    let now = std::fs::read_to_string(proxy.file()).expect("the configuration");
    if now != proxy.whole(rest) {
        proxy.edit(rest);
    }
}

/// GETs and PUTs until told to stop; how many.
fn drive(port: u16, id: u64, stop: &AtomicBool) -> usize {
    let mut rng = Rng::with_seed(id);
    let mut client = Client::new(port);
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        let target = format!("/{id}-{count}");
        let body = match rng.bool() {
            true => noise(rng.u64(..), rng.usize(..20_000)),
            false => Vec::new(),
        };
        let goes_on = ask(&mut client, &target, &body)
            .unwrap_or_else(|what| panic!("{target}, {} bytes: {what}", body.len()));
        count += 1;
        if !goes_on || rng.u8(0..20) == 0 {
            client = Client::new(port);
        }
        pause(Duration::from_millis(2));
    }
    count
}

/// Whether the connection goes on.
fn ask(client: &mut Client, target: &str, body: &[u8]) -> Result<bool, String> {
    let method = if body.is_empty() { "GET" } else { "PUT" };
    let len = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {len}\r\n\r\n");
    let sent = client.try_send([head.as_bytes(), body].concat());
    sent.map_err(|e| format!("not sent: {e}"))?;
    let answer = client.try_answer(method).map_err(|e| e.to_string())?;
    match answer.status() {
        200 if answer.body == [target.as_bytes(), body].concat() => Ok(!answer.says_close()),
        200 => Err("somebody else's answer".to_owned()),
        _ => Err(String::from_utf8_lossy(&answer.head).into_owned()),
    }
}

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: f64,
    resident: u64,
}

impl Held {
    fn by(proxy: &Proxy) -> Self {
        let metrics = proxy.metrics();
        Self {
            descriptors: proxy.descriptors(),
            threads: metrics.sum("process_threads", &[]),
            resident: proxy.resident(),
        }
    }
}

/// Processes that serve one after the other, the youngest last.
struct Line(Vec<Proxy>);

impl Line {
    fn now(&self) -> &Proxy {
        self.0.last().expect("one serves")
    }

    /// Another process takes over.
    fn takeover(&mut self) {
        let next = self.now().successor().expect("it takes over");
        self.0.push(next);
    }

    /// Waits until all but the youngest have ended well; how many these were.
    fn left(&mut self) -> usize {
        let former = self.0.len() - 1;
        for mut old in self.0.drain(..former) {
            assert_eq!(old.ended().code(), Some(0), "{}", old.log());
        }
        former
    }
}

#[test]
fn whatever_happens_to_endpoints_and_to_us_no_idempotent_request_fails() {
    let mut fleet = Fleet::new();
    let mut line = Line(vec![serve(&fleet.file(0, 60))]);
    let port = line.now().port;
    let before = Held::by(line.now());
    // What the allocator and the workers keep for good is there after some traffic.
    traffic(port, || pause(Duration::from_secs(2)));
    let warm = Held::by(line.now());
    let mut rng = Rng::with_seed(4);
    let mut acts = 0;
    let start = Instant::now();
    let count = traffic(port, || {
        while start.elapsed() < LONG {
            // The last process has a life of its own before it is looked at.
            match rng.u8(0..25) {
                0 if start.elapsed() < LONG * 2 / 3 => line.takeover(),
                _ => fleet.act(&mut rng, line.now()),
            }
            acts += 1;
            pause(Duration::from_millis(rng.u64(..100)));
        }
        fleet.calm(line.now());
    });
    let takeovers = line.left();
    let proxy = line.now();
    let gauges = [
        "cutover_connections",
        "cutover_upstream_connections",
        "http_requests_in_flight",
        "queue_depth",
    ];
    until("nothing is left open", || {
        let metrics = proxy.metrics();
        let closed = gauges.iter().all(|g| metrics.sum(g, &[]) == 0.0);
        (closed && proxy.descriptors() <= before.descriptors).then_some(())
    });
    let after = Held::by(proxy);
    println!(
        "{count} requests, {acts} acts, {takeovers} takeovers; before {before:?}, warm {warm:?}, after {after:?}"
    );
    assert!(acts >= 50 && count >= 1000, "{acts} acts, {count} requests");
    assert!(takeovers >= 2, "{takeovers} takeovers");
    assert!(after.threads <= warm.threads, "{warm:?}, now {after:?}");
    let grown = after.resident.saturating_sub(warm.resident);
    assert!(
        grown < 8 << 20,
        "{grown} bytes more: {warm:?}, now {after:?}"
    );
}

/// What happens under traffic; how many requests there were, all of them well.
fn traffic(port: u16, meanwhile: impl FnOnce()) -> usize {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|id| scope.spawn(move || drive(port, id, stop)))
            .collect();
        let result = catch_unwind(AssertUnwindSafe(meanwhile));
        stop.store(true, Ordering::SeqCst);
        let count = clients
            .into_iter()
            .map(|c| c.join().expect("a client"))
            .sum();
        if let Err(panic) = result {
            resume_unwind(panic);
        }
        count
    })
}
