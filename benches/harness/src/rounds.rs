//! Interleaved rounds: each proxy once a round, in random order, so that what the machine does
//! besides meets all of them alike; or with `--together` all of them at the same time.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::cases::{Shape, Stage};
use crate::load::{self, Load, Mark};
use crate::order::shuffled;
use crate::peers::{Contender, Running};
use crate::report::{Table, with_range};
use crate::stats::{self, median, spread};
use crate::{Result, cpu, together};

/// One run of one proxy.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What is compared: less is better.
    pub cost: f64,
    /// A second figure of the same kind.
    pub second: f64,
    /// CPU time outside the kernel in µs per request.
    pub outside_kernel: f64,
    /// Requests.
    pub per_second: f64,
    /// Shares of the measured time.
    pub proxy_busy: f64,
    /// The load's and the origin's.
    pub load_busy: f64,
    /// Use of the proxy's core by others.
    pub foreign: f64,
    resumed: f64,
    /// Wrong answers.
    pub errors: u64,
}

/// A proxy with its samples, one a round.
pub struct Entry<'a> {
    /// The proxy.
    pub contender: &'a Contender,
    /// Its process, until it fails.
    pub running: Option<Running>,
    /// What was measured.
    pub samples: Vec<Sample>,
    /// Why it is left out.
    pub failure: Option<String>,
}

/// Starts everybody and runs the rounds. Who fails is left out from there on, and says why.
fn interleave<'a>(
    stage: &Stage<'a>,
    sample: impl Fn(&Running) -> Result<Sample> + Sync,
) -> Vec<Entry<'a>> {
    let mut entries = start_all(stage);
    if stage.bench.together {
        for _ in 0..stage.bench.rounds {
            let running: Vec<_> = { entries.iter() }
                .filter_map(|e| e.running.as_ref())
                .collect();
            let mut samples = together::sample_all(&running, &sample).into_iter();
            for entry in entries.iter_mut().filter(|e| e.running.is_some()) {
                entry.add(samples.next());
            }
        }
        return entries;
    }
    shuffled(stage.bench.rounds, entries.len(), |at| {
        let sampled = entries[at].running.as_ref().map(&sample);
        entries[at].add(sampled);
    });
    entries
}

