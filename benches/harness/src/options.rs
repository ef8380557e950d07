//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::copy::ByteCopyOptions;

/// What `--help` prints.
pub const HELP: &str = "\
usage: cutover-bench bench [options]      run cases and print a table for each
       cutover-bench origin --port N [--core C] [--addresses N]
       cutover-bench load ADDRESS [PATH] [options]
       cutover-bench crowd ADDRESS [options]

bench options
  --case A,B         cases to run (default: all)
  --list             name the cases and end
  --rounds N         interleaved rounds (default 7)
  --together         all proxies at the same time in each round: ratios hold on a machine that is busy
  --seconds S        measured seconds of each run (default 1)
  --connections N    connections of the closed and open loops (default 64)
  --only A,B         proxies to run: nginx, nginx64, haproxy, cutover (default: all); and copy, which passes
                     bytes on unread and takes part in scale only
  --cutover [NAME=]BIN   a built cutover instead of building one; repeat it to compare several
  --profile P        cargo profile to build cutover with (default dist)
  --proxy-core N     core of the proxy under test (default 0)
  --load-core N      core of origin and load generator (default 1)
  --idle N           connections of the idle cases (default 9000)
  --rate N           requests per second of the latency case (default 8000)
  --no-valgrind      count no instructions
  --write            write benches/RESULTS.md (only after a run of all cases)

load options
  --connections N    kept-alive connections (default 64)
  --seconds S        (default 3)
  --rate N           open loop at N requests per second, latency from the intended send time
  --tls, --fresh     over TLS; a new connection for every request

crowd options
  --silent N, --heads N, --bodies N, --readers N, --stalled N, --windowless N
                     clients that send nothing, dribble heads, dribble bodies, read slowly, read nothing,
                     ask on 128 streams of HTTP/2 without a window (default 0)
  --seconds S        how long they stay once all are connected (default 3)";

/// What to do.
pub enum Command {
    /// Print [`HELP`].
    Help,
    /// Be the origin.
    Origin {
        /// Port on 127.0.0.1.
        port: u16,
        /// Core to stay on.
        core: Option<usize>,
        /// How many addresses, from 127.0.0.1.
        addresses: usize,
    },
    /// Be the byte copy, which the case `scale` starts; `--help` doesn't name it.
    Copy(ByteCopyOptions),
    /// Generate load by hand.
    Load(ByHand),
    /// Be slow clients by hand.
    Crowd(ByHandCrowd),
    /// Run cases.
    Bench(Bench),
}

/// `crowd`.
pub struct ByHandCrowd {
    /// Where to.
    pub target: SocketAddr,
    /// Clients that send nothing.
    pub silent: usize,
    /// That dribble heads.
    pub heads: usize,
    /// That dribble bodies.
    pub bodies: usize,
    /// That read slowly.
    pub readers: usize,
    /// That read nothing.
    pub stalled: usize,
    /// Connections of HTTP/2 that open no window.
    pub windowless: usize,
    /// How long they stay.
    pub length: Duration,
}

/// `load`.
pub struct ByHand {
    /// Where to.
    pub target: SocketAddr,
    /// Path of the GET.
    pub path: String,
    /// Connections kept open.
    pub connections: usize,
    /// Measured time.
    pub length: Duration,
    /// Requests per second; `None` = closed loop.
    pub rate: Option<u32>,
    /// Over TLS.
    pub tls: bool,
    /// A new connection for each request.
    pub fresh: bool,
}

/// `bench`.
pub struct Bench {
    /// Names of cases; empty = all.
    pub cases: Vec<String>,
    /// Only name the cases.
    pub list: bool,
    /// Interleaved rounds.
    pub rounds: usize,
    /// All proxies run at the same time in each round.
    pub together: bool,
    /// Measured time of one run.
    pub length: Duration,
    /// Connections of the closed and open loops.
    pub connections: usize,
    /// Proxies to run; empty = all.
    pub only: Vec<String>,
    /// Built binaries with the names they get in tables.
    pub binaries: Vec<(String, PathBuf)>,
    /// Cargo profile when one must be built.
    pub profile: String,
    /// Core of the proxy.
    pub proxy_core: usize,
    /// Core of origin and load.
    pub load_core: usize,
    /// Connections of the idle cases.
    pub idle: usize,
    /// Requests per second of the latency case.
    pub rate: u32,
    /// Count instructions where a case does, if valgrind is installed.
    pub valgrind: bool,
    /// Write RESULTS.md.
    pub write: bool,
}

/// Reads the arguments that follow the program's name.
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Command> {
    let all: Vec<String> = arguments.collect();
    if all.iter().any(|a| matches!(a.as_str(), "--help" | "-h")) {
        return Ok(Command::Help);
    }
    let mut arguments = all.into_iter();
    match arguments.next().as_deref() {
        Some("bench") => bench(arguments).map(Command::Bench),
        Some("origin") => origin(arguments),
        Some("copy") => copy(arguments).map(Command::Copy),
        Some("load") => by_hand(arguments).map(Command::Load),
        Some("crowd") => crowd(arguments).map(Command::Crowd),
        None | Some("help") => Ok(Command::Help),
        Some(other) => Err(format!("unknown command `{other}`; try --help").into()),
    }
}

fn value<T: std::str::FromStr>(
    option: &str,
    arguments: &mut impl Iterator<Item = String>,
) -> Result<T> {
    let text = arguments
        .next()
        .ok_or_else(|| format!("{option} needs a value"))?;
    text.parse()
        .map_err(|_| format!("{option} can't be `{text}`; try --help").into())
}

