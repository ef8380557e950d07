//! System calls per request, counted by `perf stat` (tracepoints) or, where that isn't allowed, by `strace`.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::cases::{Shape, Stage};
use crate::load::{self, Load};
use crate::peers::Running;
use crate::report::Table;
use crate::rounds::load_for;

/// Calls that are named in the table when they occur.
const NAMED: [&str; 20] = [
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "write",
    "writev",
    "sendto",
    "sendmsg",
    "sendfile64",
    "splice",
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "futex",
    "setsockopt",
    "getsockopt",
    "ioctl",
    "clock_gettime",
    "timerfd_settime",
    "getrandom",
];

/// Counts for every contender under the saturating load.
pub fn count(stage: &Stage, shape: &Shape) -> Result<Table> {
    let mut table = Table {
        head: ["proxy", "per request", "of these"]
            .map(str::to_owned)
            .to_vec(),
        ..Table::default()
    };
    for contender in stage.contenders {
        let counted = stage
            .start(contender, 1)
            .and_then(|running| one(stage, shape, &running));
        match counted {
            Ok((total, named)) => {
                table
                    .rows
                    .push(vec![contender.name.clone(), format!("{total:.2}"), named]);
            }
            Err(error) => table
                .notes
                .push(format!("{} is left out: {error}", contender.name)),
        }
    }
    Ok(table)
}

fn one(stage: &Stage, shape: &Shape, proxy: &Running) -> Result<(f64, String)> {
    let pids: Vec<String> = proxy.pids.iter().map(u32::to_string).collect();
    let counts = format!(
        "{}-{}",
        std::env::temp_dir()
            .join("cutover-bench-syscalls")
            .display(),
        std::process::id()
    );
    let load = Load {
        warm_up: Duration::ZERO,
        ..load_for(stage, shape, proxy)
    };
    // The pool of upstream connections is there before counting begins.
    let warm_up = Load {
        length: Duration::from_millis(300),
        ..load.clone()
    };
    load::run(&warm_up, |_| {})?;
    let mut counter = attach(&pids, &counts)?;
    let measured = load::run(&load, |_| {});
    stop(&mut counter)?;
    let requests = measured?.requests;
    let text = fs::read_to_string(&counts)?;
    fs::remove_file(&counts)?;
    parse(&text, requests)
}

fn attach(pids: &[String], counts: &str) -> Result<Child> {
    let mut events = vec!["raw_syscalls:sys_enter".to_owned()];
    events.extend(
        NAMED
            .iter()
            .map(|name| format!("syscalls:sys_enter_{name}")),
    );
    let mut perf = Command::new("perf")
        .args([
            "stat",
            "-x",
            ",",
            "-o",
            counts,
            "-e",
            &events.join(","),
            "-p",
            &pids.join(","),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("perf counts the calls (Debian: apt install linux-perf), but: {e}"))?;
    // The counters are open well within this; perf has no way to say so.
    thread::sleep(Duration::from_millis(500));
    if perf.try_wait()?.is_none() {
        return Ok(perf);
    }
    Err("perf may not count system calls here (kernel.perf_event_paranoid, tracefs)".into())
}

fn stop(counter: &mut Child) -> Result<()> {
    kill_process(Pid::from_child(counter), Signal::INT)?;
    let end = Instant::now() + Duration::from_secs(5);
    while counter.try_wait()?.is_none() {
        if Instant::now() > end {
            counter.kill()?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Total and named calls per request from `perf stat -x ,`.
fn parse(text: &str, requests: u64) -> Result<(f64, String)> {
    let (mut total, mut rest, mut named) = (None, 0.0, Vec::new());
    for line in text.lines() {
        let mut fields = line.split(',');
        let (Some(count), Some(event)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        let Ok(count) = count.parse::<f64>() else {
            continue;
        };
        let each = count / requests as f64;
        if event == "raw_syscalls:sys_enter" {
            total = Some(each);
            rest += each;
            continue;
        }
        rest -= each;
        if let Some(name) = event.strip_prefix("syscalls:sys_enter_")
            && each >= 0.005
        {
            named.push(format!("{name} {each:.2}"));
        }
    }
    let total = total.ok_or("perf counted nothing")?;
    if rest >= 0.005 {
        named.push(format!("others {rest:.2}"));
    }
    Ok((total, named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_become_calls_per_request() {
        let text = "# started\n\n400,,raw_syscalls:sys_enter,1,100.00,,\n200,,syscalls:sys_enter_read,1,100.00,,\n0,,syscalls:sys_enter_futex,1,100.00,,\n";
        let (total, named) = parse(text, 100).unwrap();
        assert_eq!((total, named.as_str()), (4.0, "read 2.00, others 2.00"));
        assert!(parse("<not counted>,,raw_syscalls:sys_enter", 1).is_err());
    }
}