fn start_all<'a>(stage: &Stage<'a>) -> Vec<Entry<'a>> {
    let start = |contender| {
        let (running, failure) = match stage.start(contender, 1) {
            Ok(running) => (Some(running), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Entry {
            contender,
            running,
            samples: Vec::new(),
            failure,
        }
    };
    stage.contenders.iter().map(start).collect()
}

/// Sends these requests in turn: what they cost the proxy.
pub fn sample_spread(
    stage: &Stage,
    proxy: &Running,
    load: &Load,
    requests: &[Vec<u8>],
) -> Result<Sample> {
    let mut marks = Vec::new();
    let measured = load::run_spread(load, requests, |mark| {
        marks.push((mark, Clocks::read(stage, proxy)));
    })?;
    let [(Mark::Start, start), (Mark::End, end)] = &marks[..] else {
        return Err("the load was not measured".into());
    };
    let mut sample = end.since(start, measured.requests, true);
    sample.errors = measured.errors;
    Ok(sample)
}

/// What the clocks of all concerned say at one moment.
pub struct Clocks {
    at: Instant,
    proxy: u64,
    outside_kernel: u64,
    load: u64,
    proxy_core: u64,
    load_core: u64,
}

impl Clocks {
    /// Reads them.
    pub fn read(stage: &Stage, proxy: &Running) -> Self {
        Self {
            at: Instant::now(),
            proxy: cpu::time_used(&proxy.pids),
            outside_kernel: cpu::time_outside_kernel(&proxy.pids),
            load: cpu::time_used(&stage.origin.pids) + cpu::own_time_used(),
            proxy_core: cpu::core_busy(stage.bench.proxy_core),
            load_core: cpu::core_busy(stage.bench.load_core),
        }
    }

    /// Costs since `before`; `ours` = the load was made by this thread.
    pub fn since(&self, before: &Self, requests: u64, ours: bool) -> Sample {
        let wall = (self.at - before.at).as_nanos() as f64;
        let proxy = (self.proxy - before.proxy) as f64;
        let proxy_core = (self.proxy_core - before.proxy_core) as f64;
        let load = if ours {
            self.load - before.load
        } else {
            self.load_core - before.load_core
        };
        Sample {
            cost: proxy / 1e3 / requests as f64,
            outside_kernel: (self.outside_kernel - before.outside_kernel) as f64
                / 1e3
                / requests as f64,
            per_second: requests as f64 / wall * 1e9,
            proxy_busy: proxy / wall,
            load_busy: load as f64 / wall,
            foreign: (proxy_core - proxy).max(0.0) / wall,
            ..Sample::default()
        }
    }
}

/// The load of a case against one proxy.
pub fn load_for(stage: &Stage, shape: &Shape, proxy: &Running) -> Load {
    Load {
        target: if shape.tls.is_some() {
            proxy.tls
        } else {
            proxy.plain
        },
        connections: stage.bench.connections,
        request: shape.requests[0].clone(),
        body: shape.body,
        tls: shape.tls,
        fresh: shape.fresh,
        rate: None,
        warm_up: Duration::from_millis(300),
        length: stage.bench.length,
    }
}

/// CPU time per request in a closed loop.
pub fn closed(stage: &Stage, shape: &Shape) -> Result<Table> {
    let entries = interleave(stage, |proxy| {
        let (mut start, mut end) = (None, None);
        let load = load_for(stage, shape, proxy);
        let measured = load::run_spread(&load, &shape.requests, |mark| {
            let clocks = Some(Clocks::read(stage, proxy));
            match mark {
                Mark::Start => start = clocks,
                Mark::End => end = clocks,
            }
        })?;
        let (Some(start), Some(end)) = (start, end) else {
            return Err("the load was not measured".into());
        };
        let mut sample = end.since(&start, measured.requests, true);
        sample.errors = measured.errors;
        sample.resumed = measured.resumed as f64 / measured.requests as f64;
        Ok(sample)
    });
    Ok(costs(stage, &entries, shape.fresh))
}

/// CPU time per request by samples of any kind.
pub fn compare(stage: &Stage, sample: impl Fn(&Running) -> Result<Sample> + Sync) -> Table {
    costs(stage, &interleave(stage, sample), false)
}

/// CPU time per request under h2load.
pub fn h2(stage: &Stage, tls: bool, path: &str, call: bool) -> Result<Table> {
    let message = stage
        .scratch
        .file("call", &[b"\0\0\0\0\x64", &[b'x'; 100][..]].concat())?;
    let entries = interleave(stage, |proxy| {
        let url = if tls {
            format!("https://{}{path}", proxy.tls)
        } else {
            format!("http://{}{path}", proxy.h2c)
        };
        let seconds = stage.bench.length.as_secs().max(1);
        let mut command = Command::new("h2load");
        command.args(["-c", "16", "-m", "32", "-D", &seconds.to_string()]);
        if call {
            command.arg("-d").arg(&message);
            command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        }
        command.arg(&url);
        let limit = Duration::from_secs(2 * seconds + 10);
        for _ in 0..3 {
            let before = Clocks::read(stage, proxy);
            // On a busy machine h2load now and then misses the end of its time, and goes on for ever.
            let Some(text) = ended_within(&mut command, limit)? else {
                continue;
            };
            let (right, wrong) = h2load_counts(&text)
                .filter(|(right, _)| *right > 0)
                .ok_or_else(|| format!("h2load had no right answer:\n{text}"))?;
            let mut sample = Clocks::read(stage, proxy).since(&before, right, false);
            sample.errors = wrong;
            return Ok(sample);
        }
        Err(format!("h2load did not end within {limit:?}, three times").into())
    });
    Ok(costs(stage, &entries, false))
}

/// What a program says, if it ends within this time.
fn ended_within(command: &mut Command, limit: Duration) -> Result<Option<String>> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut said = child.stdout.take().ok_or("its output is piped")?;
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = said.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let end = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            let _ = reader.join();
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(reader.join().ok())
}

/// Responses of 200 and all others from h2load's report.
fn h2load_counts(report: &str) -> Option<(u64, u64)> {
    let line = report
        .lines()
        .find_map(|line| line.strip_prefix("status codes: "))?;
    let mut counts = line
        .split(',')
        .filter_map(|part| part.trim().split(' ').next()?.parse::<u64>().ok());
    let right = counts.next()?;
    let line = report
        .lines()
        .find_map(|line| line.strip_prefix("requests: "))?;
    let failed = line
        .split(',')
        .find_map(|part| part.trim().strip_suffix(" failed")?.parse::<u64>().ok())?;
    Some((right, counts.sum::<u64>() + failed))
}

/// Latency in open loop.
pub fn latency(stage: &Stage, shape: &Shape) -> Result<Table> {
    let sample = |proxy: &Running| {
        let load = Load {
            rate: Some(stage.bench.rate),
            ..load_for(stage, shape, proxy)
        };
        let before = Clocks::read(stage, proxy);
        let mut measured = load::run(&load, |_| {})?;
        let clocks = Clocks::read(stage, proxy).since(&before, measured.requests, true);
        measured.latencies.sort_unstable();
        Ok(Sample {
            foreign: clocks.foreign,
            cost: stats::percentile(&measured.latencies, 0.50) / 1e3,
            second: stats::percentile(&measured.latencies, 0.99) / 1e3,
            per_second: measured.requests as f64 / measured.wall.as_secs_f64(),
            errors: measured.errors,
            ..Sample::default()
        })
    };
    let entries = interleave(stage, sample);
    let direct = sample(stage.origin)?;
    let mut table = Table {
        head: [
            "proxy",
            "p50 µs",
            "p99 µs",
            "nginx / theirs, p50",
            "nginx / theirs, p99",
            "answers/s",
            "errors",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![format!(
            "without a proxy between load and origin: p50 {:.0} µs, p99 {:.0} µs (one run)",
            direct.cost, direct.second
        )],
        ..Table::default()
    };
    for entry in &entries {
        if let Some(failure) = &entry.failure {
            table.notes.push(failed(entry, failure));
            continue;
        }
        let p50 = ratio(&entries, "nginx", entry, |s| s.cost);
        let p99 = ratio(&entries, "nginx", entry, |s| s.second);
        table
            .ratios
            .extend(p99.map(|r| (entry.contender.name.clone(), r)));
        table.rows.push(vec![
            entry.contender.name.clone(),
            format!("{:.0}", entry.median(|s| s.cost)),
            format!("{:.0}", entry.median(|s| s.second)),
            with_range(p50),
            with_range(p99),
            format!("{:.0}", entry.median(|s| s.per_second)),
            entry.errors().to_string(),
        ]);
    }
    table.notes.extend(disturbed(&entries));
    Ok(table)
}

impl Entry<'_> {
    /// Adds a sample of a round. An error ends the proxy, and its samples don't count.
    pub fn add(&mut self, sampled: Option<Result<Sample>>) {
        match sampled {
            Some(Ok(sample)) => self.samples.push(sample),
            Some(Err(error)) => {
                self.failure = Some(error.to_string());
                self.running = None;
                self.samples.clear();
            }
            None => {}
        }
    }

    fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(figure))
    }

    fn errors(&self) -> u64 {
        self.samples.iter().map(|s| s.errors).sum()
    }
}