fn names(option: &str, arguments: &mut impl Iterator<Item = String>) -> Result<Vec<String>> {
    let text: String = value(option, arguments)?;
    Ok(text.split(',').map(|name| name.trim().to_owned()).collect())
}

fn seconds(option: &str, arguments: &mut impl Iterator<Item = String>) -> Result<Duration> {
    Duration::try_from_secs_f64(value(option, arguments)?)
        .map_err(|_| format!("{option} must be a positive number").into())
}

fn bench(mut arguments: impl Iterator<Item = String>) -> Result<Bench> {
    let mut bench = Bench {
        cases: Vec::new(),
        list: false,
        rounds: 7,
        together: false,
        length: Duration::from_secs(1),
        connections: 64,
        only: Vec::new(),
        binaries: Vec::new(),
        profile: "dist".to_owned(),
        proxy_core: 0,
        load_core: 1,
        idle: 9000,
        rate: 8000,
        valgrind: true,
        write: false,
    };
    let a = &mut arguments;
    while let Some(option) = a.next() {
        match option.as_str() {
            "--case" => bench.cases.extend(names(&option, a)?),
            "--list" => bench.list = true,
            "--no-valgrind" => bench.valgrind = false,
            "--rounds" => bench.rounds = value::<usize>(&option, a)?.max(1),
            "--together" => bench.together = true,
            "--seconds" => bench.length = seconds(&option, a)?,
            "--connections" => bench.connections = value::<usize>(&option, a)?.max(1),
            "--only" => bench.only.extend(names(&option, a)?),
            "--cutover" => {
                let text: String = value(&option, a)?;
                let (name, path) = text.split_once('=').unwrap_or(("cutover", &text));
                if bench.binaries.iter().any(|(taken, _)| taken == name) {
                    return Err(format!("two binaries named `{name}`; use NAME=BIN").into());
                }
                bench.binaries.push((name.to_owned(), path.into()));
            }
            "--profile" => bench.profile = value(&option, a)?,
            "--proxy-core" => bench.proxy_core = value(&option, a)?,
            "--load-core" => bench.load_core = value(&option, a)?,
            "--idle" => bench.idle = value(&option, a)?,
            "--rate" => bench.rate = value::<u32>(&option, a)?.max(1),
            "--write" => bench.write = true,
            other => return Err(format!("unknown option `{other}`; try --help").into()),
        }
    }
    Ok(bench)
}

fn origin(mut arguments: impl Iterator<Item = String>) -> Result<Command> {
    let (mut port, mut core, mut addresses) = (0, None, 1);
    let a = &mut arguments;
    while let Some(option) = a.next() {
        match option.as_str() {
            "--port" => port = value(&option, a)?,
            "--core" => core = Some(value(&option, a)?),
            "--addresses" => addresses = value(&option, a)?,
            other => return Err(format!("unknown option `{other}`; try --help").into()),
        }
    }
    Ok(Command::Origin {
        port,
        core,
        addresses,
    })
}

fn copy(mut arguments: impl Iterator<Item = String>) -> Result<ByteCopyOptions> {
    let mut copy = ByteCopyOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        origin_port: 0,
        addresses: 1,
        endpoints: 1,
    };
    let a = &mut arguments;
    while let Some(option) = a.next() {
        match option.as_str() {
            "--listen" => copy.listen = value(&option, a)?,
            "--origin-port" => copy.origin_port = value(&option, a)?,
            "--addresses" => copy.addresses = value::<usize>(&option, a)?.max(1),
            "--endpoints" => copy.endpoints = value::<usize>(&option, a)?.max(1),
            other => return Err(format!("unknown option `{other}`; try --help").into()),
        }
    }
    Ok(copy)
}

fn by_hand(mut arguments: impl Iterator<Item = String>) -> Result<ByHand> {
    let mut load = ByHand {
        target: value("load", &mut arguments)?,
        path: "/1k".to_owned(),
        connections: 64,
        length: Duration::from_secs(3),
        rate: None,
        tls: false,
        fresh: false,
    };
    let a = &mut arguments;
    while let Some(option) = a.next() {
        match option.as_str() {
            "--connections" => load.connections = value::<usize>(&option, a)?.max(1),
            "--seconds" => load.length = seconds(&option, a)?,
            "--rate" => load.rate = Some(value::<u32>(&option, a)?.max(1)),
            "--tls" => load.tls = true,
            "--fresh" => load.fresh = true,
            path if path.starts_with('/') => load.path = path.to_owned(),
            other => return Err(format!("unknown option `{other}`; try --help").into()),
        }
    }
    Ok(load)
}

fn crowd(mut arguments: impl Iterator<Item = String>) -> Result<ByHandCrowd> {
    let mut crowd = ByHandCrowd {
        target: value("crowd", &mut arguments)?,
        silent: 0,
        heads: 0,
        bodies: 0,
        readers: 0,
        stalled: 0,
        windowless: 0,
        length: Duration::from_secs(3),
    };
    let a = &mut arguments;
    while let Some(option) = a.next() {
        match option.as_str() {
            "--silent" => crowd.silent = value(&option, a)?,
            "--heads" => crowd.heads = value(&option, a)?,
            "--bodies" => crowd.bodies = value(&option, a)?,
            "--readers" => crowd.readers = value(&option, a)?,
            "--stalled" => crowd.stalled = value(&option, a)?,
            "--windowless" => crowd.windowless = value(&option, a)?,
            "--seconds" => crowd.length = seconds(&option, a)?,
            other => return Err(format!("unknown option `{other}`; try --help").into()),
        }
    }
    Ok(crowd)
}
