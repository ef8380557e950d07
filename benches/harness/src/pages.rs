//! Open pages of the dashboard: what 50 streams of events cost the control thread, and what the workers notice of them.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Result;
use crate::cases::Stage;
use crate::cpu::ThreadTimes;
use crate::load::{self, Load};
use crate::peers::{self, Contender, Kind, Running};
use crate::report::{Table, with_range};
use crate::stats::spread;
use crate::town::Town;
use crate::window::RATE;

/// Pages that are open at the same time.
const PAGES: usize = 50;

/// The shortest time that is measured. Figures are told once a second.
const WINDOW: Duration = Duration::from_secs(2);

/// Sizes of the configuration, in services. All of them have traffic.
const SERVICES: [usize; 2] = [1, 1000];

/// What one window saw.
#[derive(Clone, Copy)]
struct Seen {
    /// Share of a core that the control thread used, in percent.
    control: f64,
    /// CPU time of the workers in µs per request.
    request: f64,
    /// Events that each page got, in KiB per second.
    told: f64,
    errors: u64,
}

/// Streams of events that are read by a thread each.
struct Pages {
    sockets: Vec<TcpStream>,
    readers: Vec<JoinHandle<()>>,
    bytes: Arc<AtomicU64>,
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut table = Table {
        head: [
            "proxy, services",
            "control thread without pages, % of a core",
            "with pages",
            "worker without, µs/request",
            "with",
            "with / without",
            "KiB/s a page",
            "errors",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![format!(
            "{PAGES} pages, {RATE} requests/s to all services in turn, two versions with two endpoints each; in each round a window of {:?} of two proxies at the same time on one core, one of them with pages; one worker each, which shares its core with the control thread",
            length(stage)
        )],
        ..Table::default()
    };
    for contender in stage.contenders {
        for services in SERVICES {
            if !matches!(contender.kind, Kind::Cutover(_)) {
                continue;
            }
            match pairs(stage, contender, services) {
                Ok(seen) => table.rows.push(row(contender, services, &seen)),
                Err(error) => {
                    let name = &contender.name;
                    let note = format!("{name} with {services} services is left out: {error}");
                    table.notes.push(note);
                }
            }
        }
    }
    Ok(table)
}

fn row(contender: &Contender, services: usize, seen: &[[Seen; 2]]) -> Vec<String> {
    let of = |pages: usize, figure: fn(&Seen) -> f64| {
        with_range(spread(seen.iter().map(|pair| figure(&pair[pages]))))
    };
    // Two proxies of one configuration differ by a few percent for as long as they live (where their memory lies), so that a ratio is
    // the mean of two rounds, in which each was the one with pages.
    let ratios = seen.chunks_exact(2).map(|rounds| {
        let of = |[without, with]: &[Seen; 2]| with.request / without.request;
        (of(&rounds[0]) * of(&rounds[1])).sqrt()
    });
    let ratio = spread(ratios).map_or_else(String::new, |s| {
        format!("{:.3} ({:.3}–{:.3})", s.median, s.min, s.max)
    });
    vec![
        format!("{}, {services}", contender.name),
        of(0, |s| s.control),
        of(1, |s| s.control),
        of(0, |s| s.request),
        of(1, |s| s.request),
        ratio,
        of(1, |s| s.told),
        { seen.iter().flatten() }
            .map(|s| s.errors)
            .sum::<u64>()
            .to_string(),
    ]
}

/// How long a window is.
fn length(stage: &Stage) -> Duration {
    stage.bench.length.max(WINDOW)
}

/// The unmeasured time before a window. The first event of a page is the whole status.
fn opening(requests: &[Vec<u8>]) -> Duration {
    Duration::from_millis(500 + 3 * requests.len() as u64)
}

/// Windows without and with pages, both at the same time: two proxies of the same configuration take turns at being the one with
/// pages.
fn pairs(stage: &Stage, contender: &Contender, services: usize) -> Result<Vec<[Seen; 2]>> {
    let town = Town {
        services,
        routes: 1,
        rules: 0,
        endpoints: 2,
        versions: 2,
    };
    let origin = peers::start_origin(stage.bench.load_core, town.addresses() + 2)?;
    let proxies = [
        start(stage, contender, &town, origin.plain, "a")?,
        start(stage, contender, &town, origin.plain, "b")?,
    ];
    let requests = town.requests();
    let at_once = |pages: [Option<&Pages>; 2]| -> Result<[Seen; 2]> {
        thread::scope(|scope| {
            let [first, second] = [0, 1].map(|n| {
                let (proxy, pages, requests) = (&proxies[n].0, pages[n], &requests);
                // An error can't leave its thread, its text can.
                scope.spawn(move || {
                    window(stage, proxy, requests, pages).map_err(|error| error.to_string())
                })
            });
            let of = |thread: thread::ScopedJoinHandle<'_, _>| -> Result<Seen> {
                Ok(thread.join().map_err(|_| "the load panicked")??)
            };
            Ok([of(first)?, of(second)?])
        })
    };
    // Pools are warm, and every service has had traffic for a minute's figures.
    at_once([None, None])?;
    let mut seen = Vec::new();
    for round in 0..stage.bench.rounds {
        let with = round % 2;
        let open = Pages::open(proxies[with].1)?;
        let mut pages = [None; 2];
        pages[with] = Some(&open);
        let both = at_once(pages)?;
        seen.push([both[1 - with], both[with]]);
    }
    Ok(seen)
}