fn failed(entry: &Entry, failure: &str) -> String {
    format!("{} is left out: {}", entry.contender.name, failure.trim())
}

/// A figure of `base` over that of `entry`, round by round.
fn ratio(
    entries: &[Entry],
    base: &str,
    entry: &Entry,
    figure: impl Fn(&Sample) -> f64,
) -> Option<stats::Spread> {
    let base = entries.iter().find(|e| e.contender.name == base)?;
    let pairs = base.samples.iter().zip(&entry.samples);
    spread(pairs.map(|(base, own)| figure(base) / figure(own)))
}

fn costs(stage: &Stage, entries: &[Entry], handshakes: bool) -> Table {
    let mut head = vec![
        "proxy",
        "CPU µs/request",
        "nginx / theirs",
        "haproxy / theirs",
        "requests/s",
        "proxy core",
        "load core",
        "others on proxy core",
        "errors",
    ];
    if handshakes {
        head.push("resumed");
    }
    let mut table = Table {
        head: head.into_iter().map(str::to_owned).collect(),
        ..Table::default()
    };
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    for entry in entries {
        if let Some(failure) = &entry.failure {
            table.notes.push(failed(entry, failure));
            continue;
        }
        let to_nginx = ratio(entries, "nginx", entry, |s| s.cost);
        table
            .ratios
            .extend(to_nginx.map(|r| (entry.contender.name.clone(), r)));
        let mut row = vec![
            entry.contender.name.clone(),
            format!("{:.2}", entry.median(|s| s.cost)),
            with_range(to_nginx),
            with_range(ratio(entries, "haproxy", entry, |s| s.cost)),
            format!("{:.0}", entry.median(|s| s.per_second)),
            percent(entry.median(|s| s.proxy_busy)),
            percent(entry.median(|s| s.load_busy)),
            percent(entry.median(|s| s.foreign)),
            entry.errors().to_string(),
        ];
        if handshakes {
            row.push(percent(entry.median(|s| s.resumed)));
        }
        table.rows.push(row);
        let (proxy, load) = (
            entry.median(|s| s.proxy_busy),
            entry.median(|s| s.load_busy),
        );
        if !stage.bench.together && proxy + entry.median(|s| s.foreign) < 0.9 {
            table.notes.push(format!(
                "{}'s core was not saturated ({} busy, load core {}): its requests/s are those of the load, its CPU time per request counts",
                entry.contender.name, percent(proxy), percent(load)
            ));
        }
    }
    if !stage.bench.together {
        table.notes.extend(disturbed(entries));
    }
    table
}

/// A warning when the machine did other things as well.
fn disturbed(entries: &[Entry]) -> Option<String> {
    let foreign = median(entries.iter().flat_map(|e| &e.samples).map(|s| s.foreign));
    (foreign > 0.05).then(|| {
        format!(
            "other programs used {:.0} % of the proxy's core: latency and requests/s mean little, and ratios are uncertain",
            foreign * 100.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2load_reports_are_read() {
        let report = "finished in 1.00s, 5 req/s\n\
            requests: 12 total, 12 started, 12 done, 9 succeeded, 3 failed, 1 errored, 0 timeout\n\
            status codes: 9 2xx, 0 3xx, 0 4xx, 2 5xx\n";
        assert_eq!(h2load_counts(report), Some((9, 5)));
        assert_eq!(h2load_counts("nothing"), None);
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let mut sleeps = Command::new("sleep");
        let begun = Instant::now();
        let said = ended_within(sleeps.arg("60"), Duration::from_millis(50));
        assert!(matches!(said, Ok(None)) && begun.elapsed() < Duration::from_secs(30));
        let said = ended_within(Command::new("echo").arg("well"), Duration::from_secs(30));
        assert_eq!(said.ok().flatten().as_deref(), Some("well\n"));
    }
}
