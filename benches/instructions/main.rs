//! Instructions of each step of a request, counted by valgrind: figures that don't depend on what else the machine does.
//!
//! `just instructions` counts, and compares with the budgets that stand beside the steps' code, as a line of their docs:
//! "Budget: 900 instructions (`just instructions`: parse_request)". A step that needs a tenth more than its budget fails;
//! `--write` keeps the figures in `benches/INSTRUCTIONS.md`, `--step NAME` counts one step only.

mod budgets;
mod heads;
mod service;
mod steps;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

/// How often a step is run in the two countings whose difference is taken: what comes before the steps is in both.
const TIMES: [u64; 2] = [1_000, 11_000];
/// So much above its budget, in percent, a step fails.
const TOLERANCE: f64 = 10.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1)
    };
    if let (Some(step), Some(times)) = (value("--step"), value("--times")) {
        return run(step, times);
    }
    let only = value("--step").map(String::as_str);
    match count_all(only) {
        Ok(counted) => report(
            &counted,
            arguments.iter().any(|a| a == "--write") && only.is_none(),
        ),
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Under valgrind: one step so many times.
fn run(name: &str, times: &str) -> ExitCode {
    let step = steps::all().into_iter().find(|step| step.name == name);
    let (Some(step), Ok(times)) = (step, times.parse::<u64>()) else {
        return ExitCode::FAILURE;
    };
    let mut step = (step.make)();
    (0..times).for_each(|_| step());
    ExitCode::SUCCESS
}

struct Counted {
    name: &'static str,
    what: &'static str,
    instructions: f64,
    budget: f64,
}

impl Counted {
    /// Above the budget, in percent.
    fn above(&self) -> f64 {
        (self.instructions / self.budget - 1.0) * 100.0
    }
}

fn count_all(only: Option<&str>) -> Result<Vec<Counted>, String> {
    let steps = steps::all();
    let mut budgets = budgets::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")))?;
    if let Some((unknown, _)) = budgets
        .iter()
        .find(|(name, _)| !steps.iter().any(|s| s.name == *name))
    {
        return Err(format!(
            "src has a budget for `{unknown}`, and no step has that name"
        ));
    }
    let mut counted = Vec::new();
    for step in steps {
        let budget = budgets.remove(step.name).ok_or_else(|| {
            format!(
                "no budget for `{}`: write \"Budget: N instructions (`just instructions`: {})\" into the docs of its code",
                step.name, step.name
            )
        })?;
        if only.is_some_and(|only| only != step.name) {
            continue;
        }
        let [few, many] = TIMES.map(|times| count(step.name, times));
        counted.push(Counted {
            name: step.name,
            what: step.what,
            instructions: (many? - few?) as f64 / (TIMES[1] - TIMES[0]) as f64,
            budget,
        });
    }
    if counted.is_empty() {
        return Err("no step has that name".to_owned());
    }
    Ok(counted)
}

/// All instructions of a run of this program.
fn count(step: &str, times: u64) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new("valgrind")
        .args([
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
        ])
        .arg(own)
        .args(["--step", step, "--times", &times.to_string()])
        .output()
        .map_err(|e| format!("valgrind counts (Debian: apt install valgrind), but: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let refs = text.lines().find_map(|line| {
        let (_, number) = line.split_once("refs:")?;
        number.trim().replace(',', "").parse().ok()
    });
    match refs {
        Some(refs) if output.status.success() => Ok(refs),
        _ => Err(format!("`{step}` can't be counted:\n{text}")),
    }
}

fn report(counted: &[Counted], write: bool) -> ExitCode {
    let mut text = format!(
        "| {:16} | {:>12} | {:>7} | {:>6} | {:66} |\n|{:-<18}|{:->13}:|{:->8}:|{:->7}:|{:-<68}|\n",
        "step", "instructions", "budget", "above", "what", "", "", "", "", ""
    );
    for step in counted {
        let _ = writeln!(
            text,
            "| {:16} | {:>12.0} | {:>7.0} | {:>4.0} % | {:66} |",
            step.name,
            step.instructions,
            step.budget,
            step.above(),
            step.what
        );
    }
    println!("{text}");
    if write {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/INSTRUCTIONS.md");
        let text = format!(
            "# Instructions of each step of a request\n\nWritten by `just instructions --write`: the release build's user instructions, counted by valgrind.\n\n{text}"
        );
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("instructions: can't write {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    let over: Vec<&str> = counted
        .iter()
        .filter(|step| step.above() > TOLERANCE)
        .map(|step| step.name)
        .collect();
    if over.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "above their budgets by more than {TOLERANCE} %: {}. Make them cheaper, or say in the commit why they cost more and raise the budget beside the code",
        over.join(", ")
    );
    ExitCode::FAILURE
}
