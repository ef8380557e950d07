//! Good traffic before, while and after clients come that read slowly or not at all: what it sees of them.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::cases::Stage;
use crate::load::{self, Load};
use crate::peers::{Contender, Running};
use crate::pressure::{Crowd, Kind, STALLED, STREAMS, Targets, WINDOWLESS};
use crate::report::{Table, with_range};
use crate::{Result, cpu, stats};

/// Good requests a second on kept connections, and those with a new connection each.
const KEPT: u32 = 900;
const FRESH: u32 = 100;
/// How long good traffic runs alone, while they come, and after that: 10,000 requests in all.
const ALONE: Duration = Duration::from_secs(3);
const COMING: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(3);
/// The downloads come over this time, and the streams without window over half of it after them.
const OVER: Duration = Duration::from_secs(1);

/// What good requests of one phase saw, in milliseconds.
struct Seen {
    p50: f64,
    p99: f64,
    longest: f64,
    failed: u64,
}

/// Sends good requests for this long.
fn good(target: SocketAddr, connections: usize, length: Duration) -> Result<Seen> {
    let load = |rate, fresh| Load {
        target,
        connections,
        request: load::get("/1k", ""),
        body: 1024,
        tls: None,
        fresh,
        rate: Some(rate),
        warm_up: Duration::ZERO,
        length,
    };
    let (kept, fresh) = (load(KEPT, false), load(FRESH, true));
    let (kept, fresh) = thread::scope(|scope| {
        let fresh = scope.spawn(|| load::run(&fresh, |_| {}).map_err(|e| e.to_string()));
        (load::run(&kept, |_| {}), fresh.join())
    });
    let (kept, fresh) = (kept?, fresh.map_err(|_| "the load panicked")??);
    let mut latencies = [kept.latencies, fresh.latencies].concat();
    latencies.sort_unstable();
    let share = |share| stats::percentile(&latencies, share) / 1e6;
    Ok(Seen {
        p50: share(0.50),
        p99: share(0.99),
        longest: share(1.0),
        failed: kept.errors + fresh.errors,
    })
}

/// One run of a proxy: its three phases, and its resident memory in MiB before and after.
struct Run {
    phases: [Seen; 3],
    rss: (f64, f64),
}

fn once(stage: &Stage, contender: &Contender) -> Result<Run> {
    let proxy: Running = stage.start(contender, 1)?;
    let connections = stage.bench.connections;
    let rss = || cpu::memory(&proxy.pids).0 as f64 / 1024.0;
    let good = |length| good(proxy.plain, connections, length);
    let alone = good(ALONE)?;
    let before = rss();
    let targets = Targets::of(&proxy);
    let half = STALLED / 2;
    let (downloads, coming) = thread::scope(|scope| {
        let gather = scope.spawn(|| {
            let pairs = [(Kind::Stalled, half), (Kind::Reader, STALLED - half)];
            let downloads = Crowd::call(targets, &pairs, OVER);
            downloads.is_here().map_err(|e| e.to_string())?;
            let streams = Crowd::call(targets, &[(Kind::Windowless, WINDOWLESS)], OVER / 2);
            streams.is_here().map_err(|e| e.to_string())?;
            Ok::<_, String>((downloads, streams))
        });
        let coming = good(COMING);
        (gather.join(), coming)
    });
    let crowd = downloads.map_err(|_| "the crowd panicked")??;
    let run = Run {
        phases: [alone, coming?, good(AFTER)?],
        rss: (before, rss()),
    };
    drop(crowd);
    Ok(run)
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let head = [
        "proxy",
        "phase",
        "p50, ms",
        "p99, ms",
        "longest, ms",
        "failed",
        "RSS, MiB",
    ];
    let mut table = Table {
        head: head.map(str::to_owned).to_vec(),
        ..Table::default()
    };
    table.notes.push(format!(
        "{KEPT} requests/s on kept connections and {FRESH} with a connection each, open loop: {} s alone, {} s while the crowd comes, {} s beside it",
        ALONE.as_secs(), COMING.as_secs(), AFTER.as_secs()
    ));
    table.notes.push(format!(
        "the crowd: within {} s {STALLED} clients ask for 8 MiB, of which half read nothing and half a KiB each 2 s, \
         and after them {WINDOWLESS} connections of HTTP/2 ask for 1 KiB on each of {STREAMS} streams without a window. \
         cutover has its default limits per version, the others have none",
        OVER.as_secs()
    ));
    for contender in stage.contenders {
        let contender = Contender {
            default_limits: true,
            ..contender.clone()
        };
        let runs: Result<Vec<Run>> = (0..stage.bench.rounds)
            .map(|_| once(stage, &contender))
            .collect();
        match runs {
            Ok(runs) => table.rows.extend(rows(&contender.name, &runs)),
            Err(error) => table
                .notes
                .push(format!("{} is left out: {error}", contender.name)),
        }
    }
    Ok(table)
}

/// A row for each phase.
fn rows(name: &str, runs: &[Run]) -> Vec<Vec<String>> {
    let phase = |at: usize, phase: &str| {
        let seen = || runs.iter().map(|run| &run.phases[at]);
        let of = |figure: fn(&Seen) -> f64| with_range(stats::spread(seen().map(figure)));
        let rss = runs
            .iter()
            .map(|run| if at == 0 { run.rss.0 } else { run.rss.1 });
        vec![
            name.to_owned(),
            phase.to_owned(),
            of(|s| s.p50),
            of(|s| s.p99),
            of(|s| s.longest),
            seen().map(|s| s.failed).sum::<u64>().to_string(),
            match at {
                1 => String::new(),
                _ => with_range(stats::spread(rss)),
            },
        ]
    };
    vec![
        phase(0, "alone"),
        phase(1, "while they come"),
        phase(2, "beside them"),
    ]
}
