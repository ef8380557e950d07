//! A mirrored target that hangs, resets, answers garbage or breaks off: what users see of it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::bad_target::{BadTarget, Badness};
use crate::cases::Stage;
use crate::load::get;
use crate::peers::{self, Contender, Kind, Running};
use crate::report::Table;
use crate::window::{Pairs, RATE, watch_proxy};

/// The time that is watched.
const WINDOW: Duration = Duration::from_secs(5);
/// Share of the requests that are copied, in percent.
const SHARE: u32 = 10;

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut table = Table {
        head: [
            "proxy, target",
            "p99, ms",
            "p99 without, ms",
            "p99, with / without",
            "slowest, ms",
            "slowest without, ms",
            "failed",
            "failed without",
            "CPU time, with / without",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![format!(
            "medians of all rounds, sums for failed ones; in each round {} requests in {WINDOW:?} to a proxy with a mirror ({SHARE} % of the requests), and at the same moment as many to one without, on the same core",
            RATE * WINDOW.as_secs() as u32,
        )],
        ..Table::default()
    };
    for contender in stage.contenders {
        let Kind::Cutover(binary) = &contender.kind else {
            continue;
        };
        for badness in Badness::ALL {
            match beside(stage, contender, binary, badness) {
                Ok(row) => table.rows.push(row),
                Err(error) => table.notes.push(format!(
                    "{}, {}: left out: {error}",
                    contender.name,
                    badness.name()
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
    badness: Badness,
) -> Result<Vec<String>> {
    let target = BadTarget::start(badness, stage.bench.load_core)?;
    let mirror =
        format!("[service.app.mirror]\nto = \"v2\"\nshare = \"{SHARE}%\"\ntimeout = \"1s\"\n");
    let mirrored = start(stage, (contender, binary), &target, &mirror)?;
    let plain = start(stage, (contender, binary), &target, "")?;
    let requests = [get("/1k", "")];
    let look = |proxy: &Running| watch_proxy(stage, proxy, &requests, WINDOW);
    // Pools are warm then.
    look(&mirrored)?;
    look(&plain)?;
    let pairs = Pairs::together(stage.bench.rounds, || look(&mirrored), || look(&plain))?;
    if target.asked() == 0 {
        return Err("no copy has reached the target".into());
    }
    let mut row = vec![format!("{}, {}", contender.name, badness.name())];
    row.extend(pairs.medians(|seen| seen.p99));
    row.push(pairs.ratio(|seen| seen.p99));
    row.extend(pairs.medians(|seen| seen.slowest));
    row.extend(pairs.sums(|seen| seen.errors));
    row.push(pairs.ratio(|seen| seen.cost));
    Ok(row)
}

fn start(
    stage: &Stage,
    (contender, binary): (&Contender, &Path),
    target: &BadTarget,
    mirror: &str,
) -> Result<Running> {
    let kind = if mirror.is_empty() { "plain" } else { "mirror" };
    let dir = stage.scratch.dir(&format!(
        "mirror-{}-{}-{kind}",
        contender.name,
        target.at.port()
    ))?;
    let (plain, origin) = (peers::free_address()?, stage.origin.plain);
    let text = format!(
        "workers = 1\nstate_dir = \"{}\"\nlisten = \"{plain}\"\n\n[service.app]\nstable = \"v1\"\n\
         versions = {{ v1 = [\"{origin}\"], v2 = [\"{}\"] }}\n{mirror}",
        dir.display(),
        target.at
    );
    let file = dir.join("conf");
    fs::write(&file, text)?;
    let mut command = Command::new(binary);
    command.arg("run").arg("-c").arg(&file);
    let core = stage.bench.proxy_core;
    peers::launch(&contender.name, command, &dir, core, [plain; 3])
}
