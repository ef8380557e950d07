//! An access log whose disk is full, whose reader stalls or whose file is rotated: what users see of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::Mode;

use crate::Result;
use crate::cases::Stage;
use crate::load::get;
use crate::peers::{self, Contender, Kind, Running};
use crate::report::Table;
use crate::window::{Pairs, RATE, Seen, watch_proxy};

/// The time that is watched.
const WINDOW: Duration = Duration::from_secs(5);
/// How often the file is renamed.
const ROTATE_EVERY: Duration = Duration::from_millis(200);

/// What the log suffers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    FullDisk,
    StalledReader,
    Rotation,
}

impl Fault {
    const ALL: [Self; 3] = [Self::FullDisk, Self::StalledReader, Self::Rotation];

    const fn name(self) -> &'static str {
        match self {
            Self::FullDisk => "full disk",
            Self::StalledReader => "a pipe that nobody reads",
            Self::Rotation => "a file that is renamed five times a second",
        }
    }
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut table = Table {
        head: [
            "proxy, log",
            "above 10 ms",
            "above 10 ms, sound log",
            "slowest, ms",
            "slowest, sound log",
            "p99, ms",
            "p99, sound log",
            "failed",
            "failed, sound log",
            "CPU time, faulty / sound",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![format!(
            "sums of all rounds for requests above 10 ms and failed ones, else medians; in each round {} requests in {WINDOW:?} to a proxy with the fault, and at the same moment as many to one with a log to a file, on the same core",
            RATE * WINDOW.as_secs() as u32,
        )],
        ..Table::default()
    };
    for contender in stage.contenders {
        let Kind::Cutover(binary) = &contender.kind else {
            continue;
        };
        for fault in Fault::ALL {
            match beside(stage, contender, binary, fault) {
                Ok(row) => table.rows.push(row),
                Err(error) => table.notes.push(format!(
                    "{}, {}: left out: {error}",
                    contender.name,
                    fault.name()
                )),
            }
        }
    }
    Ok(table)
}

fn beside(
    stage: &Stage,
    contender: &Contender,
    binary: &Path,
    fault: Fault,
) -> Result<Vec<String>> {
    let faulty = Logging::start(stage, contender, binary, Some(fault))?;
    let sound = Logging::start(stage, contender, binary, None)?;
    // Pools are warm then.
    faulty.look(stage)?;
    sound.look(stage)?;
    let pairs = Pairs::together(
        stage.bench.rounds,
        || faulty.look(stage),
        || sound.look(stage),
    )?;
    let mut row = vec![format!("{}, {}", contender.name, fault.name())];
    row.extend(pairs.sums(|seen| seen.slow));
    row.extend(pairs.medians(|seen| seen.slowest));
    row.extend(pairs.medians(|seen| seen.p99));
    row.extend(pairs.sums(|seen| seen.errors));
    row.push(pairs.ratio(|seen| seen.cost));
    Ok(row)
}

/// A proxy with an access log.
struct Logging {
    proxy: Running,
    fault: Option<Fault>,
    log: PathBuf,
    /// Keeps the pipe open that nobody reads.
    _reader: Option<File>,
}

impl Logging {
    fn start(
        stage: &Stage,
        contender: &Contender,
        binary: &Path,
        fault: Option<Fault>,
    ) -> Result<Self> {
        let place = Fault::ALL.iter().position(|each| Some(*each) == fault);
        let dir = stage.scratch.dir(&format!(
            "log-{}-{}",
            contender.name,
            place.unwrap_or(Fault::ALL.len())
        ))?;
        let (plain, origin) = (peers::free_address()?, stage.origin.plain);
        let log = dir.join("access.log");
        let to = match fault {
            Some(Fault::FullDisk) => "/dev/full".to_owned(),
            Some(Fault::StalledReader) => "stdout".to_owned(),
            _ => log.display().to_string(),
        };
        let file = dir.join("conf");
        fs::write(
            &file,
            format!(
                "workers = 1\nstate_dir = \"{}\"\nlisten = \"{plain}\"\n\n[access_log]\nto = \"{to}\"\n\n\
                 [service.app]\nversions = {{ v1 = [\"{origin}\"] }}\n",
                dir.display()
            ),
        )?;
        let (command, reader) = if fault == Some(Fault::StalledReader) {
            let (command, reader) = into_pipe(binary, &file, &dir.join("pipe"))?;
            (command, Some(reader))
        } else {
            let mut command = Command::new(binary);
            command.arg("run").arg("-c").arg(&file);
            (command, None)
        };
        let core = stage.bench.proxy_core;
        let proxy = peers::launch(&contender.name, command, &dir, core, [plain; 3])?;
        Ok(Self {
            proxy,
            fault,
            log,
            _reader: reader,
        })
    }

    fn look(&self, stage: &Stage) -> Result<Seen> {
        let requests = [get("/1k", "")];
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            if self.fault == Some(Fault::Rotation) {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        // Fails until the proxy has opened a new file.
                        let _ = fs::rename(&self.log, self.log.with_extension("old"));
                        thread::sleep(ROTATE_EVERY);
                    }
                });
            }
            let seen = watch_proxy(stage, &self.proxy, &requests, WINDOW);
            ended.store(true, Ordering::Relaxed);
            seen
        })
    }
}

/// The command with its standard output into a pipe, and the end of it that is never read.
fn into_pipe(binary: &Path, file: &Path, pipe: &Path) -> Result<(Command, File)> {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        pipe,
        rustix::fs::FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )?;
    let reader = File::options().read(true).write(true).open(pipe)?;
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" run -c \"$1\" > \"$2\""])
        .args([binary, file, pipe]);
    Ok((command, reader))
}
