//! Edits of a large configuration under load: how soon they are adopted, and what they cost the requests that go by.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::cases::Stage;
use crate::peers::{self, Contender, Kind, Running};
use crate::report::{Table, with_range};
use crate::stats::spread;
use crate::town::Town;
use crate::window::{RATE, Seen, watch};
use crate::{Result, cpu};

const TOWN: Town = Town::LARGE;

/// The time that is watched, and when in it the file is saved.
const WINDOW: Duration = Duration::from_secs(2);
const SAVED_AFTER: Duration = Duration::from_millis(500);

/// What an edit changes, and by how many addresses it moves the endpoints of all services.
const EDITS: [(&str, usize); 3] = [
    ("one host", 0),
    ("1 of 10 endpoints of every service", 1),
    ("all 10,000 endpoints", TOWN.endpoints),
];

/// A proxy whose file is edited.
struct Edited {
    proxy: Running,
    file: PathBuf,
    head: String,
    admin: SocketAddr,
    edition: usize,
    moved: usize,
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
            "proxy, edit",
            "adopted after, ms",
            "slowest request, ms",
            "slowest without edit, ms",
            "p99, ms",
            "p99 without, ms",
            "errors",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![format!(
            "adopted: from the rename of the saved file to the first answer by it, seen every 2 ms on the only worker; slowest: of the {} requests in the {:?} around it; proxy and its control thread share one core",
            RATE * WINDOW.as_secs() as u32,
            WINDOW
        )],
        ..Table::default()
    };
    for contender in stage.contenders {
        for checks in [false, true] {
            if !matches!(contender.kind, Kind::Cutover(_)) {
                continue;
            }
            if let Err(error) = edits(stage, contender, checks, &mut table) {
                table
                    .notes
                    .push(format!("{} is left out: {error}", contender.name));
            }
        }
    }
    Ok(table)
}

fn edits(stage: &Stage, contender: &Contender, checks: bool, table: &mut Table) -> Result<()> {
    let mut edited = Edited::start(stage, contender, checks)?;
    let requests = TOWN.requests();
    // Pools are warm, and the checks of the start are over.
    edited.quiet(stage, &requests)?;
    for (edit, moved) in EDITS {
        let (mut adopted, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..stage.bench.rounds {
            without.push(edited.quiet(stage, &requests)?);
            let (after, seen) = edited.edit(stage, &requests, moved)?;
            adopted.push(after.as_secs_f64() * 1e3);
            with.push(seen);
            // What the edit left to do (checks, connections) is not the next window's.
            thread::sleep(Duration::from_secs(1));
        }
        let errors: u64 = with.iter().chain(&without).map(|s| s.errors).sum();
        let of =
            |seen: &[Seen], figure: fn(&Seen) -> f64| with_range(spread(seen.iter().map(figure)));
        table.rows.push(vec![
            format!(
                "{}, {edit}{}",
                contender.name,
                if checks { ", with health checks" } else { "" }
            ),
            with_range(spread(adopted)),
            of(&with, |s| s.slowest),
            of(&without, |s| s.slowest),
            of(&with, |s| s.p99),
            of(&without, |s| s.p99),
            errors.to_string(),
        ]);
    }
    Ok(())
}

impl Edited {
    fn start(stage: &Stage, contender: &Contender, checks: bool) -> Result<Self> {
        let Kind::Cutover(binary) = &contender.kind else {
            return Err("only cutover adopts an edit by itself".into());
        };
        let dir = stage
            .scratch
            .dir(&format!("reload-{}-{checks}", contender.name))?;
        let [plain, admin] = peers::free_addresses()?;
        let checks = match checks {
            true => "[defaults.health]\npath = \"/1k\"\ninterval = \"20s\"\n\n",
            false => "",
        };
        let head = format!(
            "workers = 1\nstate_dir = \"{}\"\nlisten = \"{plain}\"\nadmin = \"{admin}\"\n\n{checks}",
            dir.display(),
        );
        let file = dir.join("conf");
        fs::write(
            &file,
            head.clone() + &TOWN.cutover(stage.origin.plain, 0, 0),
        )?;
        let mut command = Command::new(binary);
        command.arg("run").arg("-c").arg(&file);
        let core = stage.bench.proxy_core;
        let proxy = peers::launch(&contender.name, command, &dir, core, [plain; 3])?;
        Ok(Self {
            proxy,
            file,
            head,
            admin,
            edition: 0,
            moved: 0,
        })
    }

    fn quiet(&self, stage: &Stage, requests: &[Vec<u8>]) -> Result<Seen> {
        watch(stage, self.proxy.plain, requests, WINDOW)
    }

    /// Saves another edition in the middle of a window; after how long it was adopted, and what the window saw.
    fn edit(
        &mut self,
        stage: &Stage,
        requests: &[Vec<u8>],
        moved: usize,
    ) -> Result<(Duration, Seen)> {
        self.edition += 1;
        self.moved += moved;
        let services = TOWN.cutover(stage.origin.plain, self.edition, self.moved);
        let text = self.head.clone() + &services;
        let (file, plain, edition) = (&self.file, self.proxy.plain, self.edition);
        let core = stage.bench.load_core;
        let (adopted, seen) = thread::scope(|scope| {
            let saver = scope.spawn(move || {
                thread::sleep(SAVED_AFTER);
                cpu::pin(core).map_err(|e| e.to_string())?;
                save(file, &text, plain, edition).map_err(|e| e.to_string())
            });
            let seen = watch(stage, plain, requests, WINDOW);
            (saver.join(), seen)
        });
        let adopted = adopted.map_err(|_| "the thread that saves panicked")??;
        self.check_adopted()?;
        Ok((adopted, seen?))
    }

    /// The admin API says that every worker has adopted what is published.
    fn check_adopted(&self) -> Result<()> {
        let status = ask(self.admin, "127.0.0.1", "/api/v1/status")?;
        let number = |key: &str| -> Option<usize> {
            let (_, rest) = status.split_once(&format!("\"{key}\":"))?;
            let digits = rest
                .trim_start()
                .split(|c: char| !c.is_ascii_digit())
                .next();
            digits?.parse().ok()
        };
        match (number("generation"), number("adopted")) {
            (Some(generation), Some(adopted))
                if adopted == generation && generation > self.edition =>
            {
                Ok(())
            }
            other => Err(format!("edition {} is not adopted: {other:?}", self.edition).into()),
        }
    }
}

/// Saves as editors do, by a rename, and asks until this edition answers.
fn save(file: &Path, text: &str, plain: SocketAddr, edition: usize) -> Result<Duration> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    let saved = Instant::now();
    fs::rename(&new, file)?;
    let host = format!("edition-{edition}.bench.local");
    while saved.elapsed() < Duration::from_secs(30) {
        if ask(plain, &host, "/1k")?.starts_with("HTTP/1.1 200") {
            return Ok(saved.elapsed());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Err(format!("edition {edition} does not answer within 30 s").into())
}

/// One GET on a connection of its own: the whole answer.
fn ask(target: SocketAddr, host: &str, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(target)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
