//! Instructions of a request outside the kernel, counted by valgrind.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::cases::Stage;
use crate::load::{self, Load};
use crate::peers;

/// Where valgrind is, or what a table says without it.
pub fn find(stage: &Stage) -> std::result::Result<PathBuf, &'static str> {
    if !stage.bench.valgrind {
        return Err("instructions are left out, as `--no-valgrind` asks");
    }
    peers::installed("valgrind")
        .ok_or("instructions are left out: valgrind is missing (Debian: apt install valgrind)")
}

/// Fewer requests than this say nothing: ticks and checks are counted as well.
const FEWEST: f64 = 3000.0;

/// A proxy that is ready to be started.
pub struct Launch {
    /// What is run.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<PathBuf>,
    /// Where its files are.
    pub dir: PathBuf,
    /// Where it will listen.
    pub plain: SocketAddr,
}

/// What a load costs more when it is four seconds longer, by request. The shorter one takes `shortest` seconds; the
/// target and the times of `load` don't matter.
pub fn instructions(
    valgrind: &Path,
    stage: &Stage,
    (load, shortest): (&Load, u64),
    requests: &[Vec<u8>],
    prepare: impl Fn() -> Result<Launch>,
) -> Result<f64> {
    let mut totals = Vec::new();
    for seconds in [shortest, shortest + 4] {
        let launch = prepare()?;
        let report = launch.dir.join("valgrind");
        let mut command = Command::new(valgrind);
        command
            .args([
                "--tool=cachegrind",
                "--cache-sim=no",
                "--cachegrind-out-file=/dev/null",
            ])
            .arg(format!("--log-file={}", report.display()))
            .arg(&launch.program)
            .args(&launch.arguments);
        let core = stage.bench.proxy_core;
        let running = peers::launch("cutover", command, &launch.dir, core, [launch.plain; 3])?;
        let load = Load {
            target: launch.plain,
            warm_up: Duration::ZERO,
            length: Duration::from_secs(seconds),
            ..load.clone()
        };
        let measured = load::run_spread(&load, requests, |_| {})?;
        running.end(Duration::from_secs(30));
        let total = refs(&fs::read_to_string(&report)?).ok_or("valgrind counted nothing")?;
        totals.push((total, measured.requests as f64));
    }
    let requests = totals[1].1 - totals[0].1;
    if requests < FEWEST {
        return Err(format!("the longer load had only {requests} requests more").into());
    }
    Ok((totals[1].0 - totals[0].0) / requests)
}

/// The total of cachegrind's report.
fn refs(report: &str) -> Option<f64> {
    let line = report
        .lines()
        .find(|l| l.contains("I refs:") || l.contains("I   refs:"))?;
    let digits: String = line
        .rsplit(':')
        .next()?
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cachegrind_s_total_is_read() {
        assert_eq!(
            refs("==1== hello\n==1== I refs:        1,234,567\n"),
            Some(1_234_567.0)
        );
        assert_eq!(refs("==1== hello\n"), None);
    }
}
