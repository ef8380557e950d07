//! A deployment that can only run once: its endpoint is gone for 10 s, and requests wait for the next one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::cases::Stage;
use crate::load::{self, Load, Measured, get};
use crate::peers::{self, Contender, Kind, Running};
use crate::report::{Table, with_range};
use crate::stats::{percentile, spread};

/// Requests a second.
const RATE: u32 = 500;
const WARM_UP: Duration = Duration::from_secs(1);
/// The time that is watched, when in it the endpoint goes, and for how long.
const WINDOW: Duration = Duration::from_secs(20);
const GOES_AFTER: Duration = Duration::from_secs(3);
const GONE: Duration = Duration::from_secs(10);
/// More than the requests that are due in the gap: each has a connection of its own.
const CONNECTIONS: usize = 6_000;

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut table = Table {
        head: ["proxy", "answered", "failed", "slowest, s", "p50, ms"]
            .map(str::to_owned)
            .to_vec(),
        notes: vec![format!(
            "sums of all rounds, medians of times; in each round {RATE} requests/s for {WINDOW:?}, the only endpoint is killed and starts again at the same address {GONE:?} later, `wait = \"30s\"`"
        )],
        ..Table::default()
    };
    for contender in stage.contenders {
        let Kind::Cutover(binary) = &contender.kind else {
            continue;
        };
        match recreate(stage, contender, binary) {
            Ok(row) => table.rows.push(row),
            Err(error) => {
                let note = format!("{} is left out: {error}", contender.name);
                table.notes.push(note);
            }
        }
    }
    Ok(table)
}

fn recreate(stage: &Stage, contender: &Contender, binary: &Path) -> Result<Vec<String>> {
    let mut rounds = Vec::new();
    for round in 0..stage.bench.rounds {
        rounds.push(one(stage, (contender, binary), round)?);
    }
    let sum = |of: fn(&Measured) -> u64| rounds.iter().map(of).sum::<u64>().to_string();
    let of = |q: f64, unit: f64| {
        let figures = rounds.iter().map(|m| percentile(&m.latencies, q) / unit);
        with_range(spread(figures))
    };
    Ok(vec![
        contender.name.clone(),
        sum(|m| m.requests),
        sum(|m| m.errors),
        of(1.0, 1e9),
        of(0.5, 1e6),
    ])
}

/// One gap.
fn one(stage: &Stage, (contender, binary): (&Contender, &Path), round: usize) -> Result<Measured> {
    let core = stage.bench.load_core;
    let endpoint = peers::start_origin(core, 1)?;
    let at = endpoint.plain;
    let dir = stage
        .scratch
        .dir(&format!("recreate-{}-{round}", contender.name))?;
    let proxy = start(stage, (contender, binary), &dir, &endpoint)?;
    let load = Load {
        target: proxy.plain,
        connections: CONNECTIONS,
        request: get("/1k", ""),
        body: 1024,
        tls: None,
        fresh: false,
        rate: Some(RATE),
        warm_up: WARM_UP,
        length: WINDOW,
    };
    let (next, measured) = thread::scope(|scope| {
        let deployment = scope.spawn(move || {
            thread::sleep(WARM_UP + GOES_AFTER);
            let gone = Instant::now();
            drop(endpoint);
            thread::sleep(GONE.saturating_sub(gone.elapsed()));
            peers::start_origin_at(at, core, 1).map_err(|error| error.to_string())
        });
        let measured = load::run(&load, |_| {});
        (deployment.join(), measured)
    });
    let next = next.map_err(|_| "the thread of the deployment panicked")??;
    let mut measured = measured?;
    measured.latencies.sort_unstable();
    drop(next);
    let due = u64::from(RATE) * WINDOW.as_secs();
    // What is due at the very end isn't answered yet.
    if measured.requests + measured.errors + u64::from(RATE) < due {
        return Err(format!("{} of {due} requests were answered", measured.requests).into());
    }
    Ok(measured)
}

fn start(
    stage: &Stage,
    (contender, binary): (&Contender, &Path),
    dir: &Path,
    endpoint: &Running,
) -> Result<Running> {
    let plain = peers::free_address()?;
    let text = format!(
        "workers = 1\nstate_dir = \"{}\"\nlisten = \"{plain}\"\n\n[service.app]\nwait = \"30s\"\n\
         versions = {{ v1 = [\"{}\"] }}\n",
        dir.display(),
        endpoint.plain
    );
    let file = dir.join("conf");
    fs::write(&file, text)?;
    let mut command = Command::new(binary);
    command.arg("run").arg("-c").arg(&file);
    let core = stage.bench.proxy_core;
    peers::launch(&contender.name, command, dir, core, [plain; 3])
}
