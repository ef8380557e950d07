//! What a fleet adds to a GET 1 KiB while its etcd is there, gone, or of no use: the same requests to a proxy of a fleet and to one
//! without.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::bad_target::{BadTarget, Badness};
use crate::cases::Stage;
use crate::load::{Load, get};
use crate::peers::{self, Contender, Kind, Running};
use crate::report::{Table, with_range};
use crate::rounds::{Sample, sample_spread};
use crate::stats::{median, spread};
use crate::{Result, cpu, together};

/// What a proxy finds at the address of etcd.
enum Etcd {
    /// There is no `[fleet]`: shows what two equal proxies differ by.
    NoFleet,
    /// A real etcd.
    Answers(RealEtcd),
    /// Nobody listens.
    Gone(SocketAddr),
    /// Something that isn't etcd.
    Useless(Badness, BadTarget),
}

impl Etcd {
    fn name(&self) -> String {
        match self {
            Self::NoFleet => "no fleet".to_owned(),
            Self::Answers(_) => "etcd answers".to_owned(),
            Self::Gone(_) => "etcd is gone".to_owned(),
            Self::Useless(badness, _) => format!("etcd {}", badness.name()),
        }
    }

    /// The table of the configuration.
    fn table(&self) -> String {
        let at = match self {
            Self::NoFleet => return String::new(),
            Self::Answers(etcd) => etcd.at,
            Self::Gone(at) => *at,
            Self::Useless(_, target) => target.at,
        };
        format!("[fleet]\netcd = \"http://{at}\"\nname = \"bench\"\nmember = \"m\"\n")
    }
}

/// A running etcd; ended when dropped.
struct RealEtcd {
    child: Child,
    at: SocketAddr,
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl RealEtcd {
    /// Starts one on the load's core. `None` where it isn't installed.
    fn start(stage: &Stage) -> Result<Option<Self>> {
        let Some(program) = peers::installed("etcd") else {
            return Ok(None);
        };
        let dir = stage.scratch.dir("etcd")?;
        let [at, peers] = peers::free_addresses()?;
        let mut command = Command::new(program);
        command
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--logger", "zap", "--unsafe-no-fsync"])
            .args(["--listen-client-urls", &format!("http://{at}")])
            .args(["--advertise-client-urls", &format!("http://{at}")])
            .args(["--listen-peer-urls", &format!("http://{peers}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peers}")])
            .args(["--initial-cluster", &format!("default=http://{peers}")])
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("output"))?);
        let child = cpu::on_core(stage.bench.load_core, || Ok(command.spawn()?))?;
        let etcd = Self { child, at };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(at).is_err() {
            if Instant::now() > end {
                return Err("etcd doesn't listen".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(etcd))
    }
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut table = Table {
        head: [
            "proxy, etcd",
            "CPU µs/request",
            "with / without a fleet",
            "mean, and its standard error",
            "errors",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![
            "with / without: CPU time per request of a proxy of a fleet over that of one without, under the same load at the same time; both are new processes in each round; that of all threads, so that the attempts to reach etcd are included".to_owned(),
        ],
        ..Table::default()
    };
    let core = stage.bench.load_core;
    let mut etcds = vec![
        Etcd::NoFleet,
        Etcd::Gone(peers::free_address()?),
        Etcd::Useless(Badness::Hangs, BadTarget::start(Badness::Hangs, core)?),
        Etcd::Useless(Badness::Resets, BadTarget::start(Badness::Resets, core)?),
    ];
    match RealEtcd::start(stage)? {
        Some(etcd) => etcds.insert(1, Etcd::Answers(etcd)),
        None => table
            .notes
            .push("a real etcd is left out: it isn't installed".to_owned()),
    }
    for contender in stage.contenders {
        let Kind::Cutover(binary) = &contender.kind else {
            continue;
        };
        let mut pairs: Vec<Vec<[Sample; 2]>> = etcds.iter().map(|_| Vec::new()).collect();
        // All kinds in each round, so that what changes over time meets all of them.
        for round in 0..stage.bench.rounds {
            for (etcd, pairs) in etcds.iter().zip(&mut pairs) {
                pairs.push(pair(stage, (contender, binary), etcd, round % 2 == 0)?);
            }
        }
        let rows = etcds.iter().zip(&pairs);
        table
            .rows
            .extend(rows.map(|(etcd, pairs)| row(contender, etcd, pairs)));
    }
    Ok(table)
}

/// Samples of a proxy of a fleet and of one without, taken at the same time.
fn pair(
    stage: &Stage,
    who: (&Contender, &Path),
    etcd: &Etcd,
    is_first: bool,
) -> Result<[Sample; 2]> {
    // Each process has another layout in memory, which may cost or spare a percent: new ones each time.
    let with = start(stage, who, "with", &etcd.table())?;
    let without = start(stage, who, "without", "")?;
    let sample = |proxy: &Running| sample_spread(stage, proxy, &load(stage, proxy), &requests());
    let (with, without) = if is_first {
        together::both(|| sample(&with), || sample(&without))?
    } else {
        let (without, with) = together::both(|| sample(&without), || sample(&with))?;
        (with, without)
    };
    Ok([with, without])
}

fn requests() -> [Vec<u8>; 1] {
    [get("/1k", "")]
}

fn load(stage: &Stage, proxy: &Running) -> Load {
    Load {
        target: proxy.plain,
        connections: stage.bench.connections,
        request: Vec::new(),
        body: 1024,
        tls: None,
        fresh: false,
        rate: None,
        warm_up: Duration::from_millis(500),
        length: stage.bench.length,
    }
}

fn start(
    stage: &Stage,
    (contender, binary): (&Contender, &Path),
    kind: &str,
    table: &str,
) -> Result<Running> {
    let dir = stage
        .scratch
        .dir(&format!("fleet-{}-{kind}", contender.name))?;
    let (plain, origin) = (peers::free_address()?, stage.origin.plain);
    let text = format!(
        "workers = 1\nstate_dir = \"{}\"\nlisten = \"{plain}\"\n\n{table}\n\
         [defaults.limits]\nconnections = 0\npending = 0\nrequests = 0\n\n\
         [service.app]\nstable = \"v1\"\nversions = {{ v1 = [\"{origin}\"] }}\n",
        dir.display(),
    );
    let file = dir.join("conf");
    fs::write(&file, text)?;
    let mut command = Command::new(binary);
    command.arg("run").arg("-c").arg(&file);
    let core = stage.bench.proxy_core;
    peers::launch(&contender.name, command, &dir, core, [plain; 3])
}

fn row(contender: &Contender, etcd: &Etcd, pairs: &[[Sample; 2]]) -> Vec<String> {
    let ratios: Vec<_> = { pairs.iter() }
        .map(|[with, without]| with.cost / without.cost)
        .collect();
    let count = ratios.len() as f64;
    let mean = ratios.iter().sum::<f64>() / count;
    let squares: f64 = ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum();
    // NaN for a single round, which says nothing about the error.
    let error = (squares / (count - 1.0) / count).sqrt();
    let errors = pairs.iter().flatten().map(|sample| sample.errors);
    vec![
        format!("{}, {}", contender.name, etcd.name()),
        format!("{:.2}", median(pairs.iter().map(|[with, _]| with.cost))),
        with_range(spread(ratios)),
        format!("{mean:.4} ± {error:.4}"),
        errors.sum::<u64>().to_string(),
    ]
}