fn start(
    stage: &Stage,
    contender: &Contender,
    town: &Town,
    origin: SocketAddr,
    which: &str,
) -> Result<(Running, SocketAddr)> {
    let Kind::Cutover(binary) = &contender.kind else {
        return Err("only cutover has such pages".into());
    };
    let dir = stage.scratch.dir(&format!(
        "pages-{}-{}-{which}",
        contender.name, town.services
    ))?;
    let [plain, admin] = peers::free_addresses()?;
    let text = format!(
        "workers = 1\nstate_dir = \"{}\"\nlisten = \"{plain}\"\nadmin = \"{admin}\"\n\n{}",
        dir.display(),
        town.cutover(origin, 0, 0)
    );
    let file = dir.join("conf");
    fs::write(&file, text)?;
    let mut command = Command::new(binary);
    command.arg("run").arg("-c").arg(&file);
    let core = stage.bench.proxy_core;
    let proxy = peers::launch(&contender.name, command, &dir, core, [plain; 3])?;
    Ok((proxy, admin))
}

fn window(
    stage: &Stage,
    proxy: &Running,
    requests: &[Vec<u8>],
    pages: Option<&Pages>,
) -> Result<Seen> {
    let load = Load {
        target: proxy.plain,
        connections: stage.bench.connections,
        request: Vec::new(),
        body: 1024,
        tls: None,
        fresh: false,
        rate: Some(RATE),
        warm_up: opening(requests),
        length: length(stage),
    };
    let told = || pages.map_or(0, |pages| pages.bytes.load(Ordering::Relaxed));
    let mut marks = Vec::new();
    let measured = load::run_spread(&load, requests, |_| {
        marks.push((ThreadTimes::read(&proxy.pids), told()));
    })?;
    let [(before, told_before), (after, told_after)] = &marks[..] else {
        return Err("the load was not measured".into());
    };
    let used = after.since(before);
    let seconds = measured.wall.as_secs_f64();
    Ok(Seen {
        control: used.others as f64 / 1e7 / seconds,
        request: used.workers as f64 / 1e3 / measured.requests as f64,
        told: (told_after - told_before) as f64 / 1024.0 / seconds / PAGES as f64,
        errors: measured.errors,
    })
}

impl Pages {
    fn open(admin: SocketAddr) -> Result<Self> {
        let mut pages = Self {
            sockets: Vec::new(),
            readers: Vec::new(),
            bytes: Arc::default(),
        };
        for _ in 0..PAGES {
            let mut socket = TcpStream::connect(admin)?;
            let request = format!("GET /api/v1/events HTTP/1.1\r\nhost: {admin}\r\n\r\n");
            socket.write_all(request.as_bytes())?;
            pages.sockets.push(socket.try_clone()?);
            let bytes = pages.bytes.clone();
            pages.readers.push(thread::spawn(move || {
                let mut piece = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = socket.read(&mut piece) {
                    bytes.fetch_add(read as u64, Ordering::Relaxed);
                }
            }));
        }
        Ok(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // It fails if the proxy has closed it before.
            let _ = socket.shutdown(Shutdown::Both);
        }
        for reader in self.readers.drain(..) {
            // A reader that has panicked has nothing to say.
            let _ = reader.join();
        }
    }
}
