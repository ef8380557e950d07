//! The guard against simulated traffic: false alarms and times to detection, with the code of the product.
//!
//! `just guard` runs every scenario and prints the table; `--write` keeps it in `benches/GUARD.md`. `--only WORD`
//! runs the scenarios whose name or table contains the word, `--scale 0.1` a tenth of the rollouts, `--seed N` other random
//! numbers, `--threads N` on as many threads (the figures don't depend on it), `--list` names the scenarios. It fails if a
//! figure isn't what the guard promises.

mod error_cases;
mod errors;
mod goals;
mod latency;
mod latency_cases;
mod random;
mod report;
mod rivals;
mod scenarios;
mod user_cases;
mod users;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use random::Random;
use report::{Outcome, Times};
use scenarios::Scenario;

struct Options {
    only: Option<String>,
    scale: f64,
    seed: u64,
    threads: usize,
    list: bool,
    write: bool,
}

impl Options {
    fn read() -> Result<Self, String> {
        let mut options = Self {
            only: None,
            scale: 1.0,
            seed: 20_261_128,
            threads: 1,
            list: false,
            write: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let number = |text: String| text.parse::<f64>().map_err(|e| format!("{text}: {e}"));
            match argument.as_str() {
                "--only" => options.only = Some(value()?),
                "--scale" => options.scale = number(value()?)?,
                "--seed" => options.seed = number(value()?)? as u64,
                "--threads" => options.threads = (number(value()?)? as usize).max(1),
                "--list" => options.list = true,
                "--write" => options.write = true,
                // From cargo.
                "--bench" => {}
                _ => return Err(format!("unknown option {argument}")),
            }
        }
        Ok(options)
    }

    fn selects(&self, scenario: &Scenario) -> bool {
        let only = self.only.as_deref().unwrap_or_default();
        scenario.name.contains(only) || scenario.table.contains(only)
    }
}

fn main() -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("guard: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut table = String::new();
    let (mut last, mut broken) = ("", 0);
    let start = Instant::now();
    for scenario in &scenarios::all() {
        if !options.selects(scenario) {
            continue;
        }
        if options.list {
            println!("{}: {}", scenario.table, scenario.name);
            continue;
        }
        if scenario.table != last {
            last = scenario.table;
            table += &header(scenario);
            print!("{}", header(scenario));
        }
        let outcomes = simulate(scenario, &options);
        let (row, holds) = row(scenario, &outcomes);
        broken += u32::from(!holds);
        print!("{row}");
        table += &row;
    }
    eprintln!("{:.0} s", start.elapsed().as_secs_f64());
    if options.write && !options.list {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/GUARD.md");
        if let Err(error) = std::fs::write(path, INTRODUCTION.to_owned() + &table) {
            eprintln!("guard: {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if broken > 0 {
        eprintln!("guard: {broken} figures are not what the guard promises");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Runs the rollouts of a scenario, in order whatever the threads.
fn simulate(scenario: &Scenario, options: &Options) -> Vec<Outcome> {
    let rollouts = ((scenario.rollouts as f64 * options.scale).ceil() as u64).max(1);
    // By name: other scenarios may come and go.
    let stream =
        xxhash_rust::xxh3::xxh3_64(format!("{}: {}", scenario.table, scenario.name).as_bytes());
    let next = AtomicU64::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let rollout = next.fetch_add(1, Ordering::Relaxed);
            if rollout >= rollouts {
                return done;
            }
            done.push(scenario.run(Random::new(options.seed, stream, rollout)));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads).map(|_| scope.spawn(work)).collect();
        let all = workers.into_iter().flat_map(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        all.collect()
    })
}

const INTRODUCTION: &str = "# The guard against simulated traffic

Written by `just guard --write` (seed 20261128): the guard's own code, fed with streams of 500 requests/s unless said otherwise, the
canary on one endpoint. *Reference*: an independent implementation in C of the same formulas, on such streams with other random
numbers; where its users' error rates aren't known, ours are near them.

A figure holds if at most 1 % of the A/A rollouts are rolled back wherever the reference has no more, and if the median time to
detection exceeds the reference's by at most 15 % or 1 s, whichever is larger; a faster one holds. More than 1 % by at most two
standard deviations of the sample is \"within the deviation\". \"No promise\": a known limit of the guard.

*Flagger* is its default: 99 % success in intervals of a minute, five failed intervals. *Fixed sample* is a one-sided z test at
1 %, looked at once, with the sample that finds twice the base rate in nine of ten cases; it needs that sample for every effect.
Both only judge errors. Times are seconds from the first bad request, median / 90 %; the time of a fixed sample is how long it
takes to complete.

Latency is counted as by the reference, which takes every request of the first second for slow, so that it believes stable less
bursty than it is. *The product's buckets* don't: thresholds from a histogram as coarse as that of the metrics, and nothing
counted before there is one. *Totals only*: slow requests of stable aren't counted by endpoint. Where the canary converts x0.9 as
often, it is on its limit: the worst case that must not fail.
";

fn judges_errors(scenario: &Scenario) -> bool {
    [scenarios::AA, scenarios::ERRORS].contains(&scenario.table)
}

fn header(scenario: &Scenario) -> String {
    let rivals = if judges_errors(scenario) {
        " Flagger | fixed sample |"
    } else {
        ""
    };
    let lines = if judges_errors(scenario) {
        "---|---|"
    } else {
        ""
    };
    let table = scenario.table;
    format!(
        "\n## {table}\n\n| scenario | rollouts | guard | reference | holds |{rivals}\n|---|---|---|---|---|{lines}\n"
    )
}

fn row(scenario: &Scenario, outcomes: &[Outcome]) -> (String, bool) {
    let aa = scenario.reference.is_false_alarms();
    let show = |times: &Times| {
        if aa {
            format!("{:.2} %", times.failed())
        } else {
            times.show()
        }
    };
    let guard = Times::new(outcomes, |o| o.guard);
    let holds = scenario.reference.holds(&guard);
    let mut row = format!(
        "| {} | {} | **{}** | {} | {} |",
        scenario.name,
        outcomes.len(),
        show(&guard),
        scenario.reference.show(),
        scenario.reference.verdict(&guard)
    );
    if judges_errors(scenario) {
        let flagger = Times::new(outcomes, |o| o.flagger);
        let fixed = Times::new(outcomes, |o| o.fixed);
        // Writing to a string can't fail.
        let _ = write!(row, " {} | {} |", show(&flagger), show(&fixed));
    }
    row.push('\n');
    (row, holds)
}
