//! Who used how much of which core, from /proc; and staying on a core.

use std::collections::HashMap;
use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Result;

/// Keeps the calling thread, and whatever it starts from now on, on one core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|e| format!("can't stay on core {core}: {e}").into())
}

/// Runs `start` on `core`, so that what it spawns stays there, and returns to where the caller was.
pub fn on_core<T>(core: usize, start: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = sched_getaffinity(None)?;
    pin(core)?;
    let started = start();
    sched_setaffinity(None, &before)?;
    started
}

/// `pid` and all its descendants.
pub fn family(pid: Pid) -> Vec<u32> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|s| s.parse::<u32>().ok())
        else {
            continue;
        };
        // The second field is a name in parentheses that may hold anything: count from its end.
        if let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
            && let Some((_, rest)) = stat.rsplit_once(')')
            && let Some(parent) = rest
                .split_whitespace()
                .nth(1)
                .and_then(|s| s.parse::<u32>().ok())
        {
            parents.insert(id, parent);
        }
    }
    let mut family = vec![pid.as_raw_nonzero().get().unsigned_abs()];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        family.extend(
            parents
                .iter()
                .filter(|(_, p)| **p == parent)
                .map(|(id, _)| *id),
        );
        at += 1;
    }
    family
}

/// CPU time of all threads of these processes in nanoseconds. A thread that has ended is not in it.
pub fn time_used(pids: &[u32]) -> u64 {
    let mut total = 0;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            total += first_number(&task.path().join("schedstat"));
        }
    }
    total
}

/// CPU time of the threads of processes of cutover in nanoseconds. A thread that has ended is not in it.
#[derive(Clone, Copy, Default)]
pub struct ThreadTimes {
    /// Those that serve requests.
    pub workers: u64,
    /// The control thread, and the threads of its files.
    pub others: u64,
}

impl ThreadTimes {
    /// Up to now.
    pub fn read(pids: &[u32]) -> Self {
        let mut times = Self::default();
        let tasks =
            { pids.iter() }.filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
        for task in tasks.flatten().flatten() {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let used = match name.starts_with("worker-") {
                true => &mut times.workers,
                false => &mut times.others,
            };
            *used += first_number(&task.path().join("schedstat"));
        }
        times
    }

    /// From an earlier time up to this.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            workers: self.workers.saturating_sub(earlier.workers),
            others: self.others.saturating_sub(earlier.others),
        }
    }
}

/// CPU time of all threads of these processes outside the kernel in nanoseconds (sampled by the kernel, in steps of 10 ms).
pub fn time_outside_kernel(pids: &[u32]) -> u64 {
    let ticks = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is a name in parentheses that may hold anything: count from its end.
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().nth(11)?.parse::<u64>().ok()
    };
    pids.iter().filter_map(ticks).sum::<u64>() * 10_000_000
}

/// CPU time of the calling thread in nanoseconds.
pub fn own_time_used() -> u64 {
    first_number("/proc/thread-self/schedstat".as_ref())
}

fn first_number(path: &std::path::Path) -> u64 {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Time that a core was not idle since boot, whoever used it, in nanoseconds (steps of 10 ms).
pub fn core_busy(core: usize) -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{core}");
    let Some(line) = stat
        .lines()
        .find(|l| l.split_whitespace().next() == Some(&name))
    else {
        return 0;
    };
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|s| s.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; the rest is counted in these already.
    let busy: u64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|&i| ticks.get(i))
        .sum();
    busy * 10_000_000
}

/// Resident memory of these processes in KiB: (each page counted in every process, shared pages divided).
pub fn memory(pids: &[u32]) -> (u64, u64) {
    let (mut rss, mut pss) = (0, 0);
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("Rss:") => {
                    rss += words
                        .next()
                        .and_then(|w| w.parse::<u64>().ok())
                        .unwrap_or(0)
                }
                Some("Pss:") => {
                    pss += words
                        .next()
                        .and_then(|w| w.parse::<u64>().ok())
                        .unwrap_or(0)
                }
                _ => {}
            }
        }
    }
    (rss, pss)
}
