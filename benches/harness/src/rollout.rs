//! Steps of a rollout on one of 1,000 services, and what they cost the requests of the others.

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::cases::Stage;
use crate::peers::{self, Contender, Kind, Running};
use crate::report::Table;
use crate::town::Town;
use crate::window::{Pairs, RATE, Seen, watch};
use crate::{Result, cpu};

const TOWN: Town = Town::LARGE;

/// The time that is watched.
const WINDOW: Duration = Duration::from_secs(5);
/// When in it the first step is approved, and the time from one step to the next.
const STEP_EVERY: Duration = Duration::from_secs(1);
/// Steps in a window.
const STEPS: usize = 4;

/// A proxy with a service that walks a plan, beside 1,000 that don't.
struct Walking {
    proxy: Running,
    /// The control socket.
    control: PathBuf,
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let origin = peers::start_origin(stage.bench.load_core, TOWN.addresses())?;
    let stage = &Stage {
        origin: &origin,
        ..*stage
    };
    let mut table = Table {
        head: [
            "proxy",
            "above 10 ms",
            "above 10 ms without steps",
            "slowest, ms",
            "slowest without, ms",
            "p99, ms",
            "p99 without, ms",
            "errors",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![format!(
            "sums of all rounds for requests above 10 ms, else medians; in each round one window of {} requests in {WINDOW:?} without steps and one with {STEPS}; proxy and its control thread share one core",
            RATE * WINDOW.as_secs() as u32,
        )],
        ..Table::default()
    };
    for contender in stage.contenders {
        if let Kind::Cutover(binary) = &contender.kind {
            match walk(stage, contender, binary) {
                Ok(row) => table.rows.push(row),
                Err(error) => {
                    let note = format!("{} is left out: {error}", contender.name);
                    table.notes.push(note);
                }
            }
        }
    }
    Ok(table)
}

fn walk(stage: &Stage, contender: &Contender, binary: &Path) -> Result<Vec<String>> {
    let walking = Walking::start(stage, contender, binary)?;
    let requests = TOWN.requests();
    // Pools are warm then.
    walking.quiet(stage, &requests)?;
    let pairs = Pairs::watch(
        stage.bench.rounds,
        || walking.steps(stage, &requests),
        || walking.quiet(stage, &requests),
    )?;
    let errors: u64 = pairs
        .with
        .iter()
        .chain(&pairs.without)
        .map(|s| s.errors)
        .sum();
    let mut row = vec![contender.name.clone()];
    row.extend(pairs.sums(|seen| seen.slow));
    row.extend(pairs.medians(|seen| seen.slowest));
    row.extend(pairs.medians(|seen| seen.p99));
    row.push(errors.to_string());
    Ok(row)
}

/// The service that walks: a step for each that will be taken, each until it is approved.
fn service(origin: SocketAddr, steps: usize) -> String {
    let shares: Vec<String> = (1..=steps)
        .map(|n| format!("\"{:.3}% until approved\"", n as f64 * 90.0 / steps as f64))
        .collect();
    format!(
        "[service.walking]\nhosts = [\"walking.bench.local\"]\nstable = \"v1\"\nsplit = {{ v2 = \"rollout\" }}\n\
         [service.walking.versions]\nv1 = [\"{origin}\"]\nv2 = [\"{origin}\"]\n\
         [service.walking.rollout]\nsteps = [{}]\n",
        shares.join(", ")
    )
}

impl Walking {
    fn start(stage: &Stage, contender: &Contender, binary: &Path) -> Result<Self> {
        let dir = stage.scratch.dir(&format!("rollout-{}", contender.name))?;
        let plain = peers::free_address()?;
        let head = format!(
            "workers = 1\nstate_dir = \"{}\"\nlisten = \"{plain}\"\n",
            dir.display()
        );
        let file = dir.join("conf");
        // The first step is taken at the start.
        let steps = stage.bench.rounds * STEPS + 1;
        let origin = stage.origin.plain;
        let text = head + &TOWN.cutover(origin, 0, 0) + &service(origin, steps);
        fs::write(&file, text)?;
        let mut command = Command::new(binary);
        command.arg("run").arg("-c").arg(&file);
        let core = stage.bench.proxy_core;
        let proxy = peers::launch(&contender.name, command, &dir, core, [plain; 3])?;
        let mut names = fs::read_dir(&dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_control = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("control-"))
        };
        let control = names.find(is_control).ok_or("no control socket")?;
        Ok(Self { proxy, control })
    }

    fn quiet(&self, stage: &Stage, requests: &[Vec<u8>]) -> Result<Seen> {
        watch(stage, self.proxy.plain, requests, WINDOW)
    }

    /// Approves steps in the middle of a window.
    fn steps(&self, stage: &Stage, requests: &[Vec<u8>]) -> Result<Seen> {
        let core = stage.bench.load_core;
        let (approved, seen) = thread::scope(|scope| {
            let operator = scope.spawn(move || {
                cpu::pin(core).map_err(|error| error.to_string())?;
                for _ in 0..STEPS {
                    thread::sleep(STEP_EVERY);
                    self.approve()?;
                }
                Ok::<_, String>(())
            });
            let seen = watch(stage, self.proxy.plain, requests, WINDOW);
            (operator.join(), seen)
        });
        approved.map_err(|_| "the thread that approves panicked")??;
        seen
    }

    /// Ends a step. It is refused while the next one has not begun, which takes up to a second.
    fn approve(&self) -> std::result::Result<(), String> {
        let began = Instant::now();
        loop {
            // Not by the command: a process would take time from the load and the origin, whose core it shares.
            let answer = post(&self.control).map_err(|error| error.to_string())?;
            if answer.starts_with("HTTP/1.1 200") {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(10) {
                return Err(answer);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Approves the present step: the answer.
fn post(control: &Path) -> io::Result<String> {
    let mut socket = UnixStream::connect(control)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let body = "{\"by\":\"bench\"}";
    write!(
        socket,
        "POST /api/v1/services/walking/rollout/approve HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}
